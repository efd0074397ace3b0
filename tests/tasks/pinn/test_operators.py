"""The gradient operators against the algebra and, where they are right, against conflictfree and torchjd."""

import math

import pytest
import torch
from torch import Tensor

from decathlon.tasks.pinn import IMTLG, MGDA, SI, CAGrad, ConFIG, GradDrop, MinMax, NashMTL, PCGrad
from decathlon.tasks.pinn.operators import Sum, gramian

OPERATORS = [ConFIG, IMTLG, PCGrad, MGDA, CAGrad, NashMTL, GradDrop, Sum]


def gradients(m: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random rows with norms that differ by orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(m, n, generator=generator, dtype=torch.float64)
    return (rows * 10 ** torch.linspace(-1, 1, m, dtype=torch.float64)[:, None]).to(dtype)


def with_cosine(cosine: float, n: int, m: int = 3) -> Tensor:
    """float32 rows, the first two with the given cosine."""
    rows = torch.randn(m, n, generator=torch.Generator().manual_seed(1))
    unit = rows[0].double() / rows[0].double().norm()
    other = rows[1].double()
    other = other - (other @ unit) * unit
    rows[1] = (cosine * unit + math.sqrt(1 - cosine**2) * other / other.norm()) * 3.0
    return rows


def cosines(update: Tensor, rows: Tensor) -> Tensor:
    update, rows = update.double(), rows.double()
    return rows @ update / (rows.norm(dim=1) * update.norm())


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# Equal to the other packages, where they are right


@pytest.mark.parametrize("m", [2, 3, 5, 10])
@pytest.mark.parametrize("n", [50, 1000, 10000])
def test_config_equals_the_official_package_and_torchjd(m: int, n: int) -> None:
    official = pytest.importorskip("conflictfree.grad_operator").ConFIG_update
    torchjd = pytest.importorskip("torchjd.aggregation").ConFIG()
    rows = gradients(m, n)
    torch.set_default_dtype(torch.float64)  # the package makes its weights in the default type
    try:
        expected = official(rows, use_least_square=False)
    finally:
        torch.set_default_dtype(torch.float32)
    assert relative(ConFIG()(rows), expected) < 1e-8
    assert relative(ConFIG()(rows), torchjd(rows)) < 1e-8
    single = rows.float()
    assert relative(ConFIG()(single), official(single, use_least_square=False)) < 1e-4
    assert relative(ConFIG()(single), torchjd(single)) < 1e-4


# The algebra of ConFIG


@pytest.mark.parametrize(("m", "n"), [(2, 10), (3, 1000), (10, 10_000), (40, 100_000)])
def test_cosines_are_equal_positive_and_as_large_as_the_algebra_says(m: int, n: int) -> None:
    rows = gradients(m, n, dtype=torch.float32)
    operator = ConFIG()
    found = cosines(operator(rows), rows)
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True)
    ones = torch.ones(m, dtype=torch.float64)
    expected = 1 / (ones @ torch.linalg.solve(unit @ unit.T, ones)).sqrt()
    assert float(found.max() - found.min()) < 1e-5
    assert float((found - expected).abs().max()) < 1e-5
    assert float(found.min()) > 0
    assert torch.allclose(operator.cosines, found, atol=1e-5)


def test_length_is_the_sum_of_the_projections() -> None:
    rows = gradients(4, 200)
    update = ConFIG()(rows)
    assert float(update.norm()) == pytest.approx(float((rows.norm(dim=1) * cosines(update, rows)).sum()), rel=1e-9)


