"""What must be true of whole trajectories: scale, transposition, rotation, and the limits in which methods agree."""

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor

from decathlon.randomness import generator
from decathlon.tasks.osd import FullRank, GaLore, OnlineSubspaceDescent
from decathlon.tasks.osd.measures import state_bytes
from decathlon.tasks.osd.subspaces import random_subspace
from tests.tasks.osd.helpers import follow, gradients, relative, weight

STEPS = 12


def projection_of(optimizer: torch.optim.Optimizer, p: Tensor) -> Tensor:
    return optimizer.state[p]["projection"]


@pytest.mark.parametrize("factor", [1e-12, 0.37, 1e12])
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_the_scale_of_gradients_does_not_matter(factor: float, variant: str) -> None:
    start, given = weight(10, 16), gradients(10, 16, STEPS)
    make = partial(OnlineSubspaceDescent, lr=0.01, variant=variant, eps=0.0)
    path, optimizer, p = follow(make, start, given)
    scaled, other, q = follow(make, start, [factor * g for g in given])
    assert relative(projection_of(other, q), projection_of(optimizer, p)) < 1e-10
    assert relative(scaled[-1], path[-1]) < 1e-10


@pytest.mark.parametrize("inner", ["adam", "lion", "adafactor", "momentum"])
def test_transposed_weights_go_the_transposed_way(inner: str) -> None:
    start, given = weight(10, 16), gradients(10, 16, STEPS)
    make = partial(OnlineSubspaceDescent, lr=0.01, inner=inner)
    path = follow(make, start, given)[0]
    turned = follow(make, start.detach().T.contiguous(), [g.T.contiguous() for g in given])[0]
    assert relative(turned[-1].T, path[-1]) < 1e-10


def test_rotations_commute_with_sgd_on_the_projection_and_not_with_adam() -> None:
    start, given = weight(10, 16), gradients(10, 16, STEPS)
    rotation = random_subspace(10, 10, ("rotation",))

    def difference(how: str) -> float:
        make = partial(OnlineSubspaceDescent, lr=0.02, p_optimizer=how)
        path = follow(make, start, given)[0]
        turned = follow(make, rotation @ start, [rotation @ g for g in given])[0]
        return relative(rotation.T @ turned[-1], path[-1])

    assert difference("sgd") < 1e-9
    assert difference("adam") > 1e-6


@pytest.mark.parametrize("shape", [(10, 16), (16, 10), (12, 12)])
def test_without_a_rate_of_its_own_the_subspace_is_galores_first(shape: tuple[int, int]) -> None:
    start, given = weight(*shape), gradients(*shape, STEPS)
    path = follow(partial(OnlineSubspaceDescent, lr=0.01, alpha=0.0), start, given)[0]
    static = follow(partial(GaLore, lr=0.01, gap=None), start, given)[0]
    assert all(torch.equal(a, b) for a, b in zip(path, static))


@pytest.mark.parametrize("rank", [10, 99])
def test_a_fixed_identity_at_full_rank_is_plain_adam(rank: int) -> None:
    start, given = weight(10, 16), gradients(10, 16, STEPS)

    def identity(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
        p.grad = torch.zeros_like(p)
        optimizer.step()  # makes the state; a zero gradient moves nothing
        optimizer.state[p]["step"] = 0
        optimizer.state[p]["projection"].copy_(torch.eye(10))

    make = partial(OnlineSubspaceDescent, lr=0.01, alpha=0.0, scale=1.0, eps=1e-12)
    path = follow(make, start, given, rank=rank, prepare=identity)[0]
    plain = follow(lambda groups: torch.optim.Adam(groups[0]["params"], lr=0.01, eps=1e-12), start, given)[0]
    whole = follow(partial(FullRank, lr=0.01, eps=1e-12), start, given, rank=None)[0]
    assert relative(path[-1], plain[-1]) < 1e-9
    assert relative(whole[-1], plain[-1]) < 1e-9


def test_a_static_subspace_is_never_left_and_a_moving_one_is() -> None:
    start, given = weight(10, 16), gradients(10, 16, 50)
    path, optimizer, p = follow(partial(GaLore, lr=0.01, gap=None), start, given)
    basis = projection_of(optimizer, p)
    change = path[-1] - start.detach()
    assert relative(basis @ (basis.T @ change), change) < 1e-12
    path = follow(partial(OnlineSubspaceDescent, lr=0.01, alpha=5.0), start, given)[0]
    assert torch.linalg.matrix_rank(path[-1] - start.detach(), rtol=1e-8) > 4


@pytest.mark.parametrize("how", ["adam", "sgd", "lion", "adafactor"])
def test_a_zero_gradient_moves_no_projection(how: str) -> None:
    start, given = weight(10, 16), gradients(10, 16, 3)
    _, optimizer, p = follow(partial(OnlineSubspaceDescent, lr=0.01, p_optimizer=how), start, given)
    before = projection_of(optimizer, p).clone()
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(projection_of(optimizer, p), before)
    assert torch.isfinite(p).all() and optimizer.state[p]["p_step"] == 2


def test_a_zero_first_gradient_begins_with_a_random_subspace() -> None:
    path, _, p = follow(partial(OnlineSubspaceDescent, lr=0.01), weight(10, 16), [torch.zeros(10, 16).double()])
    assert torch.equal(path[0], weight(10, 16).detach()) and torch.isfinite(p).all()


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (partial(OnlineSubspaceDescent, p_optimizer="adam"), lambda n, m, k: 3 * n * k + 2 * k * m),
        (partial(OnlineSubspaceDescent, p_optimizer="sgd"), lambda n, m, k: n * k + 2 * k * m),
        (partial(OnlineSubspaceDescent, inner="lion", p_optimizer="lion"), lambda n, m, k: 2 * n * k + k * m),
        (partial(GaLore, gap=2), lambda n, m, k: n * k + 2 * k * m),
    ],
)
@pytest.mark.parametrize("shape", [(20, 48), (48, 20), (20, 20)])
def test_state_bytes_are_those_of_the_formulas(make: partial, count: object, shape: tuple[int, int]) -> None:
    start, given = weight(*shape, torch.float32), gradients(*shape, 3, torch.float32)
    _, optimizer, p = follow(make, start, given)
    assert state_bytes(optimizer, [p]) == 4 * count(min(shape), max(shape), 4)  # type: ignore[operator]
    _, whole, q = follow(FullRank, start, given, rank=None)
    assert state_bytes(whole, [q]) == 8 * shape[0] * shape[1]


