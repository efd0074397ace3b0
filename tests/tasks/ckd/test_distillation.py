"""The distillation term: closed forms, invariances, where gradients go, and odd input."""

import math

import pytest
import torch
from torch import Tensor

from decathlon.tasks.ckd import CounterfactualDistillation, counterfactual_weights, soft_cross_entropy

NAMES = ("a", "c")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scores(count: int = 2, size: int = 50, seed: int = 0) -> dict[str, Tensor]:
    values = draw(count, size, seed=seed)
    return {"acd"[m]: values[m].clone().requires_grad_() for m in range(count)}


def term(
    alone: dict[str, Tensor], teachers: dict[str, Tensor], joint: Tensor | None = None, **options: object
) -> Tensor:
    joint = torch.stack(list(alone.values())).sum(0) if joint is None else joint
    return CounterfactualDistillation(**options)(joint, alone, teachers, alone, teachers)  # type: ignore[arg-type]


def test_weights_in_closed_form() -> None:
    weights, clamped = counterfactual_weights(
        torch.tensor([3.0]), {"a": torch.tensor([2.0]), "c": torch.tensor([1.5])},
        {"a": torch.tensor([1.5]), "c": torch.tensor([2.0])},
    )  # fmt: skip
    assert weights["a"].item() == pytest.approx(0.9412, abs=5e-5)  # effects 0.75 and 2/3
    assert weights["c"].item() == pytest.approx(1.0588, abs=5e-5)
    assert clamped.item() == 0


def test_weights_of_two_modalities() -> None:
    joint, alone = draw(500, seed=3), scores(size=500)
    distil = CounterfactualDistillation(generic=False)
    distil(joint, alone, scores(seed=1, size=500))
    w = distil.weights
    assert torch.allclose(w["a"] + w["c"], torch.full((500,), 2.0), atol=1e-6)
    assert all(float(v.min()) >= 0 and float(v.max()) <= 2 for v in w.values())
    e_a = ((joint - alone["c"]) / alone["a"]).clamp(1e-8, 10)
    e_c = ((joint - alone["a"]) / alone["c"]).clamp(1e-8, 10)
    assert torch.allclose(w["a"], 1 - (e_a - e_c) / (e_a + e_c), atol=1e-5)
    swapped = CounterfactualDistillation(generic=False)
    swapped(joint, {"a": alone["c"], "c": alone["a"]}, scores(seed=1, size=500))
    assert torch.equal(swapped.weights["a"], w["c"]) and torch.equal(swapped.weights["c"], w["a"])
    scaled = CounterfactualDistillation(generic=False)
    scaled(3.7 * joint, {name: 3.7 * v for name, v in alone.items()}, scores(seed=1, size=500))
    assert torch.allclose(scaled.weights["a"], w["a"], atol=1e-5)
    assert not any(v.requires_grad for v in w.values())


def test_weights_of_three_and_of_one() -> None:
    alone, joint, without = scores(3), draw(50, seed=4), {name: draw(50, seed=5 + i) for i, name in enumerate("acd")}
    distil = CounterfactualDistillation(generic=False)
    distil(joint, alone, scores(3, seed=1), without=without)
    assert torch.allclose(torch.stack(list(distil.weights.values())).sum(0), torch.full((50,), 3.0), atol=1e-5)
    effects = {name: ((joint - without[name]) / alone[name]).clamp(1e-8, 10) for name in alone}
    total = sum(1 / e for e in effects.values())
    for name, effect in effects.items():
        assert torch.allclose(distil.weights[name], 3 / effect / total, atol=1e-5)
    distil(alone["a"], {"a": alone["a"]}, {"a": joint})
    assert torch.equal(distil.weights["a"], torch.ones(50))
    with pytest.raises(ValueError, match="3 modalities need without="):
        distil(joint, alone, scores(3, seed=1))