def test_invariances_of_config() -> None:
    rows = gradients(4, 60)
    update = ConFIG()(rows)
    scaled = rows.clone()
    scaled[2] *= 37.0
    direction = ConFIG()(scaled)
    assert float(cosines(direction, update[None])[0]) == pytest.approx(1, abs=1e-12)
    assert relative(ConFIG()(rows[[2, 0, 3, 1]]), update) < 1e-12
    rotation = torch.linalg.qr(gradients(60, 60, seed=3))[0]
    assert relative(ConFIG()(rows @ rotation), update @ rotation) < 1e-12
    assert relative(ConFIG()(5 * rows), 5 * update) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_losses(dtype: torch.dtype) -> None:
    rows = gradients(2, 500, dtype=dtype)
    g, h = rows
    mean = (g.norm() + h.norm()) / 2
    assert relative(ConFIG()(rows), mean * (g / g.norm() + h / h.norm())) < 1e-6
    assert relative(ConFIG()(torch.stack([g, g])), 2 * g) < 1e-6
    assert relative(ConFIG()(torch.stack([g, 0 * g])), g) < 1e-6
    assert float(ConFIG()(torch.stack([g, -g])).abs().max()) == 0
    assert float(ConFIG()(torch.zeros(2, 7, dtype=dtype)).abs().max()) == 0
    nearly = g + 1e-6 * h
    expected = g.double() + nearly.double()  # equal norms to 1e-12
    assert relative(ConFIG()(torch.stack([g, nearly])).double(), expected) < 1e-6


def test_one_loss_duplicates_and_more_losses_than_parameters() -> None:
    rows = gradients(5, 3)
    assert relative(ConFIG()(rows[:1]), rows[0]) < 1e-12
    assert relative(ConFIG()(rows[:1].repeat(4, 1)), 4 * rows[0]) < 1e-12
    operator = ConFIG()
    found = operator(rows)
    unit = rows / rows.norm(dim=1, keepdim=True)
    direction = torch.linalg.pinv(unit, rtol=1e-6) @ torch.ones(5, dtype=torch.float64)
    direction = direction / direction.norm()
    assert relative(found, (rows @ direction).sum() * direction) < 1e-8
    assert torch.allclose(operator.cosines, cosines(found, rows))  # reported, positive or not


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("m", [1, 2, 5])
def test_no_operator_makes_nan_of_zero_or_opposed_gradients(operator: type, m: int) -> None:
    rows = gradients(m, 40, dtype=torch.float32)
    for case in (0 * rows, torch.cat([rows, 0 * rows]), torch.cat([rows, -rows]), torch.cat([rows, rows])):
        update = operator()(case)
        assert update.shape == (40,)
        assert bool(update.isfinite().all())


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_named(operator: type, bad: float) -> None:
    rows = gradients(3, 40, dtype=torch.float32)
    rows[1, 5] = bad
    with pytest.raises(ValueError, match=r"loss 1 .*not finite"):
        operator()(rows)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_wrong_shape_is_refused(operator: type) -> None:
    with pytest.raises(ValueError, match="matrix"):
        operator()(torch.zeros(5))


@pytest.mark.parametrize("operator", [ConFIG, IMTLG, PCGrad, MGDA, NashMTL])
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_extreme_scales_do_not_under_or_overflow(operator: type, scale: float) -> None:
    rows = gradients(3, 1000)
    expected = operator()(rows)
    found = operator()((rows * scale).float()).double()
    assert float(cosines(found, expected[None])[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("scale", [1e-39, 1e-44])
def test_a_vanishing_gradient_beside_an_ordinary_one(operator: type, scale: float) -> None:
    rows = gradients(2, 1000, dtype=torch.float32)
    rows[0] *= scale
    assert bool(operator()(rows).isfinite().all())


# Direction weights and lengths


def test_direction_weights_set_the_ratio_of_the_cosines() -> None:
    rows = gradients(3, 500)
    found = cosines(ConFIG(weights=[1.0, 2.0, 0.5])(rows), rows)
    assert torch.allclose(found / found[0], torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), atol=1e-9)
    with pytest.raises(ValueError, match="2 direction weights for 3 gradients"):
        ConFIG(weights=[1.0, 1.0])(rows)
    with pytest.raises(ValueError, match="positive"):
        ConFIG(weights=[1.0, -1.0])


def test_direction_weights_that_are_not_positive_are_refused() -> None:
    """Raw MinMax weights turn negative; those of the softmax stay positive."""
    rows, losses = gradients(2, 20), torch.tensor([1.0, 0.1])
    raw, share = (ConFIG(weights=MinMax(weight_lr=0.02, raw=kind)) for kind in (True, False))
    with pytest.raises(ValueError, match="positive, but MinMax gave"):
        for _ in range(200):
            raw(rows, losses)
    for _ in range(200):
        share(rows, losses)
    assert float(share.cosines.min()) > 0
    with pytest.raises(ValueError, match="weights of SI are not finite"):
        ConFIG(weights=SI())(rows, torch.tensor([1.0, 0.0]))


def test_orthogonal_gradients() -> None:
    rows = torch.diag(torch.tensor([1.0, 20.0, 0.3], dtype=torch.float64))
    update = ConFIG()(rows)
    assert torch.allclose(update / update.norm(), torch.full((3,), 3**-0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ("min", lambda n: n.min()),
        ("max", lambda n: n.max()),
        ("mean", lambda n: n.mean()),
        ("geometric", lambda n: n.log().mean().exp()),
        ("harmonic", lambda n: 1 / (1 / n).mean()),
        (1, lambda n: n[1]),
        (-1, lambda n: n[-1]),
    ],
)
def test_length_models(length: str | int, expected) -> None:
    rows = gradients(4, 300)
    update, projected = ConFIG(length=length)(rows), ConFIG()(rows)
    assert float(cosines(update, projected[None])[0]) == pytest.approx(1, abs=1e-12)
    size = float(expected(rows.norm(dim=1)) * cosines(update, rows).sum())
    assert float(update.norm()) == pytest.approx(size, rel=1e-9)
    with_zero = torch.cat([rows, torch.zeros(1, 300, dtype=torch.float64)])
    if length != -1:
        assert relative(ConFIG(length=length)(with_zero), update) < 1e-9


def test_unknown_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="choose projection"):
        ConFIG(length="longest")
    with pytest.raises(ValueError, match="no index"):
        ConFIG(length=3)(gradients(3, 10))


