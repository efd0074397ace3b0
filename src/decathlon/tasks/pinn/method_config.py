"""From a method config to an operator, a weighting or M-ConFIG."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from decathlon.build import build, locate
from decathlon.errors import ConfigError
from decathlon.tasks.pinn.momentum import MConFIG
from decathlon.tasks.pinn.operators.base import Operator
from decathlon.tasks.pinn.weightings import Weighting


def is_momentum(config: Mapping[str, Any]) -> bool:
    """Whether the config is one of M-ConFIG (with any operator).

    Raises:
        ConfigError: its class does not exist.
    """
    if "class" not in config:
        raise ConfigError(f"method={config.get('name', '?')} names no class")
    kind = locate(config["class"])
    return isinstance(kind, type) and issubclass(kind, MConFIG)


def build_operator(config: Mapping[str, Any], called: str = "method") -> Operator | Weighting:
    """An operator or a weighting; the config of direction weights in it is built too.

    Args:
        config: class and options.
        called: what the config is to the user; messages begin with it.

    Raises:
        ConfigError: with one line, if it cannot be built.
    """
    options = dict(config)
    weights = options.get("weights")
    if isinstance(weights, Mapping):
        options["weights"] = build_operator(weights, f"{called}.weights")
    found = build(options, called=called)
    if not isinstance(found, Operator | Weighting):
        raise ConfigError(f"{called}: {config['class']} is neither a gradient operator nor a weighting")
    return found


def build_method(config: Mapping[str, Any], parameters: list[Tensor], count: int) -> Operator | Weighting | MConFIG:
    """The method for ``count`` losses of ``parameters``.

    Raises:
        ConfigError: with one line, if it cannot be built.
    """
    if not is_momentum(config):
        return build_operator(config)
    options = dict(config)
    inner = options.pop("operator", None)
    operator = None if inner is None else build_operator(inner, "method.operator")
    return build(options, parameters, called="method", num_losses=count, operator=operator)
