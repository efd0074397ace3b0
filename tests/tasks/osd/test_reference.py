"""Against independent implementations: the published update by autograd, the packages of the peers, torch's rules."""

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from decathlon.tasks.osd import Apollo, Fira, FullRank, GaLore, OnlineSubspaceDescent, low_rank_groups
from decathlon.tasks.osd.optimizers import quantised
from tests.tasks.osd.helpers import batch, follow, gradients, llama, relative, train, weight


class Published:
    """The released ``continuous`` optimizer as it is described: n x n matrices through autograd, torch's AdamW on P."""

    def __init__(self, params: list[Tensor], rank: int, lr: float, scale: float, gap: int) -> None:
        self.params, self.rank, self.lr, self.scale, self.gap = params, rank, lr, scale, gap
        self.states: dict[Tensor, dict[str, Any]] = {}

    def step(self, factor: float) -> None:
        for p in self.params:
            assert p.grad is not None
            self._step(p, p.grad, factor)

    def _step(self, p: Tensor, grad: Tensor, factor: float) -> None:
        right = p.shape[0] >= p.shape[1]
        state = self.states.setdefault(p, {"step": 0})
        if state["step"] == 0:
            u, _, vh = torch.linalg.svd(grad, full_matrices=False)
            start = vh[: self.rank] if right else u[:, : self.rank]
            state["p"] = torch.nn.Parameter(start.clone())
            state["optimizer"] = torch.optim.AdamW([state["p"]], lr=1 / self.gap)
        else:
            q, normal = state["p"], grad / torch.norm(grad)
            back = normal @ q.t() @ q if right else q @ q.t() @ normal
            q.grad = torch.autograd.grad((back - normal).square().sum(), q)[0]
        with torch.no_grad():
            q = state["p"]
            low = grad @ q.t() if right else q.t() @ grad
            if state["step"] == 0:
                state["m"], state["v"] = torch.zeros_like(low), torch.zeros_like(low)
            state["step"] += 1
            t = state["step"]
            state["m"] = 0.9 * state["m"] + 0.1 * low
            state["v"] = 0.999 * state["v"] + 0.001 * low * low
            size = self.lr * factor * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
            norm_grad = state["m"] / (state["v"].sqrt() + 1e-6)
            p -= size * self.scale * (norm_grad @ q if right else q @ norm_grad)
            if t > 1:
                for group in state["optimizer"].param_groups:
                    group["lr"] = factor / self.gap
                state["optimizer"].step()


def warmed(step: int) -> float:
    return min(1.0, step / 6) * (1 - step / 120)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_official_variant_is_the_published_update(dtype: torch.dtype) -> None:
    shapes, steps = [(12, 20), (20, 12), (14, 14)], 60
    start = [weight(*shape, torch.float64, seed).to(dtype) for seed, shape in enumerate(shapes)]
    series = [gradients(*shape, steps, dtype, seed) for seed, shape in enumerate(shapes)]
    mine, theirs = ([torch.nn.Parameter(w.detach().clone()) for w in start] for _ in range(2))
    ours = OnlineSubspaceDescent([{"params": mine, "rank": 5}], lr=0.01, variant="official")
    published = Published(theirs, 5, 0.01, 0.25, 200)
    for step in range(steps):
        for group in ours.param_groups:
            group["lr"] = 0.01 * warmed(step)
        for a, b, given in zip(mine, theirs, series):
            a.grad, b.grad = given[step].clone(), given[step].clone()
        ours.step()
        published.step(warmed(step))
        for a, b, w in zip(mine, theirs, start):
            if not torch.equal(b, w):
                assert relative(a, b) < 1e-5
    for a, b in zip(mine, theirs):
        assert relative(ours.state[a]["projection"], published.states[b]["p"].T
                        if a.shape[0] >= a.shape[1] else published.states[b]["p"]) < 1e-4  # fmt: skip


