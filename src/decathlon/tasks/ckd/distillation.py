"""Counterfactual knowledge distillation (CKD; ACM MM 2024, arXiv 2408.06360) on score differences. Needs torch only."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

Scores = Mapping[str, Tensor]

LEAST, MOST = 1e-8, 10.0
FORMS = ("logits", "official")


class CounterfactualDistillation:
    """The distillation term that is added to a multimodal recommender's own ranking loss.

    A score difference is s(u, i) - s(u, j). ``joint`` is that of the model with all modalities, ``alone[m]`` that of
    the same model with every modality but m counterfactual: its features replaced by their mean over all items, and
    the users' preferences for it by their mean over users. Each modality alone learns from a frozen teacher of its own:

    * specific: max(0, teacher - alone), on the training triples: separate the pair as widely as the teacher does;
    * generic: the cross-entropy between sigmoid(teacher / T) and sigmoid(alone / T), on random triples.

    Their sum, specific + beta * generic, of modality m is weighted for each training triple by w_m, which is large
    where m contributes little to the joint score: with the relative effect e_m = (joint - without m) / alone m, clamped
    to [1e-8, 10], w_m = (number of modalities) * (1/e_m) / sum_k (1/e_k). Weights carry no gradient.

    Args:
        alpha: of the whole term. beta: of its generic part.
        temperature: T. A smaller one also makes the generic part stronger, by 1/T.
        reweight: False: all weights are 1. specific, generic: leave out that part.
        cross_entropy: ``logits``: exact and with a gradient everywhere. ``official``: the published code's
            log(p + 1e-8) in float32, whose gradient vanishes where teacher and student differ by much.

    Attributes:
        weights: {name: (B,)} of the last call; they sum to the number of modalities.
        parts: of the last call, detached: ``specific/<name>`` and ``generic/<name>``, means over triples, and
            ``clamped``, the share of effects at one of the bounds (or undefined).

    Raises:
        ValueError: a negative ``alpha`` or ``beta``, a temperature that is not positive, an unknown form.
    """

    def __init__(
        self,
        alpha: float = 0.01,
        beta: float = 5.0,
        temperature: float = 0.1,
        reweight: bool = True,
        specific: bool = True,
        generic: bool = True,
        cross_entropy: str = "logits",
    ) -> None:
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not value >= 0:
                raise ValueError(f"{name}={value} must not be negative")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be positive")
        if cross_entropy not in FORMS:
            raise ValueError(f"cross_entropy={cross_entropy} is unknown; choose {' or '.join(FORMS)}")
        self.alpha, self.beta, self.temperature = float(alpha), float(beta), float(temperature)
        self.reweight, self.specific, self.generic = reweight, specific, generic
        self.cross_entropy = cross_entropy
        self.weights: dict[str, Tensor] = {}
        self.parts: dict[str, Tensor] = {}

    def __call__(
        self,
        joint: Tensor,
        alone: Scores,
        teachers: Scores,
        generic_alone: Scores | None = None,
        generic_teachers: Scores | None = None,
        without: Scores | None = None,
    ) -> Tensor:
        """The term alpha * mean over triples of sum_m w_m (specific_m + beta * generic_m): a scalar.

        Args:
            joint: (B,) differences of the training triples.
            alone, teachers: {name: (B,)} on the same triples; gradients reach ``alone`` only.
            generic_alone, generic_teachers: {name: (G,)} on random triples; needed unless ``generic`` is off.
            without: {name: (B,)}, the differences with that modality alone counterfactual. For three modalities or
                more; of two it is the other one's ``alone``.

        Raises:
            ValueError: names or shapes do not go together, or something that is needed is missing.
        """
        self._check(joint, alone, teachers, "alone", "teachers")
        if not alone:
            raise ValueError("there is no modality to distil: alone is empty")
        self.weights = self._weights(joint, alone, without)
        self.parts["clamped"] = self._clamped
        generic = self._generic(alone, generic_alone, generic_teachers)
        terms = []
        for name, weight in self.weights.items():
            term = generic[name]
            if self.specific:
                hinge = (_wide(teachers[name]).detach() - _wide(alone[name])).relu()  # no slope where they are equal
                self.parts[f"specific/{name}"] = hinge.detach().mean()
                term = hinge + term
            terms.append(weight * term)
        total = torch.stack(terms).sum(0)
        return self.alpha * (total.mean() if len(joint) else total.sum())

    def _generic(self, alone: Scores, students: Scores | None, teachers: Scores | None) -> dict[str, Tensor]:
        """beta times the generic part of each modality, a scalar; zeros where it is off."""
        if not self.generic:
            return {name: _wide(values).new_zeros(()) for name, values in alone.items()}
        if students is None or teachers is None:
            raise ValueError("the generic part needs generic_alone and generic_teachers; generic=False leaves it out")
        if set(students) != set(alone):
            raise ValueError(f"generic_alone is of {_names(students)}, alone of {_names(alone)}")
        found = {}
        for name, student in students.items():
            self._check(student, {name: student}, {name: teachers.get(name)}, "generic_alone", "generic_teachers")
            value = soft_cross_entropy(student, teachers[name], self.temperature, self.cross_entropy)
            self.parts[f"generic/{name}"] = value.detach()
            found[name] = self.beta * value
        return found

    @torch.no_grad()
    def _weights(self, joint: Tensor, alone: Scores, without: Scores | None) -> dict[str, Tensor]:
        names = list(alone)
        if len(names) == 2 and without is None:
            without = {names[0]: alone[names[1]], names[1]: alone[names[0]]}
        if len(names) > 2 and self.reweight:
            if without is None:
                raise ValueError(f"{len(names)} modalities need without={{name: (B,)}}, each one alone counterfactual")
            self._check(joint, without, alone, "without", "alone")
        weights, self._clamped = counterfactual_weights(joint, alone, without)
        if not self.reweight:
            weights = {name: torch.ones_like(weight) for name, weight in weights.items()}
        return weights

    @staticmethod
    def _check(joint: Tensor, first: Scores, second: Mapping[str, Tensor | None], *called: str) -> None:
        if set(first) != set(second):
            raise ValueError(f"{called[0]} is of {_names(first)}, {called[1]} of {_names(second)}")
        for what, scores in zip(called, (first, second)):
            for name, values in scores.items():
                if values is None:
                    raise ValueError(f"{what} has nothing of {name}")
                if values.shape != joint.shape or values.dim() != 1:
                    raise ValueError(
                        f"{what}[{name}] has shape {tuple(values.shape)}; one number for each of "
                        f"{tuple(joint.shape)} triples is needed"
                    )


@torch.no_grad()
def counterfactual_weights(
    joint: Tensor, alone: Scores, without: Scores | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """The weights {name: (B,)} of each modality on each triple, and the share of effects at a bound or undefined.

    Args:
        joint, alone, without: as of :class:`CounterfactualDistillation`; ``without`` may be absent for one modality.

    A triple whose effects are not all defined (0/0) gets weights of 1.
    """
    effects = []
    for name, values in alone.items():
        removed = 0.0 if without is None else _wide(without[name])
        effects.append((_wide(joint) - removed) / _wide(values))
    stacked = torch.stack(effects).clamp(LEAST, MOST)
    inverse = 1 / stacked
    weights = len(effects) * inverse / inverse.sum(0)
    weights = torch.where(weights.isnan().any(0), 1.0, weights)
    clamped = ((stacked <= LEAST) | (stacked >= MOST) | stacked.isnan()).to(weights).mean()
    return dict(zip(alone, weights)), clamped


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float, form: str = "logits") -> Tensor:
    """Mean of -[q log p + (1 - q) log(1 - p)], q = sigmoid(teacher / T), p = sigmoid(student / T); 0 for no triple.

    Its least value, where the student equals the teacher, is the teacher's entropy and not 0.

    Args:
        student, teacher: (G,) score differences; the teacher gets no gradient.
        form: ``logits``, or the clipped ``official`` one.
    """
    if not len(student):
        return _wide(student).sum()
    soft = (_wide(teacher).detach() / temperature).sigmoid()
    logits = _wide(student) / temperature
    if form == "logits":
        return functional.binary_cross_entropy_with_logits(logits, soft.to(logits))
    p, q = logits.float().sigmoid(), soft.float()
    return -(q * (p + LEAST).log() + (1 - q) * (1 - p + LEAST).log()).mean()


def _wide(values: Tensor) -> Tensor:
    """In float32 at least: the bound 1e-8 is none of the half precisions' numbers."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _names(scores: Mapping[str, object]) -> str:
    return ", ".join(scores) or "nothing"
