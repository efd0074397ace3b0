"""Checkpoints, dtypes, updates inside the backward pass, several processes, and what is refused."""

import io
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from decathlon.tasks.osd import Apollo, Fira, FullRank, GaLore, OnlineSubspaceDescent, low_rank_groups
from decathlon.tasks.osd.measures import projections, state_bytes
from tests.tasks.osd.helpers import batch, gradients, llama, train, weight

Make = Callable[[Any], torch.optim.Optimizer]
KINDS: dict[str, Make] = {
    "adam": partial(OnlineSubspaceDescent, lr=0.01),
    "sgd": partial(OnlineSubspaceDescent, lr=0.01, p_optimizer="sgd"),
    "lion": partial(OnlineSubspaceDescent, lr=1e-3, inner="lion", p_optimizer="lion"),
    "adafactor": partial(OnlineSubspaceDescent, lr=0.01, inner="adafactor", p_optimizer="adafactor"),
    "8bit": partial(OnlineSubspaceDescent, lr=0.01, inner="adam8bit", p_optimizer="adam8bit"),
    "qr": partial(OnlineSubspaceDescent, lr=0.01, init="qr", update_every=2),
    "galore": partial(GaLore, lr=0.01, gap=3),
    "random": partial(GaLore, lr=0.01, gap=3, refresh="qr"),
    "fira": partial(Fira, lr=0.01, gap=3, refresh="randomized"),
    "apollo": partial(Apollo, lr=0.01, gap=3),
}


def parameters(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def saved_and_loaded(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("kind", "hooks"), [*((kind, False) for kind in KINDS), ("adam", True), ("sgd", True), ("lion", True)]
)
def test_ten_and_ten_steps_are_twenty(kind: str, hooks: bool) -> None:
    def start() -> tuple[Any, torch.optim.Optimizer]:
        model = llama()
        optimizer = KINDS[kind](low_rank_groups(model, rank=8))
        if hooks:
            optimizer.step_in_backward()  # type: ignore[attr-defined]
        return model, optimizer

    whole, optimizer = start()
    train(whole, optimizer, range(20))
    first, before = start()
    train(first, before, range(10))
    second, after = start()
    second.load_state_dict(first.state_dict())
    after.load_state_dict(saved_and_loaded(before))
    train(second, after, range(10, 20))
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(second)))


@pytest.mark.parametrize("kind", ["adam", "galore", "apollo"])
def test_updates_inside_the_backward_pass_are_those_of_the_plain_loop(kind: str) -> None:
    plain, inside = llama(), llama()
    train(plain, KINDS[kind](low_rank_groups(plain, rank=8)), range(8))
    optimizer = KINDS[kind](low_rank_groups(inside, rank=8))
    optimizer.step_in_backward()  # type: ignore[attr-defined]
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    train(inside, optimizer, range(8), rates)
    assert all(torch.equal(a, b) for a, b in zip(parameters(plain), parameters(inside)))
    assert all(p.grad is None for p in inside.parameters())


def test_accumulation_and_updates_inside_the_backward_pass_do_not_go_together() -> None:
    model = llama()
    optimizer = OnlineSubspaceDescent(low_rank_groups(model, rank=8))
    optimizer.step_in_backward()
    model(input_ids=batch(0), labels=batch(0)).loss.backward()
    with pytest.raises(RuntimeError, match="cannot be accumulated") as error:
        model(input_ids=batch(1), labels=batch(1)).loss.backward()
    assert "\n" not in str(error.value)
    optimizer.step()
    with pytest.raises(RuntimeError, match="without a backward pass"):
        optimizer.step()


def test_state_is_plain_and_single_precision_beside_half_precision_weights() -> None:
    model = llama().to(torch.bfloat16)
    optimizer = OnlineSubspaceDescent(low_rank_groups(model, rank=8))
    train(model, optimizer, range(5))
    for state in optimizer.state_dict()["state"].values():
        assert all(isinstance(value, (Tensor, int)) for value in state.values())
        assert all(value.dtype == torch.float32 for value in state.values() if isinstance(value, Tensor))
    again = OnlineSubspaceDescent(low_rank_groups(model, rank=8))
    again.load_state_dict(saved_and_loaded(optimizer))
    for p, projection in projections(again).items():
        assert projection.dtype == torch.float32 and torch.equal(projection, optimizer.state[p]["projection"])
        assert projection.data_ptr() != optimizer.state[p]["projection"].data_ptr()
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())


