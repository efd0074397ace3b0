"""Bars of the relative improvement over Adam, from a table of finished jobs.

decathlon table pinn/fig4 --format json > fig4.json
python scripts/analysis/pinn_improvement.py fig4.json fig4.png [METRIC]
"""

import argparse
import json
import sys
from collections.abc import Sequence

from decathlon.tasks.pinn.figures import improvement_figure
from decathlon.tasks.pinn.improvement import relative_improvement


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="bars of the relative improvement over Adam")
    parser.add_argument("table", help="a table as JSON: decathlon table pinn/fig4 --format json")
    parser.add_argument("picture", help="the picture to write")
    parser.add_argument("metric", nargs="?", help="an error, such as test/mse_best; by default the table's first one")
    given = parser.parse_args(arguments)
    try:
        with open(given.table, encoding="utf-8") as file:
            improvements = relative_improvement(json.load(file), given.metric)
    except (OSError, ValueError, KeyError) as error:
        print(f"{given.table}: {error}", file=sys.stderr)
        return 1
    improvement_figure(improvements).savefig(given.picture, dpi=130)
    for dataset, methods in improvements.items():
        print(dataset, ", ".join(f"{method} {value:.1f} %" for method, value in methods.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
