"""The balancing methods do what their papers say to the gradients."""

import math

import pytest
import torch
from torch import Tensor

from decathlon.tasks.ckd.methods.balance import (
    Auxiliary,
    GradientBlending,
    GradientModulation,
    MMPareto,
    ModalityDropout,
    ModalityRates,
    pareto,
)  # fmt: skip
from decathlon.tasks.ckd.methods.base import Method
from decathlon.tasks.ckd.methods.distil import CKD, UMT
from decathlon.tasks.ckd.training import Training
from tests.tasks.ckd.worlds import SETTINGS, backbone, lists, trained


def gradients(method: Method, number: int = 0, start: str = "vbpr") -> dict[str, Tensor]:
    model = trained(start)[0]
    model.zero_grad()
    training = Training(model, method, lists(), lists(5, 0.05), SETTINGS, seed=0)
    method.backward(training.probe(number), lambda loss: loss.backward())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def is_own(name: str, modality: str) -> bool:
    return f".{modality}." in name


def test_modulation_slows_the_one_that_is_ahead() -> None:
    plain, slowed = gradients(Method()), gradients(GradientModulation(strength=0.5, noise=False))
    model, training = trained("vbpr")
    alone = training.probe(0).alone()
    score = {name: values.sigmoid().sum().item() for name, values in alone.items()}
    ahead = max(score, key=score.__getitem__)
    ratio = score[ahead] / min(score.values())
    for name, grad in plain.items():
        factor = 1 - math.tanh(0.5 * ratio) if is_own(name, ahead) else 1.0
        assert torch.allclose(slowed[name], factor * grad, rtol=1e-4, atol=1e-8), name
    assert {m for m in model.modalities if any(is_own(n, m) for n in plain)} == set(model.modalities)


def test_noise_has_the_gradient_s_spread_and_stays_in_the_modalities() -> None:
    plain, noisy = gradients(GradientModulation(noise=False)), gradients(GradientModulation(noise=True))
    again = gradients(GradientModulation(noise=True))
    for name, grad in plain.items():
        assert torch.equal(noisy[name], again[name])
        apart = noisy[name] - grad
        own = any(is_own(name, m) for m in ("text", "image"))
        assert bool((apart != 0).any()) == own
        if own and grad.numel() > 50:
            assert float(apart.std()) == pytest.approx(float(grad.std()), rel=0.3)


def test_auxiliary_losses_add_up() -> None:
    training = trained("mmgcn")[1]
    step = training.probe(3)
    loss, _ = Auxiliary(weight=0.5).loss(step)
    parts = [step.base_loss(), *(0.5 * step.ranking_loss((name,)) for name in step.modalities)]
    assert loss.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-6)


def test_dropout_leaves_one_modality_at_least_and_all_sometimes() -> None:
    training = trained("vbpr", count=3)[1]
    kept: set[tuple[str, ...]] = set()
    method = ModalityDropout(p=0.6)
    for number in range(60):
        step = training.probe(number)
        real = step.base_loss
        step.base_loss = lambda keep=None, real=real: (kept.add(tuple(keep)), real(keep))[1]  # type: ignore[method-assign]
        method.loss(step)
    assert () not in kept and len(kept) == 7
    none = ModalityDropout(p=0.0).loss(training.probe(0))[0]
    assert none.item() == pytest.approx(training.probe(0).base_loss().item())


def test_pareto_gradients() -> None:
    g, h = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    (agreeing,) = pareto([g], [h])
    assert torch.allclose(agreeing, 1.5 * (g + h))
    g, h = torch.tensor([3.0, 0.0]), torch.tensor([-1.0, 1.0])
    (conflict,) = pareto([g], [h])
    share = float(h @ (h - g) / (g - h).square().sum())
    n = 2 * share * g + 2 * (1 - share) * h
    assert torch.allclose(conflict, 1.5 * max(1.0, float((g + h).norm() / n.norm())) * n)
    assert float(n @ g) > 0 and float(n @ h) > 0  # both losses fall
    (zero,) = pareto([torch.zeros(2)], [torch.zeros(2)])
    assert torch.equal(zero, torch.zeros(2))


def test_mmpareto_s_shared_part_gets_the_sum_of_all_gradients() -> None:
    found, wanted = gradients(MMPareto()), gradients(Auxiliary(weight=1.0))
    for name in ("user", "item"):
        assert torch.allclose(found[name], wanted[name], atol=1e-6)


def test_rates_make_groups() -> None:
    model, method = backbone("vbpr"), ModalityRates()
    method.chosen = {"text": 3.0, "image": 1 / 3}
    groups = method.parameter_groups(model, 0.01)
    assert [group.get("lr") for group in groups] == [None, 0.03, pytest.approx(0.01 / 3)]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    other = ModalityRates()
    other.load_state_dict(method.state_dict())
    assert other.chosen == method.chosen


def test_blending_weights_follow_gain_and_overfitting() -> None:
    training = trained("vbpr")[1]
    method = GradientBlending(period=2, triples=64)
    method.begin_epoch(0, training)
    assert method.weights is None
    method.before = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    method._measure = lambda training: torch.tensor(  # type: ignore[method-assign]
        [[0.5, 0.5, 0.9], [0.7, 0.9, 1.1]], dtype=torch.float64
    )
    method.begin_epoch(1, training)
    assert method.weights is None  # not at the end of a period
    method.begin_epoch(2, training)
    assert method.weights is not None
    raw = torch.tensor([0.3 / 0.2**2, 0.1 / 0.4**2, 0.0], dtype=torch.float64)
    assert torch.allclose(method.weights, raw / raw.sum())
    again = GradientBlending(period=2, triples=64)
    again.load_state_dict(method.state_dict())
    assert again.weights is not None and torch.equal(again.weights, method.weights)


def test_umt_draws_to_the_teacher() -> None:
    model, training = trained("vbpr", UMT(strength=2.0), steps=0)
    training.teachers = {name: tuple(v.detach() for v in model((name,))) for name in model.modalities}
    step = training.probe(0)
    assert training.method.loss(step)[0].item() == pytest.approx(step.base_loss().item(), rel=1e-6)
    training.teachers = {name: (u + 1, i) for name, (u, i) in training.teachers.items()}
    step = training.probe(0)
    assert training.method.loss(step)[0].item() == pytest.approx(step.base_loss().item() + 2 * 2.0, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModalityDropout(p=1.0), "p=1.0"),
        (lambda: GradientModulation(strength=-1), "strength=-1"),
        (lambda: GradientBlending(period=0), "period=0"),
        (lambda: ModalityRates(factors=[]), "factors="),
        (lambda: UMT(strength=-1), "strength=-1"),
        (lambda: Auxiliary(weight=-1), "weight=-1"),
        (lambda: CKD(teachers="both"), "teachers=both is unknown; choose uni, joint, random"),
    ],
)
def test_a_wrong_option_is_one_line(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
