"""The unedited model, in the place of an editor."""

from collections.abc import Sequence
from typing import Any

from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.editors.base import BaseEditor
from decathlon.tasks.kele.update import Update


class NoEdit(BaseEditor):
    """Changes nothing; its updates are empty."""

    def __init__(
        self, model: Any, tokenizer: Any, layer: int | Sequence[int] | None = None, *,
        corpus: Any = None, samples: Any = None, moments: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        """``corpus``, ``samples`` and ``moments`` are taken, so that all editors are built alike, and not used."""
        super().__init__(model, tokenizer, layer, **options)

    def _prepare(self, requests: list[list[Edit]]) -> list[Update]:
        return [Update() for _ in requests]
