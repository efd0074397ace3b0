"""The square-root rule: optimal, homogeneous, and never above any other division."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from decathlon.tasks.cave import allocate

GENERATOR = torch.Generator().manual_seed(0)


def instance(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    work = 0.1 + torch.rand(*shape, generator=GENERATOR, dtype=torch.float64)
    weight = 0.5 + torch.rand(*shape, generator=GENERATOR, dtype=torch.float64)
    return work, weight


def value(work: torch.Tensor, weight: torch.Tensor, shares: torch.Tensor, speed: float = 3.0) -> torch.Tensor:
    return (weight * work / (shares * speed)).sum(-1)


def test_shares_sum_to_one_and_reach_the_closed_form() -> None:
    work, weight = instance(50, 7)
    shares = allocate(work, weight)
    torch.testing.assert_close(shares.sum(-1), torch.ones(50, dtype=torch.float64), rtol=1e-12, atol=0)
    assert (shares > 0).all()
    torch.testing.assert_close(value(work, weight, shares), (work * weight).sqrt().sum(-1) ** 2 / 3.0)
    torch.testing.assert_close(allocate(torch.ones(4)), torch.full((4,), 0.25))
    torch.testing.assert_close(allocate(7 * work, weight), shares)


def test_kkt_conditions_hold() -> None:
    work, weight = instance(50, 7)
    shares = allocate(work, weight)
    marginal = weight * work / (shares**2 * 3.0)
    torch.testing.assert_close(marginal, marginal[:, :1].expand_as(marginal), rtol=1e-9, atol=0)


def test_no_numerical_optimiser_finds_better_shares() -> None:
    for lower in (None, 0.12):
        work, weight = instance(5)
        shares = allocate(work, weight, lower=lower)
        floor = 1e-3 if lower is None else lower
        amount = (weight * work).numpy()
        found = minimize(
            lambda y, amount: float((amount / (3.0 * y)).sum()), np.full(5, 0.2), args=(amount,), method="SLSQP",
            bounds=[(floor, 1.0)] * 5, constraints={"type": "eq", "fun": lambda y: y.sum() - 1},
            options={"ftol": 1e-13},
        )  # fmt: skip
        assert float(value(work, weight, shares)) <= found.fun * (1 + 1e-6)
        np.testing.assert_allclose(shares.numpy(), found.x, rtol=2e-3)


def test_lower_bounds_are_kept_with_complementary_slackness() -> None:
    work, weight = instance(200, 6)
    lower = 0.25 * torch.rand(200, 6, generator=GENERATOR, dtype=torch.float64)
    shares = allocate(work, weight, lower=lower)
    fits = lower.sum(-1) <= 1
    assert (shares[fits] >= lower[fits] - 1e-12).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(200, dtype=torch.float64))
    marginal = weight * work / shares**2
    free = shares > lower + 1e-9
    nu = torch.where(free, marginal, 0).amax(-1, keepdim=True)
    assert torch.allclose(torch.where(free, marginal / nu, 1.0)[fits], torch.ones(()).double(), rtol=1e-6)
    held = ~free & fits[:, None] & (nu > 0)
    assert (marginal[held] <= (nu.expand_as(marginal)[held]) * (1 + 1e-9)).all()
    torch.testing.assert_close(shares[~fits], (lower / lower.sum(-1, keepdim=True))[~fits])


def test_equal_and_proportional_shares_cost_the_same_and_never_less() -> None:
    work, _ = instance(100, 6)
    one = torch.ones_like(work)
    best = value(work, one, allocate(work))
    equal, proportional = value(work, one, one / 6), value(work, one, work / work.sum(-1, keepdim=True))
    torch.testing.assert_close(equal, proportional, rtol=1e-9, atol=0)
    torch.testing.assert_close(equal, 6 * work.sum(-1) / 3.0)
    assert (best <= equal * (1 + 1e-12)).all()
    assert (best < equal * (1 - 1e-6)).all()
    same = torch.full((3, 5), 0.7, dtype=torch.float64)
    torch.testing.assert_close(value(same, 1.0, allocate(same)), 5 * same.sum(-1) / 3.0, rtol=1e-9, atol=0)


def test_inactive_replicas_and_those_without_work_get_nothing() -> None:
    active = torch.tensor([True, True, False])
    assert allocate(torch.tensor([1.0, 4.0, float("nan")]), 1.0, active).tolist() == pytest.approx([1 / 3, 2 / 3, 0])
    assert allocate(torch.zeros(3)).tolist() == [0, 0, 0]
    assert allocate(torch.ones(3), 1.0, torch.zeros(3, dtype=torch.bool)).tolist() == [0, 0, 0]
    assert allocate(torch.zeros(2, 0)).shape == (2, 0)


def test_types_that_people_pass() -> None:
    assert allocate(np.array([1.0, 4.0], dtype=np.float32), np.float64(2.0)).dtype == torch.float32
    assert allocate([1, 4]).tolist() == pytest.approx([1 / 3, 2 / 3])
    assert allocate(torch.tensor([1.0, 4.0], dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert not allocate(torch.ones(2, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, float("nan")],), "work must be finite"),
        (([1.0, -1.0],), "work must be finite and not negative"),
        (([1.0, 1.0], 0.0), "weight must be finite and positive"),
        (([1.0, 1.0], 1.0, [1, 0]), "active must be bool"),
        (([1.0, 1.0], [1.0, 1.0, 1.0]), "do not go together"),
        (([1.0, 1.0], 1.0, None, 2.0), "lower must lie between 0 and 1"),
        ((3.0,), "one dimension"),
    ],
)
def test_what_cannot_be_right_is_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        allocate(*arguments)
    assert "\n" not in str(caught.value)
