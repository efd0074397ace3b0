"""The edits of a job of task=kele, and the model to write them into."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from decathlon import trained
from decathlon.errors import ConfigError, DataError
from decathlon.language import generate
from decathlon.language import load as load_model
from decathlon.tasks.kele.models import WORLD
from decathlon.tasks.kele.update import Update

UPDATES = "updates"
MODEL = "model"


class Edited:
    """A model, as it was before any edit, and the updates of the job's cases.

    Attributes:
        model, tokenizer: of transformers.
        updates: by case, the change of weights that the job has found for it.
    """

    def __init__(self, model: Any, tokenizer: Any, updates: Mapping[str, Update]) -> None:
        self.model, self.tokenizer, self.updates = model, tokenizer, dict(updates)

    def write(self, *cases: str) -> None:
        """Write the updates of these cases into the model, one upon the other; of all cases without a name.

        Each update was found on the unedited model: many of them together may disturb each other.

        Raises:
            ConfigError: there is no such case.
        """
        for case in cases or self.updates:
            if case not in self.updates:
                some = ", ".join(list(self.updates)[:8])
                raise ConfigError(f"{case} is no case of this job; choose {some or 'none: it keeps no updates'}")
            self.updates[case].write(self.model)

    def save(self, folder: str | Path) -> None:
        """The model as it is now and its tokenizer as a folder that ``transformers`` loads."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def predict_rows(self, rows: list[trained.Row]) -> list[dict[str, Any] | str]:
        """Of rows with a column ``prompt``, and optionally ``case``: what the model says, with that case's edit in it.

        A row without a case asks the unedited model.
        """
        if rows and "prompt" not in rows[0]:
            raise DataError(f"the table has no column prompt; its columns: {', '.join(rows[0])}")
        found: list[dict[str, Any] | str] = []
        for row in rows:
            case = (row.get("case") or "").strip()
            if not row["prompt"].strip():
                found.append("it has no prompt")
            elif case and case not in self.updates:
                found.append(f"{case} is no case of this job")
            else:
                update = self.updates[case] if case else Update()
                with update.applied(self.model):
                    (said,) = generate(self.model, self.tokenizer, [row["prompt"]], 8)
                found.append({"says": said.strip()})
        return found


def load(folder: Path, config: Mapping[str, Any]) -> Edited:
    """What ``EditEvaluation.export`` has written; a pretrained model is loaded by its name, as in the job."""
    module = config["module"]
    if (folder / MODEL).is_dir():
        model, tokenizer = load_model(str(folder / MODEL), folder, "float32")
    elif module["model"] == WORLD:
        raise DataError(f"{folder} keeps no model of the world; run the job again with force=true")
    else:
        model, tokenizer = load_model(module["model"], module["root"], module["dtype"])
    files = sorted((folder / UPDATES).glob("*.pt")) if (folder / UPDATES).is_dir() else []
    updates = [Update.load(path) for path in files]
    named = {str(update.notes[0].get("case")): update for update in updates if update.notes}
    with torch.no_grad():
        return Edited(model, tokenizer, named)
