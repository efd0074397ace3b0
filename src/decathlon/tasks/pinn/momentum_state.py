"""What M-ConFIG keeps from step to step, and what it looks at before it touches that."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decathlon.tasks.pinn.errors import NotFiniteError
from decathlon.tasks.pinn.flat import Flat


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``lr``, ``betas``, ``eps`` and ``weight_decay`` can be used."""
    for name in ("lr", "eps", "weight_decay"):
        if not float(options[name]) >= 0:
            raise ValueError(f"{name}={options[name]} must not be negative")
    betas = options["betas"]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas={betas} must be two numbers in [0, 1)")


def check_finite(index: int, value: Tensor, gradient: Tensor) -> None:
    """Raise NotFiniteError if a loss or its gradient (N,) is not finite, or the gradient's squares are not."""
    if not bool(value.isfinite()):
        raise NotFiniteError(f"loss {index} (counted from 0) is not finite")
    if bool(torch.linalg.vector_norm(gradient).isfinite()):
        return
    loss = f"the gradient of loss {index} (counted from 0)"
    if not bool(gradient.isfinite().all()):
        raise NotFiniteError(f"{loss} is not finite")
    raise NotFiniteError(f"{loss} is too large: the squares of {str(gradient.dtype)[6:]} are not finite")


def check_state(state: Mapping[str, Any], losses: int, size: int) -> None:
    """Raise ValueError unless a state dict is one of M-ConFIG for so many losses and parameters."""
    momentum = state.get("momentum")
    if not isinstance(momentum, Mapping) or "operator" not in state:
        raise ValueError(f"this is no state of MConFIG, but of another optimizer: it has {', '.join(map(str, state))}")
    if len(momentum["seen"]) != losses:
        raise ValueError(f"state of {len(momentum['seen'])} losses, but num_losses={losses}")
    if "momenta" in momentum and momentum["momenta"].shape[1] != size:
        raise ValueError(f"state of {momentum['momenta'].shape[1]} parameters, here are {size}")


def moments(kept: dict[str, Tensor], flat: Flat, losses: int) -> dict[str, Tensor]:
    """The momenta of the losses and their Gram matrix, both moments of Adam, and the last loss values.

    They are made at first use, and moved where the parameters were moved since (to another device or precision).
    """
    dtype = flat.state_dtype
    if not kept:
        return {
            "momenta": flat.zeros(losses, dtype=dtype),
            "first": flat.zeros(dtype=dtype),
            "second": flat.zeros(dtype=dtype),
            "gram": torch.zeros(losses, losses, dtype=torch.float64),
            "values": torch.zeros(losses, dtype=dtype, device=flat.device),
        }
    if (kept["first"].device, kept["first"].dtype) == (flat.device, dtype):
        return kept
    return {name: value if name == "gram" else value.to(flat.device, dtype) for name, value in kept.items()}