def test_moments_may_have_the_dtype_of_the_weight() -> None:
    model = llama().to(torch.bfloat16)
    optimizer = OnlineSubspaceDescent(low_rank_groups(model, rank=8), moments="weight")
    train(model, optimizer, range(3))
    for p, projection in projections(optimizer).items():
        state = optimizer.state[p]
        assert state["exp_avg"].dtype == torch.bfloat16
        assert projection.dtype == state["p_exp_avg"].dtype == torch.float32


def test_all_bytes_of_a_model_on_the_meta_device_are_those_of_a_real_one() -> None:
    from decathlon.language import new_llama

    for make in KINDS.values():
        real = llama()
        optimizer = make(low_rank_groups(real, rank=8))
        train(real, optimizer, range(1))
        with torch.device("meta"):
            model = new_llama(64, width=32, layers=2, heads=2, inner=88)
        counted = make(low_rank_groups(model, rank=8))
        counted.allocate()  # type: ignore[attr-defined]
        # What grows with the number of steps (a norm, 4 bytes) aside.
        assert state_bytes(counted) == state_bytes(optimizer)
    with pytest.raises(ValueError, match="not on the meta device"):
        OnlineSubspaceDescent(low_rank_groups(real, rank=8)).allocate()


def test_what_is_not_finite_moves_nothing() -> None:
    p, q = weight(4, 6), nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = OnlineSubspaceDescent([{"params": [("hidden", p)], "rank": 2}, {"params": [("norm", q)]}])
    p.grad, q.grad = gradients(4, 6, 1)[0], torch.tensor([1.0, float("nan"), 1.0], dtype=torch.float64)
    before = p.detach().clone()
    with pytest.raises(FloatingPointError, match="the gradient of norm is not finite") as error:
        optimizer.step()
    assert "\n" not in str(error.value) and torch.equal(p, before) and not optimizer.state
    tiny = 1e-30 * torch.ones(3, dtype=torch.float32)  # its square is no number of single precision
    r = nn.Parameter(torch.zeros(2, 3))
    optimizer = OnlineSubspaceDescent([{"params": [r], "rank": 1}])
    for _ in range(3):
        r.grad = tiny.expand(2, 3).clone() * torch.tensor([[1.0], [2.0]])
        optimizer.step()
    assert optimizer.state[r]["p_step"] == 2 and torch.isfinite(optimizer.state[r]["projection"]).all()


