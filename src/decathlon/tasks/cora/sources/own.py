"""A user's own log: one CSV file of interactions, one of items."""

import logging
from pathlib import Path
from typing import Any

import torch

from decathlon.errors import ConfigError, DataError
from decathlon.molecules.csv_files import read_csv
from decathlon.randomness import generator
from decathlon.tasks.cora.log import Log

log = logging.getLogger(__name__)


def from_csv(
    root: Path, interactions: str | None = None, items: str | None = None, seed: int = 0, least: float = 4.0,
    split: str = "time", valid: float = 0.1, test: float = 0.1, plural: str = "items", singular: str = "item",
) -> Log:  # fmt: skip
    """Read and check both files; every row that cannot be used is counted and reported.

    Args:
        interactions: columns ``user``, ``item``, ``label`` (0 or 1) or ``rating``, and ``timestamp`` (a number).
            A column ``split`` (train, valid, test) is taken as it is.
        items: columns ``item``, ``title``.
        least: the label is 1 for ratings from this one.
        split: ``time``: the last shares of the rows are validation and test; ``random``: drawn; then the timestamp
            serves histories only, and may be missing (rows then count in the order of the file).
        valid, test: the shares.
        plural, singular: what items are called in the prompt.

    Raises:
        DataError, ConfigError: one line.
    """
    import pandas as pd

    if interactions is None or items is None:
        raise ConfigError("dataset=csv needs interactions=<file> and items=<file>")
    if split not in ("time", "random"):
        raise ConfigError(f"split={split} is unknown; choose time or random")
    if not (0 < valid < 1 and 0 < test < 1 and valid + test < 1):
        raise ConfigError(f"valid={valid} and test={test} must be shares whose sum is below 1")
    frame, skipped = read_csv(Path(interactions))
    report = {"rows": len(frame) + skipped, "malformed": skipped}
    given = "label" if "label" in frame else "rating"
    timed, parted = "timestamp" in frame, "split" in frame
    needed = ["user", "item", given, *(["timestamp"] if split == "time" and not parted else [])]
    for name in needed:
        if name not in frame:
            what = "label (or rating)" if name == "rating" else name
            raise DataError(f"{interactions} has no column {what}; it has {', '.join(map(str, frame.columns))}")
    for name in [given, *(["timestamp"] if timed else [])]:
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    if given == "label":
        frame.loc[~frame[given].isin([0, 1]), given] = float("nan")
    if parted:
        frame.loc[~frame["split"].isin(["train", "valid", "test"]), "split"] = float("nan")
    wanted = [*needed, *(["timestamp"] if timed else []), *(["split"] if parted else [])]
    whole = frame.dropna(subset=list(dict.fromkeys(wanted)))
    report["incomplete"] = len(frame) - len(whole)
    if not len(whole):
        raise DataError(f"{interactions}: no row with user, item, {given} is left ({report['rows']} in the file)")
    users, user_names = pd.factorize(_text(whole["user"]))
    numbers, item_names = pd.factorize(_text(whole["item"]))
    titles = _titles(items, [str(name) for name in item_names])
    labels = torch.tensor(whole[given].to_numpy() >= (1 if given == "label" else least)).long()
    count = len(whole)
    times = torch.tensor(whole["timestamp"].to_numpy(dtype="float64")) if timed else torch.arange(count).double()
    if parted:
        part = torch.tensor([("train", "valid", "test").index(name) for name in whole["split"]])
    else:
        part = _parts(times, split, valid, test, seed)
    left_out = {why: number for why, number in report.items() if why != "rows" and number}
    if left_out:
        log.warning(
            "%s: of %d rows left out: %s", interactions, report["rows"],
            ", ".join(f"{number} {why}" for why, number in left_out.items()),
        )  # fmt: skip
    return Log(
        torch.tensor(users), torch.tensor(numbers), labels, times, part, len(user_names), len(item_names), titles,
        (plural, singular), report, [str(name) for name in user_names], [str(name) for name in item_names],
    )  # fmt: skip


def _text(column: Any) -> Any:
    """Ids as texts; whole numbers that a gap made floats are written as whole numbers."""
    import pandas as pd

    if pd.api.types.is_float_dtype(column) and (column % 1 == 0).all():
        column = column.astype("int64")
    return column.astype(str).str.strip()


def _titles(path: str, names: list[str]) -> list[str]:
    frame, _ = read_csv(Path(path))
    for column in ("item", "title"):
        if column not in frame:
            raise DataError(f"{path} has no column {column}; it has {', '.join(map(str, frame.columns))}")
    frame = frame.dropna(subset=["item"])
    known: dict[str, str] = {}
    for name, title in zip(_text(frame["item"]), frame["title"].fillna("").astype(str)):
        known.setdefault(name, title.strip())
    absent = [name for name in names if not known.get(name)]
    if absent:
        raise DataError(f"{path}: item {absent[0]} has no title ({len(absent)} of the {len(names)} items with rows)")
    return [known[name] for name in names]


def _parts(times: torch.Tensor, split: str, valid: float, test: float, seed: int) -> torch.Tensor:
    count = len(times)
    if split == "random":
        order = torch.randperm(count, generator=generator("cora split", seed))
        part = torch.zeros(count, dtype=torch.int64)
        part[order[: round(count * test)]] = 2
        part[order[round(count * test) : round(count * test) + round(count * valid)]] = 1
        return part
    ordered = times.sort().values
    cuts = [ordered[min(int((1 - share) * count), count - 1)] for share in (valid + test, test)]
    return (times >= cuts[0]).long() + (times >= cuts[1]).long()
