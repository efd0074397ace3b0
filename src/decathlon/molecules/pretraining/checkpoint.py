"""Weights of an encoder from a file of the user's."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.errors import DataError

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("", "encoder.", "module.", "model.", "online.encoder.")


def load_weights(path: str | Path, encoder: nn.Module) -> dict[str, Tensor]:
    """The state dict for ``encoder`` in a ``.pt``/``.pth``/``.ckpt`` (weights only) or ``.safetensors`` file.

    A state dict inside ``state_dict`` or ``model``, and a common prefix such as ``encoder.``, are recognised.

    Raises:
        DataError: the file is missing, broken, or of another encoder; says which weight is missing or misshapen.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"pretrain={path}: there is no such file")
    state = _read(path)
    wanted = encoder.state_dict()
    for prefix in _PREFIXES:
        found = {name: state[prefix + name] for name in wanted if prefix + name in state}
        if len(found) == len(wanted):
            break
    else:
        missing = next(name for name in wanted if name not in state)
        raise DataError(f"{path} is no checkpoint of this encoder: it has no {missing}")
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise DataError(
                f"{path} is of another encoder: {name} is {tuple(found[name].shape)}, not {tuple(value.shape)}"
            )
    return found


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is no readable safetensors file ({error})") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types on broken files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be loaded as plain weights ({reason[:120]})") from error
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise DataError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state