def a(shape: tuple[int, ...], **options: Any) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, **options))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: OnlineSubspaceDescent([{"params": [a((4, 6))], "rank": 0}]), "rank=0 must be at least 1"),
        (lambda: OnlineSubspaceDescent([{"params": [a((4, 6))], "rank": 2.5}]), "rank=2.5 is no whole number"),
        (lambda: OnlineSubspaceDescent([{"params": [a((4,))], "rank": 2}]), "only matrices can be projected"),
        (lambda: OnlineSubspaceDescent([{"params": [a((4, 3, 2))], "rank": 2}]), "only matrices can be projected"),
        (lambda: OnlineSubspaceDescent([{"params": [a((0, 3))], "rank": 2}]), "only matrices can be projected"),
        (lambda: OnlineSubspaceDescent([{"params": [a((4, 6), dtype=torch.cfloat)], "rank": 2}]), "floating-point"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], alpha=-1), "alpha=-1 must be"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], lr=-0.1), "lr=-0.1 must be"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], lr=float("nan")), "lr=nan must be"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], lam=-1), "lam=-1 must be"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], betas=(0.9, 1.0)), "betas="),
        (lambda: OnlineSubspaceDescent([a((4, 6))], variant="v2"), "variant=v2 is unknown; choose paper, official"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], inner="adamw"), "inner=adamw is unknown; choose adam, "),
        (lambda: OnlineSubspaceDescent([a((4, 6))], p_optimizer="x"), "p_optimizer=x is unknown; choose adam, "),
        (lambda: OnlineSubspaceDescent([a((4, 6))], init="pca"), "init=pca is unknown; choose svd, "),
        (lambda: OnlineSubspaceDescent([a((4, 6))], lion_sign="x"), "lion_sign=x is unknown"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], alpha_scaling="x"), "alpha_scaling=x is unknown"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], update_every=0), "update_every=0 must be at least 1"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], moments="half"), "moments=half is unknown"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], inner="sgd", reproject_moments=True), "reproject_moments needs"),
        (lambda: OnlineSubspaceDescent([a((4, 6))], lr=0.0, variant="official"), "positive lr"),
        (lambda: FullRank([a((4, 6), dtype=torch.half)], moments="weight"), "no float16 numbers"),
        (lambda: GaLore([a((4, 6))], gap=0), "gap=0 must be"),
        (lambda: GaLore([a((4, 6))], refresh="x"), "refresh=x is unknown"),
        (lambda: Apollo([a((4, 6))], per="row"), "per=row is unknown"),
        (lambda: FullRank([{"params": [a((4, 6))], "rank": 2}]), "projects nothing"),
        (lambda: low_rank_groups(nn.Sequential(nn.Linear(2, 2))), "no trainable linear map's name matches"),
        (lambda: low_rank_groups(nn.ModuleDict({"mlp": nn.Linear(2, 2)}), rank=0), "rank=0"),
        (lambda: low_rank_groups(nn.ModuleDict({"mlp": nn.Linear(2, 2)}), match="("), "no regular expression"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert says in str(error.value) and "\n" not in str(error.value)


def test_sparse_gradients_are_refused() -> None:
    p = a((4, 6))
    optimizer = OnlineSubspaceDescent([{"params": [p], "rank": 2}])
    p.grad = torch.eye(4, 6).to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()


def test_numpy_numbers_frozen_and_missing_gradients_pass() -> None:
    model = llama()
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    optimizer = OnlineSubspaceDescent(
        low_rank_groups(model, rank=np.int64(8)), lr=np.float32(0.01), alpha=np.float64(5)
    )  # type: ignore[arg-type]
    assert len(optimizer.param_groups[0]["params"]) == 13
    optimizer.step()  # no gradient anywhere: nothing moves
    assert not optimizer.state
    train(model, optimizer, range(2))
    assert saved_and_loaded(optimizer)["state"]


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(llama())
    optimizer = OnlineSubspaceDescent(low_rank_groups(model, rank=8), lr=0.01)
    for step in range(8):
        ids = batch(step)[rank : rank + 1]
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    try:
        optimizer.step_in_backward()
        refused = ""
    except RuntimeError as error:
        refused = str(error)
    found = [state["projection"] for state in optimizer.state.values() if "projection" in state]
    torch.save([refused, found, [p.detach() for p in model.parameters()]], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_one_projection(tmp_path: Path) -> None:
    mp.spawn(_rank, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert len(one[1]) == 14 and all(torch.equal(a, b) for a, b in zip(one[1], other[1]))
    assert all(torch.equal(a, b) for a, b in zip(one[2], other[2]))
    assert "one process only" in one[0]
    single = llama()
    train(single, OnlineSubspaceDescent(low_rank_groups(single, rank=8), lr=0.01), range(8))
    for a_weight, b_weight in zip(one[2], single.parameters()):
        assert torch.allclose(a_weight, b_weight, atol=2e-3)


class NewTensors(TorchDispatchMode):
    """Notes the shapes of tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {one.untyped_storage()._cdata for one in args if isinstance(one, Tensor)}
        if isinstance(out, Tensor) and out.untyped_storage()._cdata not in given:
            self.shapes.add(tuple(out.shape))
        return out


@pytest.mark.parametrize("shape", [(20, 48), (48, 20), (20, 20)])
def test_a_step_makes_no_square_and_no_whole_matrix(shape: tuple[int, int]) -> None:
    p = weight(*shape, torch.float32)
    optimizer = OnlineSubspaceDescent([{"params": [p], "rank": 4}])
    for index, gradient in enumerate(gradients(*shape, 3, torch.float32)):
        p.grad = gradient
        with NewTensors() if index else nullcontext(NewTensors()) as seen:
            optimizer.step()
        assert all(min(made, default=0) <= 4 for made in seen.shapes)
    assert (4, max(shape)) in seen.shapes