def test_lions_sign_taken_after_lifting_knows_no_scale() -> None:
    start, given = weight(10, 16), gradients(10, 16, 1)

    def change(sign: str, scale: float) -> Tensor:
        make = partial(OnlineSubspaceDescent, lr=1e-3, inner="lion", lion_sign=sign, scale=scale)
        return follow(make, start, given)[0][0] - start.detach()

    assert torch.equal(change("lifted", 0.25), change("lifted", 1.0))
    assert relative(4 * change("subspace", 0.25), change("subspace", 1.0)) < 1e-9
    assert torch.allclose(change("lifted", 1.0).abs(), torch.full((), 1e-3, dtype=torch.float64))


def test_the_moment_follows_the_projection_where_asked() -> None:
    start, given = weight(10, 16), gradients(10, 16, 3)
    _, plain, p = follow(partial(OnlineSubspaceDescent, lr=0.01), start, given[:2])
    old = plain.state[p]["projection"].clone()
    _, turning, q = follow(partial(OnlineSubspaceDescent, lr=0.01, reproject_moments=True), start, given[:1])
    before = turning.state[q]["projection"].clone()
    q.grad = given[1].clone()
    turning.step()
    after = turning.state[q]["projection"]
    assert torch.equal(after, old)
    expected = after.T @ before @ plain.state[p]["exp_avg"]
    assert torch.allclose(turning.state[q]["exp_avg"], expected, rtol=0, atol=1e-14)


def test_the_projection_moves_at_every_so_many_th_step() -> None:
    given = gradients(10, 16, 7)
    start = weight(10, 16)
    seen = []
    p = torch.nn.Parameter(start.detach().clone())
    optimizer = OnlineSubspaceDescent([{"params": [p], "rank": 4}], update_every=3)
    for gradient in given:
        p.grad = gradient
        optimizer.step()
        seen.append(optimizer.state[p]["projection"].clone())
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert moved == [False, False, True, False, False, True]


@pytest.mark.parametrize("n", [8, 512])
def test_alpha_may_be_scaled_by_the_width(n: int) -> None:
    p = torch.nn.Parameter(torch.zeros(n, n + 1))
    optimizer = OnlineSubspaceDescent([{"params": [p], "rank": 2}], lr=0.01, alpha_scaling="rsqrt_n")
    assert optimizer.p_lr(optimizer.param_groups[0], n) == pytest.approx(0.05 * (512 / n) ** 0.5)


def test_rates_of_the_projection() -> None:
    p = torch.nn.Parameter(torch.zeros(8, 9))
    for variant, first, half in [("paper", 0.05, 0.025), ("official", 0.005, 0.0025)]:
        optimizer = OnlineSubspaceDescent([{"params": [p], "rank": 2}], lr=0.01, variant=variant)
        group = optimizer.param_groups[0]
        assert optimizer.p_lr(group, 8) == pytest.approx(first)
        group["lr"] = 0.005
        assert optimizer.p_lr(group, 8) == pytest.approx(half)


def test_a_schedule_keeps_the_ratio_of_both_rates() -> None:
    from decathlon.schedules import schedule

    p = torch.nn.Parameter(torch.zeros(8, 9))
    for variant, ratio in [("paper", 5.0), ("official", 0.5)]:
        optimizer = OnlineSubspaceDescent([{"params": [p], "rank": 2}], lr=0.01, variant=variant)
        shape = schedule("cosine", 40, warmup=4, end=0.1, first=0)
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
        seen = []
        for _ in range(41):
            group = optimizer.param_groups[0]
            seen.append(group["lr"])
            assert optimizer.p_lr(group, 8) == pytest.approx(ratio * group["lr"])
            p.grad = torch.randn(8, 9, generator=generator("schedule"))
            optimizer.step()
            rates.step()
        assert seen[0] == 0 and seen[4] == pytest.approx(0.01) and seen[40] == pytest.approx(0.001)
