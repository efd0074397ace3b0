"""A corpus that is there already: the docstrings of installed packages, technical English with some code.

Its content depends on the installed versions. So it has a hash, and what was measured on one hash is compared with
nothing that was measured on another.
"""

import ast
import importlib.util
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from decathlon.errors import DataError
from decathlon.progress import track

STANDARD_LIBRARY = "stdlib"
_PASSED_OVER = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3"}


def package_folder(package: str) -> Path:
    """The folder of an installed package; ``stdlib``: of the standard library.

    Raises:
        DataError: one line, if it is not installed.
    """
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_paths()["stdlib"])
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin:
        raise DataError(f"the package {package} is not installed, so there are no docstrings of it")
    return Path(spec.origin).parent


def package_version(package: str) -> str:
    """What decides about a package's docstrings: its version; of the standard library, Python's."""
    if package == STANDARD_LIBRARY:
        return sys.version.split()[0]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:  # its distribution has another name
        return str(package_folder(package))


def docstrings(packages: Sequence[str], shortest: int = 200) -> list[str]:
    """Every docstring of a module, class or function of the packages, each text once, in the order of the files.

    Args:
        packages: names as they are imported, or ``stdlib``. shortest: number of characters below which one is left out.

    Raises:
        DataError: one line, if a package is not installed or there are none.
    """
    found: dict[str, None] = {}
    for package in packages:
        folder = package_folder(package)
        paths = [
            path for path in sorted(folder.rglob("*.py")) if not _PASSED_OVER & set(path.relative_to(folder).parts)
        ]
        for path in track(paths, f"docstrings of {package}"):
            found.update(dict.fromkeys(text for text in _of_file(path) if len(text) >= shortest))
    if not found:
        raise DataError(f"{', '.join(packages)} have no docstrings of {shortest} characters or more")
    return list(found)


def _of_file(path: Path) -> Iterator[str]:
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in other people's code
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError):  # templates, files of another Python: no code of this one
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield text