# Accuracy for large networks


@pytest.mark.parametrize(("n", "cosine"), [(1_000_000, -0.98), (1_000_000, -0.9), (1_000_000, -0.9999)])
def test_opposed_gradients_of_a_large_network(n: int, cosine: float) -> None:
    rows = with_cosine(cosine, n)
    found = cosines(ConFIG()(rows), rows)
    # The third gradient is orthogonal to the others up to 1/sqrt(N).
    expected = 1 / math.sqrt(2 / (1 + cosine) + 1)
    assert float((found - expected).abs().max()) < 1e-3
    assert float(found.max() - found.min()) < 1e-3 * expected


def test_single_precision_is_not_trusted_where_it_does_not_suffice() -> None:
    rows = with_cosine(-1 + 1e-6, 20_000)
    found = cosines(ConFIG()(rows), rows)
    assert float(found.min()) > 0
    assert float(found.max() / found.min()) < 1.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gramian(dtype: torch.dtype) -> None:
    rows = gradients(5, 40_001, dtype=dtype)
    exact = rows.double() @ rows.double().T
    size = exact.diagonal().sqrt()
    for found, tolerance in ((gramian(rows), 1e-6), (gramian(rows, exact=True), 1e-13)):
        assert found.dtype == torch.float64
        assert float(((found - exact) / torch.outer(size, size)).abs().max()) < tolerance
    assert torch.allclose(gramian(rows, slice(1, 3)), exact[1:3], rtol=1e-5, atol=1e-3)


# The other operators


@pytest.mark.parametrize("m", [2, 3, 6])
def test_imtlg_has_equal_projections_and_the_direction_of_config(m: int) -> None:
    rows = gradients(m, 300, seed=m)
    unit = rows / rows.norm(dim=1, keepdim=True)
    update = IMTLG()(rows)
    projections = unit @ update
    assert float(projections.max() - projections.min()) < 1e-9 * float(update.norm())
    assert abs(float(cosines(update, ConFIG()(rows)[None])[0])) > 1 - 1e-6
    solution = torch.linalg.solve(unit @ unit.T, torch.ones(m, dtype=torch.float64))
    assert relative(update, (solution @ unit) / (solution / rows.norm(dim=1)).sum()) < 1e-8
    if m == 2:
        n, k = rows.norm(dim=1)
        assert relative(update, n * k / (n + k) * unit.sum(dim=0)) < 1e-9