def test_official_variant_trains_a_language_model_like_the_published_update() -> None:
    losses = []
    for published in (False, True):
        model = llama(seed=3)
        groups = low_rank_groups(model, rank=8)
        hidden = [p for _, p in groups[0]["params"]]
        if published:
            low, rest = Published(hidden, 8, 0.01, 0.25, 200), FullRank([groups[1]], lr=0.01)
        else:
            low, rest = None, OnlineSubspaceDescent(groups, lr=0.01, variant="official")
        seen = []
        for step in range(60):
            ids = batch(step)
            model.zero_grad()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            for group in rest.param_groups:
                group["lr"] = 0.01 * warmed(step)
            if low is not None:
                low.step(warmed(step))
            rest.step()
            seen.append(float(loss.detach()))
        losses.append(torch.tensor(seen))
    assert losses[0][-1] < 0.5 * losses[0][0]
    # Float32 and sixty steps of a training: rounding grows, and the curves stay together.
    assert (losses[0] - losses[1]).abs().max() < 2e-3 * losses[0][0]


def galore_torch() -> Any:
    pytest.importorskip("galore_torch")
    from galore_torch import GaLoreAdamW

    return GaLoreAdamW


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize(("gap", "steps"), [(10**9, 20), (7, 20)])
def test_galore_against_its_package(shape: tuple[int, int], gap: int, steps: int) -> None:
    package = galore_torch()
    start, given = weight(*shape, torch.float32), gradients(*shape, steps, torch.float32)
    path = follow(partial(GaLore, lr=0.01, gap=gap), start, given, rank=6)[0]

    def theirs(groups: Any) -> torch.optim.Optimizer:
        more = {"rank": 6, "update_proj_gap": gap, "scale": 0.25, "proj_type": "std"}
        return package(
            [{"params": groups[0]["params"], **more}], lr=0.01, weight_decay=0.0, no_deprecation_warning=True
        )

    reference = follow(theirs, start, given)[0]
    change = [relative(a - start.detach(), b - start.detach()) for a, b in zip(path, reference)]
    assert max(change) < 1e-4 and relative(path[-1], reference[-1]) < 1e-5
    if gap > steps:
        still = follow(partial(OnlineSubspaceDescent, lr=0.01, alpha=0.0), start, given, rank=6)[0]
        assert relative(still[-1], reference[-1]) < 1e-5


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_full_rank_adam_is_torchs(decay: float) -> None:
    start, given = weight(10, 16), gradients(10, 16, 20)
    ours = follow(partial(FullRank, lr=0.01, eps=1e-14, weight_decay=decay), start, given, rank=None)[0]
    theirs = follow(
        lambda groups: torch.optim.AdamW(groups[0]["params"], lr=0.01, eps=1e-14, weight_decay=decay), start, given
    )[0]
    assert relative(ours[-1], theirs[-1]) < 1e-9


@pytest.mark.parametrize("shape", [(10, 16), (7,)])
def test_adafactor_is_that_of_transformers(shape: tuple[int, ...]) -> None:
    from transformers.optimization import Adafactor

    start = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    given = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(15)]
    ours = follow(partial(FullRank, lr=0.01, inner="adafactor"), start, given, rank=None)[0]
    theirs = follow(
        lambda groups: Adafactor(groups[0]["params"], lr=0.01, relative_step=False, scale_parameter=False), start, given
    )[0]
    assert relative(ours[-1], theirs[-1]) < 1e-5


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_are_within_a_step_of_the_grid(signed: bool) -> None:
    values = (
        torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(5000).div(1000).floor()
    )
    values = values if signed else values.abs()
    codes, scale = quantised.quantise(values, signed)
    assert codes.dtype == torch.uint8 and codes.numel() == 5000 and scale.numel() == 20
    back = quantised.dequantise(codes, scale, signed, values.shape)
    largest = torch.nn.functional.pad(values.abs(), (0, 120)).view(20, 256).amax(1).repeat_interleave(256)[:5000]
    assert ((back - values).abs() <= 0.012 * largest).all()
    zero = torch.zeros(300)
    assert torch.equal(quantised.dequantise(*quantised.quantise(zero, signed), signed, zero.shape), zero)


