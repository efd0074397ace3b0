"""Value distributions by the names that configs give them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from decathlon.build import check_options
from decathlon.errors import ConfigError
from decathlon.tasks.jregnet.priors import (
    Copula,
    Discrete,
    Exponential,
    LogNormal,
    Normal,
    Prior,
    Product,
    TruncatedExponential,
    TwoPeaks,
    Uniform,
)


def _for_all(family: Callable[..., Prior]) -> Callable[..., Prior]:
    """A family whose first argument is the number of bidders, as a function of the numbers of stores and brands."""

    def make(stores: int, brands: int, **options: Any) -> Prior:
        return family(stores + brands, **options)

    parameters = list(inspect.signature(family).parameters.values())[1:]
    sides = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("stores", "brands")]
    make.__signature__ = inspect.Signature([*sides, *parameters])  # type: ignore[attr-defined]
    return make


def _asymmetric(stores: int, brands: int, high: float = 2.0) -> Prior:
    return Product(Uniform(stores), Uniform(brands, high=high))


def _mixed(stores: int, brands: int, rate: float = 2.0) -> Prior:
    return Product(Uniform(stores), Exponential(brands, rate=rate))


def _correlated(stores: int, brands: int, correlation: float = 0.5) -> Prior:
    return Copula(Uniform(stores + brands), correlation)


DISTRIBUTIONS: dict[str, Callable[..., Prior]] = {
    "uniform": _for_all(Uniform),
    "exponential": _for_all(Exponential),
    "truncated_exponential": _for_all(TruncatedExponential),
    "normal": _for_all(Normal),
    "lognormal": _for_all(LogNormal),
    "two_peaks": _for_all(TwoPeaks),
    "discrete": _for_all(Discrete),
    "asymmetric": _asymmetric,
    "mixed": _mixed,
    "correlated": _correlated,
}


def make_prior(distribution: str | Mapping[str, Any], stores: int, brands: int) -> Prior:
    """The prior that a config names: a kind, or ``{kind: exponential, rate: 1, cap: 2}``."""
    options = dict(distribution) if isinstance(distribution, Mapping) else {"kind": distribution}
    kind = options.pop("kind", None)
    if kind not in DISTRIBUTIONS:
        raise ConfigError(f"distribution={kind} is unknown; choose {', '.join(DISTRIBUTIONS)}")
    family = DISTRIBUTIONS[kind]
    check_options(family, options, f"distribution={kind}", given=2)
    try:
        return family(stores, brands, **options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"distribution={kind}: {str(error).splitlines()[0]}") from error
