"""The loss of online PCA and its gradient in closed form; where it leads on a fixed gradient."""

import pytest
import torch
from torch import Tensor

from decathlon.randomness import generator
from decathlon.tasks.osd import OnlineSubspaceDescent, pca_gradient, pca_loss
from decathlon.tasks.osd.measures import orthonormality_error, overlap
from decathlon.tasks.osd.optimizers.rules import rule
from decathlon.tasks.osd.subspaces import random_subspace, subspace


def by_autograd(projection: Tensor, gradient: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    p = projection.clone().requires_grad_()
    normal = gradient / gradient.norm()
    loss = (p @ p.T @ normal - normal).square().sum() + lam * (p.T @ p - torch.eye(p.shape[1]).to(p)).square().sum()
    return loss.detach(), torch.autograd.grad(loss, p)[0]


@pytest.mark.parametrize("shape", [(12, 30), (12, 12), (12, 1)])
@pytest.mark.parametrize("rank", [1, 5, 12])
@pytest.mark.parametrize("lam", [0.0, 0.1, 1.0])
def test_closed_form_equals_autograd(shape: tuple[int, int], rank: int, lam: float) -> None:
    random = generator("pca", shape, rank)
    gradient = 1e3 * torch.randn(shape, generator=random, dtype=torch.float64)
    projection = torch.randn(12, rank, generator=random, dtype=torch.float64)
    loss, slope = by_autograd(projection, gradient, lam)
    assert (pca_gradient(projection, gradient, lam) - slope).abs().max() < 1e-12 * max(1.0, slope.abs().max())
    assert abs(pca_loss(projection, gradient, lam) - loss) < 1e-12 * max(1.0, float(loss))


def test_tall_gradients_are_those_of_the_transposed() -> None:
    gradient = torch.randn(30, 12, generator=generator("tall"), dtype=torch.float64)
    projection = torch.randn(12, 3, generator=generator("tall", 1), dtype=torch.float64)
    slope = by_autograd(projection, gradient.T, 0.1)[1]
    assert (pca_gradient(projection, gradient.T, 0.1) - slope).abs().max() < 1e-12


def test_a_zero_gradient_has_no_slope_and_no_loss() -> None:
    projection = torch.eye(4, 2)
    assert not pca_gradient(projection, torch.zeros(4, 6), 0.1).any()
    with pytest.raises(ValueError, match="zero gradient"):
        pca_loss(projection, torch.zeros(4, 6))


def fixed(values: Tensor, rows: int = 64, columns: int = 96) -> Tensor:
    """A gradient with the given singular values."""
    count = len(values)
    left, right = random_subspace(rows, count, ("left",)), random_subspace(columns, count, ("right",))
    return left * values @ right.T


def descend(gradient: Tensor, start: Tensor, how: str, lr: float, lam: float, steps: int, linear: bool = True,
            decay: float = 0.0) -> list[Tensor]:  # fmt: skip
    """P after each step on one gradient."""
    p, state, path = start.clone(), {}, []
    own = rule(how, None, 1e-8, **({"corrected": True} if how == "adam" else {}))
    own.start(state, "", p)
    for step in range(1, steps + 1):
        rate = lr * (1 - (step - 1) / steps) if linear else lr
        p = p * (1 - rate * decay) - rate * own.direction(state, "", pca_gradient(p, gradient, lam), step)
        path.append(p)
    return path


SPECTRUM = torch.cat([torch.linspace(3, 1.5, 8), torch.linspace(0.5, 0.05, 56)]).double()


@pytest.mark.parametrize("lam", [0.1, 0.0])
def test_adam_finds_the_leading_subspace_of_a_fixed_gradient(lam: float) -> None:
    gradient = fixed(SPECTRUM)
    leading = subspace("svd", gradient, 8, ())
    path = descend(gradient, random_subspace(64, 8, ("start", 0)), "adam", 0.005, lam, 2000)
    assert overlap(leading, path[99]) >= 0.9 and overlap(leading, path[499]) > 0.9999
    best = 1 - float(SPECTRUM[:8].square().sum() / SPECTRUM.square().sum())
    assert best == pytest.approx(0.109447, abs=1e-6)
    assert float(pca_loss(path[-1], gradient)) == pytest.approx(best, abs=1e-6)
    assert orthonormality_error(path[-1]) * 8**0.5 < 1e-3


def test_sgd_needs_a_far_larger_rate() -> None:
    gradient, start = fixed(SPECTRUM), random_subspace(64, 8, ("start", 0))
    leading = subspace("svd", gradient, 8, ())
    assert overlap(leading, descend(gradient, start, "sgd", 1.0, 0.1, 50, linear=False)[-1]) > 0.95
    assert overlap(leading, descend(gradient, start, "sgd", 0.005, 0.1, 2000, linear=False)[-1]) < 0.8


def test_lam_is_what_fixes_the_directions_that_a_gradient_leaves_free() -> None:
    gradient = fixed(torch.linspace(2, 1, 4).double())
    start = 1.3 * random_subspace(64, 8, ("start",))
    held = descend(gradient, start, "adam", 0.005, 0.1, 2000)[-1]
    assert orthonormality_error(held) * 8**0.5 < 1e-4 and float(pca_loss(held, gradient)) < 1e-6
    for decay in (0.0, 0.01):
        free = descend(gradient, start, "adam", 0.005, 0.0, 2000, decay=decay)[-1]
        assert float(pca_loss(free, gradient)) < 1e-4 and orthonormality_error(free) * 8**0.5 > 1


def test_the_optimizer_descends_the_same_way() -> None:
    gradient = fixed(SPECTRUM)
    p = torch.nn.Parameter(torch.zeros(64, 96, dtype=torch.float64))
    optimizer = OnlineSubspaceDescent([{"params": [p], "rank": 8}], lr=0.001, alpha=5.0, init="qr")
    p.grad = gradient
    optimizer.step()
    start = random_subspace(64, 8, (0, 0, 0))
    for _ in range(4):
        optimizer.step()
    expected = descend(gradient, start, "adam", 0.005, 0.1, 5, linear=False)[-1]
    assert (optimizer.state[p]["projection"] - expected).abs().max() < 1e-12


@pytest.mark.parametrize("how", ["svd", "eigh", "randomized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_subspaces_of_a_gradient_are_its_leading_ones(how: str, dtype: torch.dtype) -> None:
    gradient = fixed(SPECTRUM).to(dtype)
    exact = torch.linalg.svd(fixed(SPECTRUM)).U[:, :8]
    found = subspace(how, gradient, 8, ("key",))
    assert found.dtype == dtype and found.shape == (64, 8) and orthonormality_error(found) < 1e-5
    assert overlap(found.double(), exact) > 0.9999
    assert found.untyped_storage().nbytes() == found.numel() * found.element_size()


def test_random_subspaces_are_orthonormal_and_named_by_their_key() -> None:
    one = subspace("qr", torch.ones(9, 12), 4, ("a", 1))
    assert orthonormality_error(one) < 1e-6
    assert torch.equal(one, subspace("qr", torch.zeros(9, 12), 4, ("a", 1)))
    assert not torch.equal(one, subspace("qr", torch.zeros(9, 12), 4, ("a", 2)))
    zero = subspace("svd", torch.zeros(9, 12), 4, ("a", 1))  # a gradient of zero has no leading directions
    assert torch.equal(zero, one)
