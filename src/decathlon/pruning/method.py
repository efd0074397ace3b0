"""From the config of a method to its pruner."""

from collections.abc import Mapping
from typing import Any, cast

from decathlon.build import DESCRIPTIVE, build, check_options, locate
from decathlon.pruning.base import Pruner, kept
from decathlon.pruning.evidence import Evidence
from decathlon.pruning.sampler import epoch_generator


def make_pruner(
    method: Mapping[str, Any],
    n: int,
    prune: float,
    seed: int = 0,
    evidence: list[Evidence] | None = None,
) -> Pruner:
    """The pruner that a method's config describes (``class`` and options; ``scoring`` is left out).

    Raises:
        ConfigError: an option is unknown or out of range, in one line.
    """
    extra: dict[str, Any] = {} if evidence is None else {"evidence": evidence}
    generator = epoch_generator(seed, 2**31)  # no epoch's own
    return cast(Pruner, build(_spec(method), n, called="method", prune=prune, generator=generator, **extra))


def check_method(method: Mapping[str, Any], prune: float) -> type[Pruner]:
    """The class of a method, after its options and ``prune`` have been checked without any data.

    Raises:
        ConfigError: an option is unknown or out of range. ValueError: ``prune`` is no share. Both in one line.
    """
    kept(2, prune)
    kind = cast(type[Pruner], locate(method["class"]))
    if kind.wants_evidence:
        options = {key: value for key, value in _spec(method).items() if key not in DESCRIPTIVE}
        added = {"prune": prune, "generator": None, "evidence": None}
        check_options(kind, options, f"method={method.get('name') or kind.__name__}", given=1, also=added)
        cast(Any, kind).check(**options)
    else:
        make_pruner(method, 2, prune)
    return kind


def _spec(method: Mapping[str, Any]) -> dict[str, Any]:
    """The pruner's own options: how its evidence is made is no business of its constructor."""
    return {key: value for key, value in method.items() if key != "scoring"}
