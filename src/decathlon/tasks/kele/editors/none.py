"""The unedited model, in the place of an editor."""

from typing import ClassVar

from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.editors.base import BaseEditor
from decathlon.tasks.kele.update import Update


class NoEdit(BaseEditor):
    """Changes nothing; its updates are empty."""

    writes: ClassVar[bool] = False

    def _prepare(self, requests: list[list[Edit]]) -> list[Update]:
        return [Update() for _ in requests]
