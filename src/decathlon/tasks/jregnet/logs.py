"""A user's own auction log: values.csv (auction, bidder, side, value) and edges.csv (store, brand).

A row of edges.csv with one field left empty is a bundle of a single bidder: stores alone make a traditional auction,
both kinds together a hybrid one. Names are compared in Unicode's composed form (NFC).
"""

import csv
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.tasks.jregnet.auction import Bundle

VALUE_COLUMNS = ("auction", "bidder", "side", "value")
EDGE_COLUMNS = ("store", "brand")
SIDES = ("store", "brand")
LARGEST = 1e30  # sums of products still fit into float32


@dataclass(frozen=True)
class AuctionLog:
    """A log in arrays; auctions in the order of their first row, bidders in the order of theirs, stores first.

    Attributes:
        stores, brands: names.
        bundles: (store, brand) numbers of the edge list; None where a side is left out.
        values: (N, n) float64, 0 where a bidder is absent.
        seen: (N, n) bool, whether the bidder took part.
    """

    stores: tuple[str, ...]
    brands: tuple[str, ...]
    bundles: tuple[Bundle, ...]
    values: Tensor
    seen: Tensor

    def presence(self) -> Tensor:
        """(N, E) bool: bundles whose members all took part."""
        everybody = torch.cat([self.seen, torch.ones(len(self.seen), 1, dtype=torch.bool)], 1)
        nobody = self.seen.shape[1]  # the column of a side that is left out
        stores = [nobody if store is None else store for store, _ in self.bundles]
        brands = [nobody if brand is None else brand + len(self.stores) for _, brand in self.bundles]
        return everybody[:, stores] & everybody[:, brands]


def read_log(values: str | Path, edges: str | Path, root: str | Path = ".") -> AuctionLog:
    """Read and check a log; relative paths are looked up in the working folder, then in ``root``.

    Raises:
        DataError: a file is missing, or a row is wrong: its file, line and fault, and how many rows are wrong in all.
    """
    found = [_find(path, root) for path in (values, edges)]
    return _read(*[(path, path.stat().st_mtime_ns, path.stat().st_size) for path in found])


@lru_cache(maxsize=4)
def _read(values: tuple[Path, int, int], edges: tuple[Path, int, int]) -> AuctionLog:
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
    if value > LARGEST:
        return f"value {row['value']} is above {LARGEST:g}: take a larger unit of money"
    return f"value {row['value']} is negative" if value < 0 else None


def _read_edges(path: Path, side_of: dict[str, str], number: dict[str, int]) -> tuple[Bundle, ...]:
    bundles: dict[Bundle, None] = {}
    faults = []
    for place, row in _rows(path, EDGE_COLUMNS):
        if isinstance(row, str):
            faults.append(f"{place}: {row}")
            continue
        named = [side for side in SIDES if row[side]]
        fault = None if named else "store and brand are both empty"
        for side in named:
            if side_of.get(row[side]) != side:
                fault = f"there is no {side} '{row[side]}' in the log"
                break
        if fault is None:
            edge = (number.get(row["store"]), number.get(row["brand"]))
            both = " - ".join(row[side] for side in named)
            fault = f"edge {both} is listed twice" if edge in bundles else None
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
            header = [_text(name) for name in next(reader, [])]
            double = [name for name in columns if header.count(name) > 1]
            if double:
                raise DataError(f"{path.name} has the column {double[0]} twice")
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
                fields = [_text(field) for field in row]
                yield place, "the header again" if fields == header else dict(zip(header, fields))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is no readable csv file ({error})") from error


def _text(field: str) -> str:
    return unicodedata.normalize("NFC", field.strip())


def _raise(faults: list[str]) -> None:
    if faults:
        rest = f" ({len(faults)} faulty rows in all)" if len(faults) > 1 else ""
        raise DataError(faults[0] + rest)


def _find(path: str | Path, root: str | Path) -> Path:
    for candidate in (Path(path).expanduser(), Path(root).expanduser() / path):
        if candidate.is_file():
            return candidate
    raise DataError(f"{path} not found, neither here nor in {root}")