def test_imtlg_can_ascend_for_three_losses() -> None:
    """Anti-parallel in a share of random cases, never for two losses."""
    signs = {2: 0, 3: 0}
    for m in signs:
        for seed in range(300):
            rows = torch.randn(m, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            signs[m] += float(cosines(IMTLG()(rows), ConFIG()(rows)[None])[0]) < 0
    assert signs[2] == 0
    assert 0 < signs[3] < 60


def loop_pcgrad(rows: Tensor) -> Tensor:
    total = torch.zeros_like(rows[0])
    for i, own in enumerate(rows):
        part = own.clone()
        for j, other in enumerate(rows):
            if j != i and part @ other < 0:
                part = part - (part @ other) / (other @ other) * other
        total += part
    return total


def test_pcgrad_equals_its_definition_and_the_official_package() -> None:
    official = pytest.importorskip("conflictfree.grad_operator").PCGradOperator()
    conflicts = 0
    for seed in range(20):
        rows = gradients(4, 6, seed=seed)
        update = PCGrad(order="fixed")(rows)
        assert relative(update, loop_pcgrad(rows)) < 1e-10
        single = rows.float()
        assert relative(PCGrad(order="fixed")(single), official.calculate_gradient(single)) < 1e-3
        conflicts += bool((rows @ rows.T < 0).any())
    assert conflicts > 10
    calm = gradients(3, 50).abs()
    assert relative(PCGrad()(calm), calm.sum(dim=0)) < 1e-12


def test_random_orders_of_pcgrad_follow_the_seed_and_the_state() -> None:
    rows = [gradients(6, 8, seed=k) for k in range(5)]
    first, second, other = PCGrad(seed=1), PCGrad(seed=1), PCGrad(seed=2)
    expected = [first(r) for r in rows]
    assert all(torch.equal(e, second(r)) for e, r in zip(expected, rows))
    assert not all(torch.equal(e, other(r)) for e, r in zip(expected, rows))
    resumed = PCGrad(seed=1)
    for r in rows[:3]:
        resumed(r)
    state = resumed.state_dict()
    fresh = PCGrad(seed=1)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(rows[3]), expected[3])


def test_mgda_is_the_shortest_vector_of_the_hull() -> None:
    for seed in range(10):
        rows = gradients(5, 8, seed=seed) + 1.0
        update = MGDA()(rows)
        # optimality: no gradient is shorter along the update than the update itself
        assert float((rows @ update).min()) >= float(update @ update) * (1 - 1e-8)
    g = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(MGDA()(g), g[0])
    around = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert float(MGDA()(around).norm()) < 1e-7


def test_cagrad_is_the_best_worst_descent_near_the_mean() -> None:
    c = 0.4
    for seed in range(5):
        rows = gradients(4, 10, seed=seed) + 0.5
        mean = rows.mean(dim=0)
        update = CAGrad(c)(rows) * (1 + c**2) / 4
        assert float((update - mean).norm()) == pytest.approx(c * float(mean.norm()), rel=1e-4)
        worst = float((rows @ update).min())
        generator = torch.Generator().manual_seed(seed)
        for _ in range(500):  # no other point of the ball has a better worst descent
            step = torch.randn(10, generator=generator, dtype=torch.float64)
            other = mean + c * mean.norm() * step / step.norm()
            assert float((rows @ other).min()) <= worst + 1e-4 * float(mean.norm()) * float(rows.norm())
    assert relative(CAGrad(0.0)(rows), rows.sum(dim=0)) < 1e-9


def test_nash_mtl_solves_its_equation() -> None:
    for m in (2, 5, 20):
        rows = gradients(m, 100, seed=m)
        gram = rows @ rows.T
        normalised = gram / torch.linalg.matrix_norm(gram)
        a = NashMTL().coefficients(gram)
        assert bool((a > 0).all())
        assert torch.allclose(normalised @ a, 1 / a, rtol=1e-6)


def test_graddrop_keeps_one_sign_in_each_coordinate() -> None:
    rows = gradients(3, 50_000, dtype=torch.float64)
    update = GradDrop(seed=3)(rows)
    positive, negative = rows.clamp(min=0).sum(dim=0), rows.clamp(max=0).sum(dim=0)
    is_positive = torch.isclose(update, positive)
    assert bool((is_positive | torch.isclose(update, negative)).all())
    mixed = (positive > 0) & (negative < 0)
    purity = positive / (positive - negative)
    assert float(is_positive[mixed].double().mean()) == pytest.approx(float(purity[mixed].mean()), abs=0.01)
    assert torch.equal(update, GradDrop(seed=3)(rows))
