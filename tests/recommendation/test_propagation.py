"""Sparse products equal dense ones, with their gradients; LightGCN is a mean of powers."""

import pytest
import torch

from decathlon.recommendation.propagation import Adjacency, edges, propagate

USER, ITEM = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 2, 1, 2])
EDGES = edges(USER, ITEM, users=4)  # user 3 and no item is alone


def dense() -> torch.Tensor:
    matrix = torch.zeros(7, 7)
    matrix[USER, ITEM + 4] = matrix[ITEM + 4, USER] = 1
    return matrix


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("norm", ["symmetric", "rows", "none"])
def test_products_and_gradients_equal_those_of_the_dense_matrix(norm: str, loops: bool) -> None:
    matrix = dense() + (torch.eye(7) if loops else 0)
    inverse = torch.nan_to_num(1 / matrix.sum(1), posinf=0.0)
    wanted = {
        "symmetric": inverse.sqrt()[:, None] * matrix * inverse.sqrt(), "rows": inverse[:, None] * matrix,
        "none": matrix,
    }[norm]  # fmt: skip
    adjacency = Adjacency(EDGES, 7, norm=norm, loops=loops)  # type: ignore[arg-type]
    x = torch.randn(7, 3, requires_grad=True)
    weight = torch.randn(7, 3)
    (slope,) = torch.autograd.grad((adjacency(x) * weight).sum(), x)
    assert torch.allclose(adjacency(x), wanted @ x, atol=1e-6)
    assert torch.allclose(slope, wanted.T @ weight, atol=1e-6)


def test_lightgcn_is_the_mean_of_powers() -> None:
    adjacency, x = Adjacency(EDGES, 7), torch.randn(7, 2)
    once = adjacency(x)
    assert torch.allclose(propagate(adjacency, x, 2), (x + once + adjacency(once)) / 3, atol=1e-6)
    assert torch.equal(propagate(adjacency, x, 0), x)


def test_a_matrix_that_is_not_square() -> None:
    wide = Adjacency(torch.tensor([[0, 1], [2, 0]]), 2, torch.tensor([2.0, 3.0]), norm="none", columns=3)
    assert torch.equal(wide(torch.eye(3)), torch.tensor([[0.0, 0, 2], [3, 0, 0]]))


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm=left"):
        Adjacency(EDGES, 7, norm="left")  # type: ignore[arg-type]
