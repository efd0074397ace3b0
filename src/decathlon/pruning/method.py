"""From the config of a method to its pruner."""

from collections.abc import Mapping
from typing import Any, cast

from decathlon.build import build, locate
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
        ValueError: an option is unknown or out of range, in one line.
    """
    extra: dict[str, Any] = {} if evidence is None else {"evidence": evidence}
    spec = {key: value for key, value in method.items() if key != "scoring"}
    generator = epoch_generator(seed, 2**31)  # no epoch's own
    try:
        return cast(Pruner, build(spec, n, prune=prune, generator=generator, **extra))
    except TypeError as error:
        raise ValueError(f"method {method.get('name')}: {str(error).partition('() ')[2] or error}") from None


def check_method(method: Mapping[str, Any], prune: float) -> type[Pruner]:
    """The class of a method, after its options and ``prune`` have been checked without any data."""
    kept(2, prune)
    kind = cast(type[Pruner], locate(method["class"]))
    if not kind.wants_evidence:
        make_pruner(method, 2, prune)
    return kind