@pytest.mark.parametrize("signed", [True, False])
def test_the_grid_is_that_of_bitsandbytes(signed: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    theirs = functional.create_dynamic_map(signed=signed)
    assert torch.allclose(quantised.grid(signed), theirs.cpu().float(), atol=1e-7)


def test_eight_bit_adam_stays_near_adam_and_takes_a_quarter() -> None:
    from decathlon.tasks.osd.measures import state_bytes

    start, given = weight(80, 120, torch.float32), gradients(80, 120, 30, torch.float32)
    full, one, p = follow(partial(FullRank, lr=0.01), start, given, rank=None)
    eight, other, q = follow(partial(FullRank, lr=0.01, inner="adam8bit", eps=1e-6), start, given, rank=None)
    assert relative(eight[-1] - start.detach(), full[-1] - start.detach()) < 0.1
    assert state_bytes(other, [q]) == 2 * (80 * 120 + 4 * -(-80 * 120 // 256)) < 0.26 * state_bytes(one, [p])


def test_fira_at_full_rank_is_galore_and_below_it_uses_all_of_the_gradient() -> None:
    start, given = weight(10, 16), gradients(10, 16, 6)
    square = [follow(partial(kind, lr=0.01, gap=3), start, given, rank=10)[0][-1] for kind in (Fira, GaLore)]
    assert relative(square[0], square[1]) < 1e-12
    low = [follow(partial(kind, lr=0.01, gap=None), start, given, rank=3)[0][-1] - start for kind in (Fira, GaLore)]
    ranks = [int(torch.linalg.matrix_rank(change.detach(), rtol=1e-9)) for change in low]
    assert ranks == [10, 3]


@pytest.mark.parametrize(("per", "rank"), [("column", 4), ("tensor", 1)])
def test_apollo_scales_the_gradient(per: str, rank: int) -> None:
    start, given = weight(10, 16), gradients(10, 16, 1)
    path, optimizer, p = follow(partial(Apollo, lr=0.01, per=per, eps=0.0), start, given, rank=rank)
    change = start.detach() - path[0]
    factors = change / (0.01 * given[0])
    assert torch.allclose(factors, factors[:1].expand_as(factors), rtol=1e-9)  # one factor for each column
    projected = optimizer.state[p]["projection"].T @ given[0]
    # After the first step Adam's direction is the sign.
    expected = rank**0.5 / projected.norm(dim=0) if per == "column" else 4 / projected.norm()
    assert torch.allclose(factors[0], expected.expand(16), rtol=1e-6)


def test_updates_of_apollo_and_fira_grow_slowly() -> None:
    start = weight(10, 16)
    given = [g * 10**step for step, g in enumerate(gradients(10, 16, 4))]
    path = [start.detach(), *follow(partial(Apollo, lr=0.01, inner="sgd"), start, given)[0]]
    sizes = [float((b - a).norm()) for a, b in itertools.pairwise(path)]
    assert all(b <= 1.011 * a for a, b in itertools.pairwise(sizes))


def test_the_methods_train() -> None:
    for make in (
        partial(OnlineSubspaceDescent, lr=0.01), partial(OnlineSubspaceDescent, lr=0.01, inner="adam8bit"),
        partial(GaLore, lr=0.01, gap=20, refresh="eigh"), partial(GaLore, lr=0.01, gap=20, refresh="qr"),
        partial(Fira, lr=0.01, gap=20, refresh="randomized"), partial(Apollo, lr=0.01),
    ):  # fmt: skip
        model = llama()
        losses = train(model, make(low_rank_groups(model, rank=8)), range(30))
        assert losses[-1] < 0.9 * losses[0], make
