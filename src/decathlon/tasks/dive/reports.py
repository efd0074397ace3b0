"""What a job says: its metrics by name, curves over epochs, and a few lines about every member."""

import csv
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon.files import atomic, write_text
from decathlon.tasks.dive.data.parts import PARTS
from decathlon.tasks.dive.selection import Selection

log = logging.getLogger(__name__)
Masks = dict[str, dict[str, Tensor]]


@dataclass
class History:
    """One row for each evaluation and member: ``epoch``, ``member``, ``<part>/<metric>``, ``<part>/f1``, …"""

    rows: list[dict[str, float]] = field(default_factory=list)

    def add(self, epoch: int, metric: str, values: dict[str, Tensor], masks: Masks) -> None:
        """The members' values (m,) of each part, and what is known of their masks."""
        members = len(next(iter(values.values())))
        for member in range(members):
            row = {"epoch": float(epoch), "member": float(member)}
            row |= {f"{part}/{metric}": float(of[member]) for part, of in values.items()}
            for part, summary in masks.items():
                row |= {f"{part}/{name}": float(of[member]) for name, of in summary.items() if of.dim()}
                row |= {f"{part}/{name}": float(of) for name, of in summary.items() if not of.dim()}
            self.rows.append(row)

    def curve(self, name: str, member: int) -> tuple[list[float], list[float]]:
        """Epochs and values of a member."""
        rows = [row for row in self.rows if row["member"] == member and name in row]
        return [row["epoch"] for row in rows], [row[name] for row in rows]


def test_metrics(metric: str, selection: Selection, values: dict[str, Tensor], masks: Masks) -> dict[str, float]:
    """The metrics of a test by name.

    ``<metric>``: on the OOD test set, of the member and epoch that OOD validation chose; ``<metric>_<part>``: of the
    same on every part; ``<metric>_by_id``, ``<metric>_by_id_<part>``: chosen by ID validation. ``<metric>_member<k>``,
    ``<metric>_id_test_member<k>``: of each member as of its own best epoch by OOD validation. ``f1``, ``precision``,
    ``recall``, ``keep_rate`` of the chosen member's masks {p > 0.5} on the OOD test set, with ``_member<k>`` of
    each; ``jaccard`` of all members' beside ``jaccard_independent``, what independent masks of these keep rates have.
    """
    found: dict[str, float] = {}
    for criterion, label in (("ood", ""), ("id", "_by_id")):
        winner = selection.winner(criterion)
        for part in PARTS:
            found[f"{metric}{label}_{part}"] = float(values[f"{criterion}/{part}"][winner])
        found[f"{metric}{label}"] = found[f"{metric}{label}_ood_test"]
        found[f"member{label}"] = float(winner)
        found[f"epoch{label}"] = float(selection.kept[criterion][winner].epoch)
    members = len(selection.kept["ood"])
    for member in range(members if members > 1 else 0):
        found[f"{metric}_member{member}"] = float(values["ood/ood_test"][member])
        found[f"{metric}_id_test_member{member}"] = float(values["ood/id_test"][member])
    for name, of in masks.get("ood/ood_test", {}).items():
        found[name] = float(of[selection.winner("ood")]) if of.dim() else float(of)
        if of.dim() and members > 1:
            found |= {f"{name}_member{member}": float(of[member]) for member in range(members)}
    return found


def log_outcome(method: str, metric: str, selection: Selection, values: dict[str, Tensor], masks: Masks) -> None:
    """One line for each member."""
    winner, summary = selection.winner("ood"), masks.get("ood/ood_test", {})
    for member, kept in enumerate(selection.kept["ood"]):
        numbers = [f"{part.replace('_', ' ')} {float(values[f'ood/{part}'][member]):.3f}" for part in PARTS]
        numbers += [
            f"mask {name.replace('_', ' ')} {float(of[member]):.2f}" for name, of in summary.items() if of.dim()
        ]
        mark = "  <- chosen by OOD validation" if member == winner else ""
        log.info("%s member %d, epoch %d: %s %s%s", method, member, kept.epoch, metric, ", ".join(numbers), mark)
    if "jaccard" in summary:
        independent = float(summary["jaccard_independent"])
        log.info("overlap of the masks: Jaccard %.3f (independent: %.3f)", float(summary["jaccard"]), independent)


def write_outcome(folder: Path, history: History, quality: Tensor | None, standalone: dict[str, Any]) -> None:
    """``history.csv``; ``mask_quality.json``, precision, recall and F1 of every OOD test graph; and ``model.pt``."""
    columns = sorted(
        {name for row in history.rows for name in row}, key=lambda name: (name not in ("epoch", "member"), name)
    )
    with atomic(folder / "history.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history.rows)
    if quality is not None:
        rounded = {
            name: [[round(value, 4) for value in member] for member in of.tolist()]
            for name, of in zip(("precision", "recall", "f1"), quality)
        }
        write_text(folder / "mask_quality.json", json.dumps(rounded))
    with atomic(folder / "model.pt") as path:
        torch.save(standalone, path)
