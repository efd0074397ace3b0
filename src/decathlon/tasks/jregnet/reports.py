"""What a job writes beside its metrics: one row per run, one row per bidder."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decathlon.files import atomic
from decathlon.tasks.jregnet.audit import Audit
from decathlon.tasks.jregnet.market import Market
from decathlon.tasks.jregnet.methods import Method


@dataclass
class Record:
    """The audit of one run.

    Attributes:
        bidders: one row per bidder: seed, side, name, and its means over the audited profiles.
    """

    seed: int
    metrics: dict[str, float]
    bidders: list[dict[str, Any]]


def per_bidder(seed: int, method: Method, report: Audit, market: Market) -> list[dict[str, Any]]:
    """One row per bidder of the method's auction."""
    stores = market.auction.stores
    names = [*(market.log.stores + market.log.brands)] if market.log else []
    rows = []
    for number in range(method.auction.bidders):
        side = "store" if number < stores else "brand"
        name = names[number] if names else number - (0 if side == "store" else stores)
        numbers = {
            "revenue": float(report.bidder_revenue[number]),
            "regret": float(report.bidder_regret[number]),
            "welfare": float(report.bidder_welfare[number]),
            "clicks": float(report.bidder_clicks[number]),
        }
        rows.append({"seed": seed, "side": side, "bidder": name, **numbers})
    return rows


def write_rows(folder: str | Path, records: Sequence[Record]) -> None:
    """Write ``seeds.csv`` (the metrics of each run) and ``bidders.csv`` into ``folder``."""
    _write(Path(folder) / "seeds.csv", [{"seed": record.seed, **record.metrics} for record in records])
    _write(Path(folder) / "bidders.csv", [row for record in records for row in record.bidders])


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
