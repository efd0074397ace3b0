"""A user's own auction log: values.csv (auction, bidder, side, value) and edges.csv (store, brand)."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from decathlon.errors import DataError

VALUE_COLUMNS = ("auction", "bidder", "side", "value")
EDGE_COLUMNS = ("store", "brand")
SIDES = ("store", "brand")


@dataclass(frozen=True)
class AuctionLog:
    """A log in arrays; auctions in the order of their first row, bidders in the order of theirs, stores first.

    Attributes:
        stores, brands: names.
        bundles: (store, brand) numbers of the edge list.
        values: (N, n) float64, 0 where a bidder is absent.
        seen: (N, n) bool, whether the bidder took part.
    """

    stores: tuple[str, ...]
    brands: tuple[str, ...]
    bundles: tuple[tuple[int, int], ...]
    values: Tensor
    seen: Tensor

    def presence(self) -> Tensor:
        """(N, E) bool: bundles whose store and brand both took part."""
        store, brand = torch.tensor(self.bundles).T
        return self.seen[:, store] & self.seen[:, brand + len(self.stores)]


def read_log(values: str | Path, edges: str | Path, root: str | Path = ".") -> AuctionLog:
    """Read and check a log; relative paths are looked up in the working folder, then in ``root``.

    Raises:
        DataError: a file is missing, or a row is wrong: its file, line and fault, and how many rows are wrong in all.
    """
    found = [_find(path, root) for path in (values, edges)]
    return _read(*[(path, path.stat().st_mtime_ns) for path in found])


@lru_cache(maxsize=4)
def _read(values: tuple[Path, int], edges: tuple[Path, int]) -> AuctionLog:
    side_of: dict[str, str] = {}
    auctions: dict[str, dict[str, float]] = {}
    faults: list[str] = []
    for place, row in _rows(values[0], VALUE_COLUMNS):
        fault = row if isinstance(row, str) else _value_fault(row, side_of, auctions)
        if isinstance(row, str) or fault:
            faults.append(f"{place}: {fault}")
            continue
        side_of[row["bidder"]] = row["side"]
        auctions.setdefault(row["auction"], {})[row["bidder"]] = float(row["value"])
    _raise(faults)
    if not auctions:
        raise DataError(f"{values[0].name} has no rows")
    stores, brands = (tuple(name for name, side in side_of.items() if side == wanted) for wanted in SIDES)
    numbers = {name: number for number, name in enumerate((*stores, *brands))}
    bundles = _read_edges(
        edges[0], side_of, {name: place for names in (stores, brands) for place, name in enumerate(names)}
    )
    table = torch.zeros(len(auctions), len(numbers), dtype=torch.float64)
    seen = torch.zeros(table.shape, dtype=torch.bool)
    for line, bids in enumerate(auctions.values()):
        columns = [numbers[name] for name in bids]
        table[line, columns] = torch.tensor(list(bids.values()), dtype=torch.float64)
        seen[line, columns] = True
    return AuctionLog(stores, brands, bundles, table, seen)


def _value_fault(row: dict[str, str], side_of: dict[str, str], auctions: dict[str, dict[str, float]]) -> str | None:
    bidder, side = row["bidder"], row["side"]
    if not row["auction"] or not bidder:
        return "auction and bidder must not be empty"
    if side not in SIDES:
        return f"side is '{side}', expected store or brand"
    if side_of.get(bidder, side) != side:
        return f"bidder {bidder} is a {side} here and a {side_of[bidder]} before"
    if bidder in auctions.get(row["auction"], {}):
        return f"bidder {bidder} is in auction {row['auction']} twice"
    try:
        value = float(row["value"])
    except ValueError:
        return f"value '{row['value']}' is no number"
    if not math.isfinite(value):
        return f"value {row['value']} is not finite"
    return f"value {row['value']} is negative" if value < 0 else None


def _read_edges(path: Path, side_of: dict[str, str], number: dict[str, int]) -> tuple[tuple[int, int], ...]:
    bundles: dict[tuple[int, int], None] = {}
    faults = []
    for place, row in _rows(path, EDGE_COLUMNS):
        if isinstance(row, str):
            faults.append(f"{place}: {row}")
            continue
        fault = None
        for side in SIDES:
            if side_of.get(row[side]) != side:
                fault = f"there is no {side} '{row[side]}' in the log"
                break
        if fault is None:
            edge = (number[row["store"]], number[row["brand"]])
            fault = f"edge {row['store']} - {row['brand']} is listed twice" if edge in bundles else None
            bundles[edge] = None
        if fault:
            faults.append(f"{place}: {fault}")
    _raise(faults)
    if not bundles:
        raise DataError(f"{path.name} has no edges")
    return tuple(bundles)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str] | str]]:
    """("file line N", row) with stripped fields; of a short or long row its fault. The header is checked."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in header]
            if missing:
                raise DataError(f"{path.name} lacks the column {', '.join(missing)}; it needs {', '.join(columns)}")
            for row in reader:
                if not row:
                    continue
                place = f"{path.name} line {reader.line_num}"
                if len(row) != len(header):
                    yield place, f"{len(row)} fields, the header has {len(header)}"
                    continue
                fields = dict(zip(header, (field.strip() for field in row)))
                yield place, fields
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is no readable csv file ({error})") from error


def _raise(faults: list[str]) -> None:
    if faults:
        rest = f" ({len(faults)} faulty rows in all)" if len(faults) > 1 else ""
        raise DataError(faults[0] + rest)


def _find(path: str | Path, root: str | Path) -> Path:
    for candidate in (Path(path).expanduser(), Path(root).expanduser() / path):
        if candidate.is_file():
            return candidate
    raise DataError(f"{path} not found, neither here nor in {root}")
