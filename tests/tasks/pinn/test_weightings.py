"""The loss weightings against their equations."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from decathlon.tasks.pinn import DWA, FAMO, LRA, LS, RLW, SI, UW, MinMax, NotFiniteError, ReLoBRaLo

ALL = [LS, SI, RLW, DWA, UW, MinMax, ReLoBRaLo, FAMO, LRA]


def series(steps: int, m: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(steps, m, generator=torch.Generator().manual_seed(seed)) + 0.1


def test_the_plain_sum_and_the_sum_of_logarithms() -> None:
    losses = torch.tensor([1.0, 4.0], requires_grad=True)
    assert LS()(losses).tolist() == [1, 1]
    weights = SI()(losses)
    (weights * losses).sum().backward()
    expected = torch.autograd.grad(losses.log().sum(), losses)[0]
    assert torch.allclose(losses.grad, expected)


def test_random_weights_are_a_new_softmax_in_each_step() -> None:
    weighting = RLW(seed=4)
    draws = torch.stack([weighting(torch.ones(3)) for _ in range(2000)])
    assert torch.allclose(draws.sum(dim=1), torch.ones(2000), atol=1e-5)
    assert torch.allclose(draws.mean(dim=0), torch.full((3,), 1 / 3), atol=0.02)
    assert not torch.equal(draws[0], draws[1])


def test_dwa_follows_the_ratio_of_two_windows() -> None:
    weighting, losses = DWA(window=5), series(40)
    for k in range(40):
        weights = weighting(losses[k])
        if k < 10:
            assert torch.allclose(weights, torch.full((3,), 1 / 3))
        else:
            ratio = losses[k - 5 : k].mean(dim=0) / losses[k - 10 : k - 5].mean(dim=0)
            assert torch.allclose(weights, (ratio / 2).softmax(dim=0), atol=1e-6)


def test_uncertainty_weights_are_those_of_a_learned_loss() -> None:
    weighting, losses = UW(weight_lr=0.025), series(50)
    s = torch.nn.Parameter(torch.zeros(3))
    adam = torch.optim.Adam([s], lr=0.025)
    for row in losses:
        assert torch.allclose(weighting(row), 0.5 * torch.exp(-s).detach(), atol=1e-6)
        adam.zero_grad()
        (0.5 * (torch.exp(-s) * row + s)).sum().backward()
        adam.step()


@pytest.mark.parametrize("raw", [True, False])
def test_minmax_ascends_the_weighted_loss(raw: bool) -> None:
    weighting, losses = MinMax(weight_lr=1e-2, raw=raw), series(50)
    value = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([value], lr=1e-2)
    for k, row in enumerate(losses):
        if k:
            adam.zero_grad()
            (-(value.softmax(dim=0) * 3 * row).sum()).backward()
            adam.step()
        expected = value if raw else 3 * value.softmax(dim=0)
        assert torch.allclose(weighting(row), expected.detach(), atol=1e-5)
    calm = MinMax()
    assert calm(losses[0]).tolist() == [1, 1, 1]


def test_famo_equals_its_loss_and_its_update() -> None:
    weighting, losses = FAMO(weight_lr=0.025, gamma=0.01), series(60)
    w = torch.nn.Parameter(torch.zeros(3))
    adam = torch.optim.Adam([w], lr=0.025, weight_decay=0.01)
    for before, after in zip(losses[::2], losses[1::2]):
        leaf = before.clone().requires_grad_()
        z = w.softmax(dim=0).detach()
        scale = (z / (before + 1e-8)).sum()
        expected = torch.autograd.grad((z * (leaf + 1e-8).log() / scale).sum(), leaf)[0]
        assert torch.allclose(weighting(before), expected, atol=1e-5)
        weighting.after_step(after)
        drop = (before + 1e-8).log() - (after + 1e-8).log()
        w.grad = torch.autograd.grad(w.softmax(dim=0), w, grad_outputs=drop)[0]
        adam.step()
    with pytest.raises(ValueError, match="before"):
        FAMO().after_step(losses[0])


def test_lra_balances_the_gradients() -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [10.0], [0.1]])
    weighting = LRA(beta=0.9)
    losses = torch.ones(3)
    expected = torch.ones(3)
    for _ in range(200):
        weights = weighting(losses, rows)
        wanted = rows[0].abs().max() / rows.abs().mean(dim=1)
        expected[1:] = 0.9 * expected[1:] + 0.1 * wanted[1:]
        assert torch.allclose(weights, expected, rtol=1e-4)
        assert float(weights[0]) == 1
    assert torch.allclose(weights[1:] * rows[1:].abs().mean(dim=1), rows[0].abs().max().expand(2), rtol=1e-4)
    with pytest.raises(ValueError, match="needs the gradients"):
        LRA()(losses)


def test_relobralo_without_memory_is_a_softmax_of_relative_losses() -> None:
    losses = series(30)
    weighting = ReLoBRaLo(beta=0.0, tau=1.0)
    assert weighting(losses[0]).tolist() == [1, 1, 1]
    for previous, row in pairwise(losses):
        assert torch.allclose(weighting(row), 3 * (row / previous).softmax(dim=0), atol=1e-5)
    always_first = ReLoBRaLo(beta=1.0, tau=1.0, lookback=0.0)
    always_first(losses[0])
    for row in losses[1:]:
        assert torch.allclose(always_first(row), 3 * (row / losses[0]).softmax(dim=0), atol=1e-5)
    never = ReLoBRaLo(beta=1.0, lookback=1.0)
    assert all(never(row).tolist() == [1, 1, 1] for row in losses)


@pytest.mark.parametrize("kind", ALL)
def test_state_resumes_to_the_last_bit(kind: type, tmp_path) -> None:
    losses, rows = series(120), torch.randn(3, 20)
    options = {"lookback": 0.5} if kind is ReLoBRaLo else {}

    def advance(weighting, part: Tensor) -> list[Tensor]:
        found = []
        for row in part:
            found.append(weighting(row, rows * row[:, None]))
            if weighting.needs_after_step:
                weighting.after_step(row * 0.9)
        return found

    whole, first, second = kind(**options), kind(**options), kind(**options)
    expected = advance(whole, losses)
    advance(first, losses[:70])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(expected[70:], advance(second, losses[70:])))
    if first.state_dict():
        with pytest.raises((ValueError, KeyError)):
            kind().load_state_dict({"nonsense": 1})


@pytest.mark.parametrize("kind", ALL)
def test_a_bad_step_leaves_the_weights_as_they_were(kind: type) -> None:
    weighting, losses, rows = kind(), series(60), torch.randn(3, 20)
    for row in losses:
        weighting(row, rows)
        if weighting.needs_after_step:
            weighting.after_step(row * 0.9)
    before = str(weighting.state_dict())
    bad = [torch.tensor([1.0, torch.nan, 2.0]), torch.tensor([1.0, 1.0, torch.inf])]
    for values in bad:
        with pytest.raises(NotFiniteError, match="not finite"):
            weighting(values, rows)
        with pytest.raises(NotFiniteError, match="not finite"):
            weighting.after_step(values) if weighting.needs_after_step else weighting(values, rows)
    if weighting.by_place:
        for count in (1, 2, 4):
            with pytest.raises(ValueError, match=f"{count} losses given"):
                weighting(torch.ones(count), torch.ones(count, 20))
    if weighting.needs_gradients:
        with pytest.raises(NotFiniteError, match=r"loss 2 .*not finite"):
            weighting(losses[0], rows * torch.tensor([[1.0], [1.0], [torch.nan]]))
        with pytest.raises(ValueError, match="3 losses and 2 gradients"):
            weighting(losses[0], rows[:2])
    assert str(weighting.state_dict()) == before
    assert bool(weighting(losses[0], rows).isfinite().all())


@pytest.mark.parametrize("kind", [SI, FAMO])
def test_logarithms_of_negative_losses_are_refused(kind: type) -> None:
    weighting = kind()
    with pytest.raises(NotFiniteError, match=r"loss 1 .* -0.5"):
        weighting(torch.tensor([1.0, -0.5]))
    if kind is FAMO:
        weighting(torch.tensor([1.0, 0.0]))
        with pytest.raises(NotFiniteError, match=r"loss 0 .* -1"):
            weighting.after_step([-1.0, 1.0])
        weighting.after_step([1.0, 1.0])
        assert bool(weighting.learned.value.isfinite().all())


@pytest.mark.parametrize("kind", ALL)
def test_lists_and_numbers_of_numpy_and_half_precision(kind: type) -> None:
    import numpy as np

    rows = torch.randn(2, 20)
    expected = kind()(torch.tensor([0.5, 2.0]), rows)
    for values in ([0.5, 2.0], [np.float32(0.5), np.float64(2)], [torch.tensor(0.5), torch.tensor([2.0])]):
        assert torch.equal(kind()(values, rows).float(), expected)
    half = kind()(torch.tensor([0.5, 2.0], dtype=torch.float16), rows)
    assert half.dtype == torch.float32
    assert torch.equal(half, expected)
    for bad in (torch.ones(2, 2), torch.ones(0), torch.ones(2, dtype=torch.complex64)):
        with pytest.raises(ValueError, match="vector"):
            kind()(bad, rows)


def test_dwa_keeps_a_loss_that_stays_at_zero_and_refuses_one_that_rises_from_it() -> None:
    weighting = DWA(window=2)
    for _ in range(9):
        weights = weighting([1.0, 0.0])
    assert torch.allclose(weights, torch.full((2,), 0.5))
    with pytest.raises(NotFiniteError, match="weights of DWA"):
        for _ in range(3):
            weighting([1.0, 1.0])
