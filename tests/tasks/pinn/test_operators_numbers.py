"""Numbers that are not ordinary float32: half precision, complex, autocast, cancellation, overflow."""

import math

import pytest
import torch
from torch import Tensor

from decathlon.tasks.pinn import IMTLG, LRA, MGDA, Backward, CAGrad, ConFIG, GradDrop, NashMTL, NotFiniteError, PCGrad
from decathlon.tasks.pinn.operators import Sum, gramian
from decathlon.tasks.pinn.operators.gram import cosines_with

OPERATORS = [ConFIG, IMTLG, PCGrad, MGDA, CAGrad, NashMTL, GradDrop, Sum]
HALVES = [torch.float16, torch.bfloat16]


def rows_with_cosine(cosine: float, n: int, dtype: torch.dtype, m: int = 2) -> Tensor:
    """(m, n) rows; the first two have the given cosine up to their rounding."""
    rows = torch.randn(m, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    unit = rows[0] / rows[0].norm()
    other = rows[1] - (rows[1] @ unit) * unit
    rows[1] = rows[0].norm() * (cosine * unit + math.sqrt(1 - cosine**2) * other / other.norm())
    return rows.to(dtype)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("cosine", [-0.9998, -0.5, 0.3])
def test_half_precision_is_the_float64_result_rounded_once(operator: type, dtype: torch.dtype, cosine: float) -> None:
    rows = rows_with_cosine(cosine, 3000, dtype, m=3)
    if operator is GradDrop:
        expected = operator()(rows.float())  # draws in float32
    else:
        expected = operator()(rows.double())
    found = operator()(rows)
    assert found.dtype == dtype
    assert float((found == expected.to(dtype)).double().mean()) > 0.999  # the rest are ties of the rounding


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_half_precision_rows_of_very_different_size(operator: type, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randn(4000, generator=generator) * 3, torch.randn(4000, generator=generator) * 3e-6])
    method = operator()
    update = method(rows.to(dtype))
    assert bool(update.isfinite().all())
    if operator is ConFIG:
        assert torch.allclose(method.cosines, torch.full((2,), 0.7, dtype=torch.float64), atol=0.02)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("operator", [ConFIG, PCGrad, MGDA])
def test_the_cosines_are_those_of_what_is_returned(operator: type, dtype: torch.dtype) -> None:
    rows, method = rows_with_cosine(-0.9998, 5000, dtype, m=3), operator()
    update = method(rows).double()
    exact = rows.double() @ update / (rows.double().norm(dim=1) * update.norm())
    assert torch.allclose(method.cosines, exact, atol=1e-12)
    assert torch.allclose(cosines_with(update, rows.double()), exact, atol=1e-12)


def test_a_half_precision_update_that_overflows_is_refused() -> None:
    for operator in (Sum(), GradDrop()):
        with pytest.raises(NotFiniteError, match="overflows float16"):
            operator(torch.full((2, 10), 6e4, dtype=torch.float16))
    with pytest.raises(NotFiniteError, match="overflows float32"):
        Sum()(torch.full((2, 10), 3e38))
    assert float(Sum()(torch.full((2, 10), 1e38))[0]) == pytest.approx(2e38)


@pytest.mark.parametrize("cosine", [-1 + 1e-6, -1 + 1e-8, -1 + 1e-9])
def test_nearly_opposed_float32_gradients_keep_equal_cosines(cosine: float) -> None:
    rows, method = rows_with_cosine(cosine, 20_000, torch.float32), ConFIG()
    update = method(rows)
    found = cosines_with(update, rows)
    assert float(found.min()) > 0
    assert float(found.max() / found.min()) < 1.01
    assert torch.allclose(found, method.cosines, rtol=0.01)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_gradients_are_pairs_of_real_ones(operator: type, dtype: torch.dtype) -> None:
    rows = torch.randn(3, 41, dtype=dtype, generator=torch.Generator().manual_seed(0))
    pairs = torch.view_as_real(rows).flatten(1)
    update = operator()(rows)
    assert update.dtype == dtype
    assert torch.equal(torch.view_as_real(update).flatten(), operator()(pairs))
    conjugated = operator()(rows.conj())
    assert torch.allclose(conjugated, update.conj(), rtol=1e-3, atol=1e-3) or operator is GradDrop
    assert torch.allclose(gramian(rows), (rows @ rows.conj().T).real.double(), rtol=1e-4, atol=1e-4)