def test_weights_where_nothing_can_be_said_are_one() -> None:
    zero = torch.zeros(2)
    weights, clamped = counterfactual_weights(zero, {"a": zero, "c": zero}, {"a": zero, "c": zero})
    assert torch.equal(weights["a"], torch.ones(2)) and torch.equal(weights["c"], torch.ones(2)) and clamped == 1
    odd = torch.tensor([torch.nan, torch.inf, 1.0])
    weights, _ = counterfactual_weights(odd, {"a": odd, "c": odd}, {"a": odd, "c": odd})
    assert all(bool(w.isfinite().all()) for w in weights.values())


def test_a_modality_that_contributes_more_has_less_weight() -> None:
    before = None
    for part in torch.linspace(0.5, 4.0, 8):  # joint = id + a + c; alone: id + own part
        identity, c = torch.tensor([1.0]), torch.tensor([0.5])
        alone = {"a": identity + part, "c": identity + c}
        weights, _ = counterfactual_weights(identity + part + c, alone, {"a": alone["c"], "c": alone["a"]})
        effect = float(part / (identity + part))
        if before is not None:
            assert effect > before[0] and float(weights["a"]) < before[1]
        before = (effect, float(weights["a"]))


def test_a_student_that_equals_its_teachers_learns_nothing() -> None:
    alone = scores()
    teachers = {name: values.detach().clone() for name, values in alone.items()}
    loss = term(alone, teachers)
    loss.backward()
    assert all(float(values.grad.abs().max()) < 1e-6 for values in alone.values())  # type: ignore[union-attr]
    distil = CounterfactualDistillation()
    distil(draw(50), alone, teachers, alone, teachers)
    for name, values in teachers.items():
        q = (values / 0.1).sigmoid().double()
        entropy = -(torch.special.xlogy(q, q) + torch.special.xlogy(1 - q, 1 - q)).mean()
        assert distil.parts[f"specific/{name}"] == 0
        assert float(distil.parts[f"generic/{name}"]) == pytest.approx(float(entropy), abs=1e-5)


def test_gradients_reach_each_modality_alone_and_nothing_else() -> None:
    alone, teachers, joint = scores(), scores(seed=1), draw(50, seed=2).requires_grad_()
    term(alone, teachers, joint).backward()
    assert all(values.grad is not None and bool((values.grad != 0).any()) for values in alone.values())
    assert joint.grad is None and all(values.grad is None for values in teachers.values())


def test_the_term_is_weighted_before_the_mean() -> None:
    alone, teachers, joint = scores(), scores(seed=1), draw(50, seed=2)
    generic = {"a": draw(9, seed=8), "c": draw(9, seed=9)}
    taught = {"a": draw(9, seed=10), "c": draw(9, seed=11)}
    distil = CounterfactualDistillation(alpha=0.3, beta=2.0, temperature=0.7)
    found = distil(joint, alone, teachers, generic, taught)
    wanted = torch.zeros(50)
    for name in NAMES:
        hinge = (teachers[name] - alone[name]).clamp(min=0)
        wanted += distil.weights[name] * (hinge + 2.0 * soft_cross_entropy(generic[name], taught[name], 0.7))
    assert found.item() == pytest.approx(0.3 * wanted.mean().item(), rel=1e-6)


def test_the_hinge_has_one_side() -> None:
    alone = {"a": torch.tensor([2.0, 0.0], requires_grad=True)}
    teachers = {"a": torch.tensor([1.0, 0.5])}
    loss = term(alone, teachers, torch.ones(2), generic=False, alpha=1.0)
    loss.backward()
    assert loss.item() == 0.25 and alone["a"].grad.tolist() == [0.0, -0.5]  # type: ignore[union-attr]
    raised = {"a": teachers["a"] + torch.tensor([0.0, 0.3])}
    assert term(alone, raised, torch.ones(2), generic=False, alpha=1.0).item() == pytest.approx(0.4)


