"""Which member is deployed, as of which epoch: the best by a validation set, over members and epochs (section 4.4)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from decathlon.tasks.dive.methods.base import Method

CRITERIA = ("ood", "id")


@dataclass
class Kept:
    """The best of a member so far: the value of the metric, after which epoch, its weights."""

    value: float
    epoch: int
    state: dict[str, Tensor]


class Selection:
    """For each criterion (OOD or ID validation) the best state of each member.

    Of equal values the earliest epoch counts, then the lowest member. A value that is no number is never the best,
    unless there is no other.

    Args:
        higher: whether more is better.
    """

    def __init__(self, higher: bool) -> None:
        self.higher = higher
        self.kept: dict[str, list[Kept]] = {}

    def offer(self, epoch: int, values: Mapping[str, Sequence[float]], method: Method) -> None:
        """Keep the present state of those members that are better than ever before.

        Args:
            values: for each criterion the metric of each member on that validation set.
        """
        states: dict[int, dict[str, Tensor]] = {}
        for criterion, of_members in values.items():
            kept = self.kept.setdefault(criterion, [])
            for member, value in enumerate(of_members):
                if member < len(kept) and not self._better(value, kept[member].value):
                    continue
                state = states.setdefault(member, method.member_state(member))
                kept[member : member + 1] = [Kept(float(value), epoch, state)]

    def winner(self, criterion: str) -> int:
        """The member with the best value."""
        kept = self.kept[criterion]
        best = 0
        for member, one in enumerate(kept):
            same = one.value == kept[best].value
            if self._better(one.value, kept[best].value) or (same and one.epoch < kept[best].epoch):
                best = member
        return best

    def restore(self, criterion: str, method: Method) -> None:
        """Give each member of ``method`` its best state."""
        for member, one in enumerate(self.kept[criterion]):
            method.load_member(member, one.state)

    def _better(self, value: float, than: float) -> bool:
        if math.isnan(value) or math.isnan(than):
            return math.isnan(than) and not math.isnan(value)
        return value > than if self.higher else value < than

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            name: [{"value": one.value, "epoch": one.epoch, "state": one.state} for one in kept]
            for name, kept in self.kept.items()
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``state()``."""
        self.kept = {name: [Kept(**one) for one in kept] for name, kept in state.items()}
