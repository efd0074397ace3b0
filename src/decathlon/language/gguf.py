"""GGUF files: dequantised once into an ordinary transformers folder, which then loads in a second or two."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from decathlon.errors import DataError
from decathlon.locks import locked


def unpack_gguf(source: str | Path, target: str | Path) -> Path:
    """Write ``source`` (a GGUF file) as float32 safetensors, config and tokenizer into the folder ``target``, once.

    Several processes may ask at the same time: one does the work. The folder appears in one step when it is complete.

    Raises:
        DataError: if the file is missing or broken, or the packages ``gguf`` and ``accelerate`` are not installed.
    """
    source, target = Path(source), Path(target)
    if not target.is_dir():
        if not source.is_file():
            raise DataError(f"{source} does not exist")
        with locked(target.with_name(target.name + ".lock")):
            if not target.is_dir():
                temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
                try:
                    _convert(source, temporary)
                    temporary.chmod(0o755)
                    temporary.replace(target)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
    return target


def _convert(source: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{source.name} needs the packages gguf and accelerate: pip install 'decathlon[smollm]'"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{source} cannot be read as GGUF ({str(error).splitlines()[0]})") from error
    # The weights are ordinary float32 tensors by now; only these marks keep transformers from saving them.
    for name in ("hf_quantizer", "_hf_quantizer"):
        if getattr(model, name, None) is not None:
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
