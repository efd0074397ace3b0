"""The optimizer that follows the combined gradient: Adam, or what a method config asks for."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from decathlon.build import build, locate
from decathlon.errors import ConfigError
from decathlon.tasks.pinn.momentum import MConFIG
from decathlon.tasks.pinn.operators.base import Operator
from decathlon.tasks.pinn.weightings import LS, Weighting


def outer_optimizer(
    spec: Mapping[str, Any] | None,
    parameters: Sequence[Tensor] | Sequence[dict[str, Any]],
    lr: float,
    method: Operator | Weighting,
    clip_norm: float | None = None,
) -> Optimizer:
    """The optimizer of a spec such as ``{"class": "torch.optim.AdamW", "weight_decay": 0.01}``; Adam without one.

    L-BFGS searches along a line of one fixed loss, so it needs the plain sum (``LS``) as the method.

    Args:
        spec: class and options, without ``lr``.
        parameters: tensors or groups.
        lr: highest learning rate; the run's schedule sets it at each step.
        method: the operator or weighting that gives the gradient.
        clip_norm: whether the gradient is clipped.

    Raises:
        ConfigError: in one line, what cannot be built or would be wrong.
    """
    if spec is None:
        return torch.optim.Adam(parameters, lr=lr, foreach=True)
    if not isinstance(spec, Mapping) or "class" not in spec:
        raise ConfigError(f"optimizer={spec} names no class: for example optimizer.class=torch.optim.AdamW")
    kind = locate(spec["class"])
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ConfigError(f"optimizer={spec['class']} is no torch optimizer")
    if issubclass(kind, MConFIG):
        raise ConfigError("M-ConFIG follows no other method: choose it as the method, not as its optimizer")
    if issubclass(kind, LBFGS) and not (isinstance(method, LS) and clip_norm is None):
        raise ConfigError(f"LBFGS needs one fixed loss: the plain sum LS, unclipped; not {type(method).__name__}")
    if "lr" in spec:
        raise ConfigError("optimizer.lr is the run's own learning rate: set lr")
    return build(spec, parameters, called="optimizer", lr=lr)
