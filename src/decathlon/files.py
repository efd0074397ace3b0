"""Files that are never half-written: atomic writes, caches, raw data files."""

import hashlib
import http.client
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from decathlon.errors import DataError
from decathlon.locks import locked

T = TypeVar("T")
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.part)?(\.\w+)?")


@contextmanager
def atomic(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path`` in one step, on error it is removed.

    ``durable`` also waits for the disk, so that the file survives a loss of power and not only a killed process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=f".part{path.suffix}")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        if durable:
            _wait_for_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _wait_for_disk(folder: Path) -> None:
    """Let a renaming in ``folder`` survive a loss of power, where the file system can say so."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cached(path: str | Path, make: Callable[[], T], save: Callable[[T, Path], None], load: Callable[[Path], T]) -> T:
    """``load(path)`` if it exists; otherwise ``make()`` it once, under a lock, and ``save`` it atomically."""
    path = Path(path)
    if not path.exists():
        with locked(path.with_name(path.name + ".lock")):
            if not path.exists():
                remove_temporaries(path.parent, path.name)
                value = make()
                with atomic(path) as temporary:
                    save(value, temporary)
    return load(path)


def remove_temporaries(folder: str | Path, name: str = "*") -> None:
    """Remove what a killed process left of writing files called ``name`` into ``folder``.

    Only for who holds the lock under which they are written.
    """
    folder = Path(folder)
    for path in folder.iterdir() if folder.is_dir() else []:
        mine = name == "*" or path.name.startswith((f".{name}.", f".{Path(name).stem}."))
        if mine and _TEMPORARY.fullmatch(path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def set_aside(path: str | Path) -> Path:
    """Rename a file that cannot be used to ``<name>.broken`` (then ``.broken1``, …) and return its new path."""
    path = Path(path)
    endings = ("", *map(str, range(1, 1000)))
    target = next(t for end in endings if not (t := path.with_name(f"{path.name}.broken{end}")).exists())
    path.rename(target)
    return target


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(root: str | Path, names: Sequence[str]) -> Path | None:
    """The first of ``names`` that exists in ``root`` or in a direct subfolder of it."""
    root = Path(root)
    for name in names:
        for candidate in [root / name, *sorted(root.glob(f"*/{name}"))]:
            if candidate.is_file():
                return candidate
    return None


def raw_file(root: str | Path, names: Sequence[str], url: str | None = None, digest: str | None = None) -> Path:
    """A raw data file: found under ``root``, or fetched from ``url`` into it and checked by length and SHA-256.

    Args:
        root: the data folder; it and its direct subfolders are searched.
        names: accepted file names, best first; a download is stored under the first name whose suffix is the url's.
        url: where the file is published, if it can be fetched.
        digest: the SHA-256 that a *download* must have.

    Raises:
        DataError: in one line, the file's name and where to put it.
    """
    found = find(root, names)
    if found is not None:
        return found
    wanted = " or ".join(names)
    if url is None:
        raise DataError(f"{wanted} not found in {root}; put it there (data_dir=...), it cannot be downloaded")
    suffix = Path(url).suffix
    target = Path(root) / next((name for name in names if name.endswith(suffix)), names[0])
    try:
        # The lock is not beside the target: a failed download leaves nothing in the data folder.
        name = hashlib.sha256(str(target.absolute()).encode()).hexdigest()[:16]
        with locked(Path(tempfile.gettempdir(), f"decathlon-{os.getuid()}-{name}.lock")):
            if not target.exists():
                with urllib.request.urlopen(url, timeout=60) as source, atomic(target) as temporary:
                    with open(temporary, "wb") as sink:
                        shutil.copyfileobj(source, sink)
                    announced, size = source.headers.get("Content-Length", ""), temporary.stat().st_size
                    if announced.isdigit() and int(announced) != size:
                        raise DataError(f"{url} broke off after {size} of {announced} bytes; nothing kept, try again")
                    if digest is not None and sha256(temporary) != digest:
                        raise DataError(f"{url} has SHA-256 {sha256(temporary)}, expected {digest}; nothing kept")
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"{wanted} not found in {root} and {url} cannot be fetched ({reason}); download it and put it at {target}"
        ) from error
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror or error})") from error
    return target