def test_complex_parameters_get_the_gradient_of_their_parts() -> None:
    real = torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))
    z = torch.nn.Parameter(torch.randn(2, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(1)))
    parts = torch.nn.Parameter(torch.view_as_real(z.detach()).clone())
    twin = torch.nn.Parameter(real.detach().clone())

    def losses(real: Tensor, z: Tensor) -> list[Tensor]:
        return [(z * (1 + 2j)).imag.sum() + z.abs().square().sum(), (real.sum() * z).real.sum() + real.square().sum()]

    for operator in (ConFIG, LRA, PCGrad):
        Backward([real, z], operator())(losses(real, z))
        Backward([twin, parts], operator())(losses(twin, torch.view_as_complex(parts)))
        assert z.grad.dtype == torch.complex64
        assert torch.allclose(torch.view_as_real(z.grad), parts.grad)
        assert torch.allclose(real.grad, twin.grad)
    with pytest.raises(ValueError, match="real number"):
        Backward([z], ConFIG())([z.sum(), z.abs().sum()])


@pytest.mark.parametrize("operator", OPERATORS)
def test_autocast_does_not_lower_the_precision(operator: type) -> None:
    rows = rows_with_cosine(-0.98, 9000, torch.float32, m=3)
    expected, gram = operator()(rows), gramian(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(operator()(rows), expected)
        assert torch.equal(gramian(rows), gram)
        theta = torch.nn.Parameter(torch.zeros(9000))
        Backward([theta], LRA())([(row * theta).sum() for row in rows])
    inside = theta.grad
    Backward([theta], LRA())([(row * theta).sum() for row in rows])
    assert torch.equal(inside, theta.grad)


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_no_matrix_of_floating_point_numbers_is_refused(operator: type) -> None:
    rows = torch.randn(2, 5)
    for bad in (rows.long(), [rows[0], rows[1]], rows.numpy(), rows.to_sparse()):
        with pytest.raises(ValueError, match="matrix"):
            operator()(bad)
    update = operator()(rows.requires_grad_())
    assert not update.requires_grad


def test_integers_and_numbers_of_numpy_are_numbers() -> None:
    import numpy as np

    rows = torch.randn(3, 8, dtype=torch.float64)
    assert torch.equal(ConFIG(length=np.int64(1))(rows), ConFIG(length=1)(rows))
    assert torch.equal(ConFIG(weights=np.array([1.0, 2, 3]))(rows), ConFIG(weights=[1, 2, 3])(rows))
    assert torch.equal(
        ConFIG(weights=LRA())(rows, [np.float32(1), 2.0, torch.tensor(3)]), ConFIG(weights=LRA())(rows, torch.ones(3))
    )
    for bad in (True, 1.0, None):
        with pytest.raises(ValueError, match="no length model"):
            ConFIG(length=bad)
    with pytest.raises(ValueError, match="positive"):
        ConFIG(weights=[1.0, math.inf])


def test_direction_weights_that_are_refused_leave_the_weighting_as_it_was() -> None:
    from decathlon.tasks.pinn import MinMax

    operator = ConFIG(weights=MinMax(weight_lr=5.0))
    rows, losses = torch.randn(2, 9), torch.tensor([1.0, 0.1])
    operator(rows, losses)
    before = str(operator.state_dict())
    with pytest.raises(ValueError, match="positive, but MinMax"):
        operator(rows, losses)
    assert str(operator.state_dict()) == before
    with pytest.raises(ValueError, match="state of ConFIG"):
        ConFIG().load_state_dict(operator.state_dict())
