"""Static pruning by what a trained model says of the samples (``decathlon.pruning.evidence``)."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from decathlon.pruning import scores
from decathlon.pruning.base import Pruner, largest
from decathlon.pruning.coverage import craig
from decathlon.pruning.evidence import Evidence, random_parts, shares
from decathlon.pruning.geometry import cluster, herding, k_center, least_prototypical, symmetric_kl
from decathlon.pruning.influence import glister, influence, parameter_changes, smallest_sum
from decathlon.pruning.static import Fixed

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "herding_variant": ("argmin", "argmax"),
    "similarity": (None, "tanimoto", "cosine"),
    "target": ("validation", "training"),
}
_RANGES: dict[str, tuple[float, float]] = {
    "chunk": (2, math.inf),
    "clusters": (1, math.inf),
    "balance": (0, 1),
    "iterations": (0, math.inf),
    "rounds": (1, math.inf),
    "eta": (0, math.inf),
    "damping": (1e-12, math.inf),
}


class Informed(Fixed):
    """A subset chosen from ``evidence``: what one model, or several to average, says of the n samples."""

    wants_evidence: ClassVar[bool] = True
    classification: ClassVar[bool] = False  # needs probabilities

    def __init__(
        self,
        n: int,
        prune: float = 0.6,
        generator: torch.Generator | None = None,
        evidence: Evidence | Sequence[Evidence] | None = None,
        **options: Any,
    ) -> None:
        Pruner.__init__(self, n, prune, generator)
        name = type(self).__name__
        self.check(**options)
        for option, value in {**self.options, **options}.items():
            setattr(self, option, value)
        if evidence is None:
            raise ValueError(f"{name} needs evidence: what a trained model says of the samples")
        models = [evidence] if isinstance(evidence, Evidence) else list(evidence)
        if any(len(model) != n for model in models):
            raise ValueError(f"{name}: the evidence is of {len(models[0])} samples, not of {n}")
        if self.classification and models[0].regression:
            raise ValueError(f"{name} ranks by predicted probabilities, which a regression has none of")
        chosen = self._choose(models)
        self._fix(*chosen) if isinstance(chosen, tuple) else self._fix(chosen)

    options: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        """Let ``inspect.signature`` name the options in the place of ``**options``."""
        shared = [p for p in inspect.signature(Informed.__init__).parameters.values() if p.name != "self"][:-1]
        own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=v) for name, v in cls.options.items()]
        cls.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]

    @classmethod
    def check(cls, **options: Any) -> None:
        """Check options without any data.

        Raises:
            ValueError: in one line, one that the class does not have, or whose value is out of range.
        """
        if unknown := set(options) - set(cls.options):
            known = ", ".join(sorted(cls.options)) or "none"
            raise ValueError(f"{cls.__name__} has no option {', '.join(sorted(unknown))}; its options: {known}")
        for name, value in options.items():
            if name in _CHOICES:
                if value not in _CHOICES[name]:
                    raise ValueError(f"{name}={value!r} is none; choose {' or '.join(map(str, _CHOICES[name]))}")
                continue
            least, most = _RANGES[name]
            whole = isinstance(cls.options[name], int)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or (whole and value != int(value)) or not least <= value <= most:
                kind = "whole number" if whole else "number"
                raise ValueError(f"{name}={value!r} is out of range; give a {kind} from {least} to {most}")

    def _choose(self, models: list[Evidence]) -> Tensor | tuple[Tensor, Tensor]:
        score = torch.stack([self.score(model) for model in models]).mean(0)
        return largest(score, self.k, self.generator)

    def score(self, evidence: Evidence) -> Tensor:
        """What is large for the samples that stay: (n,)."""
        raise NotImplementedError

    def _by_parts(self, n: int, choose: Callable[[Tensor, int], Tensor], size: int) -> Tensor:
        """``choose`` (members, quota) within random parts of at most ``size``, quotas in proportion."""
        parts = random_parts(torch.arange(n), size, self.generator)
        quotas = shares([len(part) for part in parts], self.k)
        return torch.cat([part[choose(part, quota)] for part, quota in zip(parts, quotas, strict=True) if quota])


class Entropy(Informed):
    """The largest predictive entropy."""

    classification = True

    def score(self, evidence: Evidence) -> Tensor:
        """See ``scores.entropy``."""
        return scores.entropy(evidence.logits, evidence.labels)


class LeastConfidence(Informed):
    """The smallest confidence max(p, 1 - p)."""

    classification = True

    def score(self, evidence: Evidence) -> Tensor:
        """See ``scores.least_confidence``."""
        return scores.least_confidence(evidence.logits, evidence.labels)


class EL2N(Informed):
    """The largest error norm ||p - y||."""

    def score(self, evidence: Evidence) -> Tensor:
        """See ``scores.el2n``."""
        return scores.el2n(evidence.residual)


class GraNd(Informed):
    """The largest norm of the loss gradient by the head."""

    def score(self, evidence: Evidence) -> Tensor:
        """See ``scores.grand``."""
        return scores.grand(evidence.residual, evidence.embeddings)


class Forgetting(Informed):
    """The most forgotten samples; those never learned come first."""

    classification = True

    def score(self, evidence: Evidence) -> Tensor:
        """See ``scores.forgetting``."""
        return scores.forgetting(evidence.forgotten, evidence.learned)


class DeepFool(Informed):
    """The samples closest to the decision boundary."""

    classification = True

    def score(self, evidence: Evidence) -> Tensor:
        """Minus the distance; see ``scores.deepfool``."""
        if evidence.boundary is None:
            raise ValueError("DeepFool needs evidence with the distances to the decision boundary")
        return -evidence.boundary


class Influence(Informed):
    """The largest |influence| on the validation loss; that the sign does not count is reconstructed."""

    options: ClassVar[dict[str, Any]] = {"damping": 0.01}
    damping: float

    def score(self, evidence: Evidence) -> Tensor:
        """See ``influence.influence``."""
        return influence(evidence, self.damping).abs()


class Herding(Informed):
    """The subset whose mean embedding stays closest to that of all; in random parts of ``chunk`` samples."""

    options: ClassVar[dict[str, Any]] = {"herding_variant": "argmin", "chunk": 8192}
    herding_variant: str
    chunk: int

    def _choose(self, models: list[Evidence]) -> Tensor:
        z = models[0].embeddings
        return self._by_parts(len(z), lambda part, k: herding(z[part], k, self.herding_variant), self.chunk)


class KMeans(Informed):
    """The samples least similar to their cluster's centroid, with a minimum for each cluster."""

    options: ClassVar[dict[str, Any]] = {
        "clusters": 100,
        "balance": 0.5,
        "similarity": None,
        "iterations": 10,
    }
    clusters: int
    balance: float
    similarity: str | None
    iterations: int

    def _choose(self, models: list[Evidence]) -> Tensor:
        features = models[0].features
        measure = self.similarity or ("cosine" if features is None else "tanimoto")
        rows = models[0].embeddings if features is None else features
        label, own = cluster(rows, self.clusters, self.generator, measure, self.iterations)
        return least_prototypical(label, own, self.k, self.balance)


