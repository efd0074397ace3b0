"""A mechanism of the user's own, audited like the built-in rules: ``method=custom method.mechanism=mine:rule``."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from decathlon.tasks.jregnet.auction import JointAuction
from decathlon.tasks.jregnet.methods import Method
from decathlon.tasks.jregnet.priors import Prior


class Custom(Method):
    """A function ``mechanism(auction, bids, present=None) -> Outcome`` as a method that trains nothing.

    Args:
        mechanism: ``<module>:<function>`` or ``<file>.py:<function>``; modules and files of the current folder count.
            A function that has a parameter ``prior`` is given the distribution of values.
        sample: not used; what the reserve of a built-in rule is found on.

    Raises:
        ValueError: in one line, there is no such function, or it does not take what a mechanism is given.
    """

    trains = False

    def __init__(
        self,
        auction: JointAuction,
        prior: Prior,
        seeds: Sequence[int],
        mechanism: str | None = None,
        bidders: str = "both",
        sample: Callable[[int], tuple[Tensor, Tensor | None]] | None = None,
    ) -> None:
        super().__init__(auction, prior, seeds, bidders)
        if not mechanism:
            raise ValueError("name your mechanism: method.mechanism=<module>:<function>")
        self.rule = load_function(mechanism)
        try:
            inspect.signature(self.rule).bind_partial(auction, None, present=None)
        except TypeError:
            raise ValueError(f"{mechanism} must take (auction, bids, present=None)") from None

    def mechanism(self, place: int) -> Callable[..., Any]:
        return self.rule


def load_function(name: str) -> Callable[..., Any]:
    """The function that ``<module>:<function>`` or ``<file>.py:<function>`` names.

    Raises:
        ValueError: there is none.
    """
    module_name, colon, function = name.rpartition(":")
    if not colon or not module_name or not function:
        raise ValueError(f"mechanism={name} is not <module>:<function>")
    try:
        module = _from_file(Path(module_name)) if module_name.endswith(".py") else _from_module(module_name)
    except FileNotFoundError:
        raise ValueError(f"mechanism={name}: there is no file {module_name}") from None
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it needs is not installed
        raise ValueError(f"mechanism={name}: there is no module {module_name} here") from None
    found = getattr(module, function, None)
    if not callable(found):
        raise ValueError(f"mechanism={name}: {module_name} has no function {function}")
    return found


def _from_module(name: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)  # a console script does not look in the current folder
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