def test_the_two_forms_of_the_cross_entropy() -> None:
    unit = torch.rand(2, 5000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for reach, apart in ((1.25, 1e-3), (1.5, 3e-3)):  # float32 and the 1e-8 tell where they disagree by much
        student, teacher = reach * unit
        logits, official = (soft_cross_entropy(student, teacher, 0.1, form) for form in ("logits", "official"))
        assert float(logits) == pytest.approx(float(official), abs=apart)
    gradients = {}
    for form in ("logits", "official"):
        student = torch.tensor([2.0], requires_grad=True)
        soft_cross_entropy(student, torch.tensor([-2.0]), 0.1, form).backward()
        gradients[form] = float(student.grad)  # type: ignore[arg-type]
    assert gradients["official"] == 0 and gradients["logits"] == pytest.approx(10, abs=1e-4)


def test_the_generic_part_at_its_limits() -> None:
    student, teacher = draw(100), draw(100, seed=1)
    assert float(soft_cross_entropy(student, teacher, 1e6)) == pytest.approx(math.log(2), abs=1e-5)
    same = torch.zeros(5)  # two equal items
    assert float(soft_cross_entropy(same, same, 0.1)) == pytest.approx(math.log(2), rel=1e-6)


def test_parts_can_be_left_out() -> None:
    alone, teachers, joint = scores(), scores(seed=1), draw(50, seed=2)
    flat = CounterfactualDistillation(reweight=False)
    whole = flat(joint, alone, teachers, alone, teachers)
    assert all(torch.equal(w, torch.ones(50)) for w in flat.weights.values())
    parts = [
        CounterfactualDistillation(reweight=False, **off)(joint, alone, teachers, alone, teachers)  # type: ignore[arg-type]
        for off in ({"specific": False}, {"generic": False})
    ]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-5)
    assert CounterfactualDistillation(alpha=0.0)(joint, alone, teachers, alone, teachers).item() == 0
    both = CounterfactualDistillation(specific=False, generic=False)(joint, alone, teachers)
    assert float(both) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    alone = {name: values.detach().to(dtype).requires_grad_() for name, values in scores().items()}
    teachers = {name: values.detach().to(dtype) for name, values in scores(seed=1).items()}
    loss = term(alone, teachers, draw(50, seed=2).to(dtype))
    loss.backward()
    assert bool(loss.isfinite()) and alone["a"].grad.dtype == dtype  # type: ignore[union-attr]
    exact = term(scores(), scores(seed=1), draw(50, seed=2))
    assert float(loss) == pytest.approx(float(exact), rel=0.05)


def test_a_batch_of_none_and_of_one() -> None:
    none = {"a": torch.zeros(0, requires_grad=True), "c": torch.zeros(0, requires_grad=True)}
    loss = term(none, none, torch.zeros(0))
    loss.backward()
    assert float(loss) == 0
    assert bool(term(scores(size=1), scores(size=1, seed=1)).isfinite())
    frozen = {name: values.detach() for name, values in scores().items()}
    assert not term(frozen, frozen).requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ckd, x: ckd(x, {"a": x}, {"b": x}, {"a": x}, {"a": x}), "alone is of a, teachers of b"),
        (lambda ckd, x: ckd(x, {"a": x[:2]}, {"a": x}, {"a": x}, {"a": x}), r"alone\[a\] has shape \(2,\)"),
        (lambda ckd, x: ckd(x, {"a": x}, {"a": x}), "the generic part needs generic_alone and generic_teachers"),
        (lambda ckd, x: ckd(x, {"a": x}, {"a": x}, {"a": x}, {}), "generic_teachers has nothing of a"),
        (lambda ckd, x: ckd(x, {"a": x}, {"a": x}, {"b": x}, {"b": x}), "generic_alone is of b, alone of a"),
        (lambda ckd, x: ckd(x, {}, {}), "no modality to distil"),
        (lambda ckd, x: ckd(x[:, None], {"a": x[:, None]}, {"a": x[:, None]}), "one number for each"),
        (lambda ckd, x: CounterfactualDistillation(alpha=-1), "alpha=-1 must not be negative"),
        (lambda ckd, x: CounterfactualDistillation(beta=math.nan), "beta=nan"),
        (lambda ckd, x: CounterfactualDistillation(temperature=0), "temperature=0 must be positive"),
        (lambda ckd, x: CounterfactualDistillation(cross_entropy="kl"), "cross_entropy=kl is unknown; choose logits"),
    ],
)
def test_what_does_not_go_together_is_one_line(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call(CounterfactualDistillation(), torch.ones(3))  # type: ignore[operator]
    assert "\n" not in str(caught.value)
