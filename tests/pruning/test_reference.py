"""The moving average: closed forms and identities."""

import pytest
import torch
from torch import Tensor, nn

from decathlon.pruning import EMA, Reference, mean_lag


def run(beta: float, steps: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """theta_0..theta_T of a random walk, and xi_T."""
    draw = torch.Generator().manual_seed(0)
    theta = torch.randn(7, 3, dtype=dtype, generator=draw)
    xi = theta.clone()
    path, average = [theta.clone()], EMA([xi], [theta], beta)
    for _ in range(steps):
        theta += 0.1 * torch.randn(7, 3, dtype=dtype, generator=draw)
        path.append(theta.clone())
        average.update()
    return path, xi


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("beta", [0.001, 0.5, 0.9, 0.99])
def test_closed_form_over_50_steps(beta: float, dtype: torch.dtype, error: float) -> None:
    """xi_T = beta^T xi_0 + (1 - beta) sum_j beta^(T - j) theta_j."""
    path, xi = run(beta, 50, dtype)
    closed = beta**50 * path[0].double() + (1 - beta) * sum(beta ** (50 - j) * path[j].double() for j in range(1, 51))
    assert float((xi.double() - closed).norm() / closed.norm()) < error


def test_beta_0_is_the_model_and_beta_1_the_start_exactly() -> None:
    """To the last bit."""
    path, xi = run(0.0, 20, torch.float32)
    assert torch.equal(xi, path[-1])
    path, xi = run(1.0, 20, torch.float32)
    assert torch.equal(xi, path[0])


def test_difference_under_sgd_is_a_sum_of_gradients() -> None:
    """theta_T - xi_T = -eta sum_j beta^(T - j) g_j, and the loss difference of a quadratic."""
    draw = torch.Generator().manual_seed(1)
    eta, beta, steps = 0.05, 0.7, 30
    root = torch.randn(5, 5, dtype=torch.float64, generator=draw)
    hessian, centre = root @ root.T, torch.randn(5, dtype=torch.float64, generator=draw)
    theta = torch.randn(5, dtype=torch.float64, generator=draw, requires_grad=True)
    xi = theta.detach().clone()
    average, optimizer = EMA([xi], [theta], beta), torch.optim.SGD([theta], lr=eta / hessian.trace().item())
    gradients = []

    def loss(point: Tensor) -> Tensor:
        return 0.5 * (point - centre) @ hessian @ (point - centre)

    for _ in range(steps):
        optimizer.zero_grad()
        loss(theta).backward()
        assert theta.grad is not None
        gradients.append(theta.grad.clone())
        optimizer.step()
        average.update()
    rate = optimizer.param_groups[0]["lr"]
    expected = -rate * sum(beta ** (steps - j) * gradients[j] for j in range(steps))
    difference = theta.detach() - xi
    assert float((difference - expected).abs().max()) < 1e-12
    slope = hessian @ (theta.detach() - centre)
    change = slope @ difference - 0.5 * difference @ hessian @ difference
    assert abs(float(loss(theta.detach()) - loss(xi) - change)) < 1e-10


def test_a_reference_is_a_copy_without_gradients() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    reference = Reference(module, beta=0.5)
    x = torch.randn(8, 3)
    assert not reference(x).requires_grad
    assert all(not p.requires_grad for p in reference.parameters())
    assert {id(p) for p in reference.parameters()}.isdisjoint(id(p) for p in module.parameters())
    assert set(reference.state_dict()) == {f"module.{name}" for name in module.state_dict()}
    with torch.no_grad():
        for p in module.parameters():
            p += 1
    before = [p.clone() for p in reference.parameters()]
    reference.double()  # moving it replaces the storage of its parameters, not the parameters
    module.double()
    reference.update()
    assert all(torch.allclose(a, b.double() + 0.5) for a, b in zip(reference.parameters(), before, strict=True))


def test_buffers_follow_on_demand() -> None:
    """BatchNorm's statistics, without which an evaluation in eval mode would use those of the start."""
    module = nn.BatchNorm1d(4)
    kept, following = Reference(module, 0.9), Reference(module, 0.9, buffers=True)
    module(torch.randn(16, 4) * 3 + 2)
    kept.update()
    following.update()
    assert torch.equal(following.module.running_var, module.running_var)
    assert torch.equal(kept.module.running_var, torch.ones(4))


def test_lag_and_bad_shares() -> None:
    assert mean_lag(0.5) == 1 and mean_lag(0.99) == pytest.approx(99) and mean_lag(1.0) == float("inf")
    with pytest.raises(ValueError, match="beta="):
        EMA([], [], 1.5)
