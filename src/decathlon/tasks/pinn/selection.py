"""The value of a test metric at the end, at its best, and where the training loss was best."""

import math
from typing import Any


class Selection:
    """Keeps three readings of a metric that is evaluated many times during training.

    ``final``: the last one. ``best``: the best one ever seen, as ConFIG reports it (it selects on the test
    set). ``selected``: the one where the selection value (training loss, or a validation score) was best: no
    look at the test.

    Args:
        better: ``lower`` or ``higher``: which test values are better.
        select: the same for the selection value; ``lower`` by default.
    """

    def __init__(self, better: str = "lower", select: str = "lower") -> None:
        for word in (better, select):
            if word not in ("lower", "higher"):
                raise ValueError(f"{word!r} must be lower or higher")
        self._sign = {"best": 1 if better == "lower" else -1, "selected": 1 if select == "lower" else -1}
        self._state: dict[str, Any] = {}

    def add(self, step: int, value: float, selection: float, **others: float) -> None:
        """One evaluation at ``step``; ``others`` are further metrics, kept along with the main one."""
        reading = {"value": value, "selection": selection, "step": step, **others}
        self._state["final"] = reading
        for kind, key in (("best", "value"), ("selected", "selection")):
            old, new = self._state.get(kind), reading[key]
            if math.isnan(new) and old is not None:
                continue
            if old is None or math.isnan(old[key]) or self._sign[kind] * (new - old[key]) < 0:
                self._state[kind] = reading

    def results(self, name: str) -> dict[str, float]:
        """``name_final``, ``name_best``, ``name_selected``, the steps of the last two; {} before ``add``."""
        found: dict[str, float] = {}
        for kind, reading in self._state.items():
            found[f"{name}_{kind}"] = reading["value"]
            if kind != "final":
                found[f"{name}_{kind}_step"] = float(reading["step"])
        return found

    def reading(self, kind: str) -> dict[str, float]:
        """All metrics of ``final``, ``best`` or ``selected``."""
        return dict(self._state.get(kind, {}))

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {kind: dict(reading) for kind, reading in self._state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self._state = {kind: dict(reading) for kind, reading in state.items()}