class ContextualDiversity(Informed):
    """Greedy k-center by the symmetric KL of predictions (CD); in random parts of ``chunk`` samples."""

    classification = True
    options: ClassVar[dict[str, Any]] = {"chunk": 8192}
    chunk: int

    def _choose(self, models: list[Evidence]) -> Tensor:
        logits = models[0].logits

        def pick(part: Tensor, k: int) -> Tensor:
            start = int(torch.randint(len(part), (1,), generator=self.generator))
            return k_center(len(part), k, symmetric_kl(logits[part]), start)

        return self._by_parts(len(logits), pick, self.chunk)


class Craig(Informed):
    """The facility-location cover of the gradients, per class, with cluster sizes as weights."""

    options: ClassVar[dict[str, Any]] = {"chunk": 4096}
    chunk: int

    def _choose(self, models: list[Evidence]) -> tuple[Tensor, Tensor]:
        evidence = models[0]
        if evidence.regression:
            classes = torch.zeros(self.n, dtype=torch.int64)
        else:
            classes = (evidence.labels == 1).any(1).long()
        return craig(evidence.embeddings, evidence.residual, classes, self.k, self.generator, self.chunk)


class Glister(Informed):
    """The samples whose gradients lower the validation loss."""

    options: ClassVar[dict[str, Any]] = {"rounds": 100, "eta": 1.0, "target": "validation"}
    rounds: int
    eta: float
    target: str

    def _choose(self, models: list[Evidence]) -> Tensor:
        return glister(models[0], self.k, self.rounds, self.eta, self.target)


class DatasetPruning(Informed):
    """Drops the samples whose summed influence on the parameters is smallest (DP)."""

    options: ClassVar[dict[str, Any]] = {"damping": 0.01, "rounds": 2000}
    damping: float
    rounds: int

    def _choose(self, models: list[Evidence]) -> Tensor:
        changes = parameter_changes(models[0], self.generator, self.damping)
        stays = torch.ones(self.n, dtype=torch.bool)
        stays[smallest_sum(changes, self.n - self.k, self.rounds)] = False
        return stays.nonzero().flatten()
