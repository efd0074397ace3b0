"""Latency against load and against the target, from finished jobs.

python scripts/analysis/cave_figures.py results/cave out
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from decathlon.errors import DataError
from decathlon.tasks.cave.figures import draw_against, read_jobs


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw ``load.png`` and ``target.png`` from finished jobs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("results", type=Path, help="a folder of finished jobs, for example results/cave")
    parser.add_argument("out", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    try:
        rows = read_jobs(options.results)
    except DataError as error:
        raise SystemExit(str(error)) from None
    options.out.mkdir(parents=True, exist_ok=True)
    targets = [row["target"] for row in rows]
    usual = max(set(targets), key=targets.count)
    rates = [row["rate"] for row in rows]
    common = max(set(rates), key=rates.count)
    loads = [row for row in rows if row["target"] == usual]
    targets_at = [row for row in rows if row["rate"] == common]
    draw_against(options.out / "load.png", loads, "rate", f"tasks per second (target {usual:g})")
    draw_against(options.out / "target.png", targets_at, "target", f"nines of the target ({common:g} tasks/s)")


if __name__ == "__main__":
    main()
