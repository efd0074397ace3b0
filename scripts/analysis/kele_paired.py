"""Two editors on the very same edits: the paired test over cases behind a table.

    python scripts/analysis/kele_paired.py kele/small kele rome
    python scripts/analysis/kele_paired.py kele/smol kele rome --metrics mh mh_any rev --set results_dir=out
    python scripts/analysis/kele_paired.py kele/smol kele rome --format md      # a table for docs/kele.md

Reads the rows (``cases-*.jsonl``) of the finished jobs of an experiment. For each metric: mean of both methods, mean
difference, its standard error over cases, the p-value of the paired t-test over cases, and, with several seeds, the
standard error over the seeds' mean differences (cases of one trained model are not independent of each other).
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev

from scipy import stats

from decathlon.errors import UserError
from decathlon.rows import read_rows
from decathlon.runner.layout import canonical
from decathlon.tables import plan as experiments

ALPHA = 0.05
METRICS = ("mh", "mh_any", "mhp", "rev", "es", "es_acc", "ps", "ns", "ss", "rs_prob", "rank_old")

Values = dict[tuple[str, str], float]
"""(seed, case) -> value."""


def values_of(folders: dict[str, Path], metric: str) -> Values:
    """The metric of every case of some jobs, by seed and case id."""
    return {
        (seed, row["id"]): row["metrics"][metric]
        for seed, folder in folders.items()
        for row in read_rows(folder)
        if metric in row["metrics"]
    }


def paired(a: Values, b: Values) -> dict[str, float]:
    """Means, difference a - b, standard errors and p-value over the cases that both have."""
    keys = sorted(a.keys() & b.keys())
    differences = [a[key] - b[key] for key in keys]
    seeds: dict[str, list[float]] = defaultdict(list)
    for (seed, _), difference in zip(keys, differences):
        seeds[seed].append(difference)
    out = {"n": len(keys), "a": fmean(a[key] for key in keys), "b": fmean(b[key] for key in keys)}
    out["difference"] = fmean(differences)
    many = len(differences) > 1
    out["se"] = stdev(differences) / math.sqrt(len(differences)) if many else math.nan
    out["p"] = float(stats.ttest_1samp(differences, 0).pvalue) if many and out["se"] > 0 else math.nan
    means = [fmean(part) for part in seeds.values()]
    out["seeds"] = len(means)
    out["se_seeds"] = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return out


def verdict(result: Mapping[str, float]) -> str:
    """Which way the difference goes, if the paired t-test over cases sees one at the 5 % level."""
    if result["n"] < 2:
        return "undecided: one case"
    if result["se"] == 0:  # the same difference for every case: there is nothing to test
        return "no different" if result["difference"] == 0 else "undecided"
    if not result["p"] < ALPHA:
        return "undecided"
    return "higher" if result["difference"] > 0 else "lower"


def as_text(metric: str, r: Mapping[str, float]) -> str:
    """One line for the terminal."""
    return (
        f"  {metric:9} {r['a']:8.4f} {r['b']:8.4f}  difference {r['difference']:+.4f} ± {r['se']:.4f} "
        f"(n={r['n']}, p={r['p']:.2g})  over {r['seeds']} seeds ± {r['se_seeds']:.4f}"
    )


def as_markdown(metric: str, r: Mapping[str, float]) -> str:
    """One row of a Markdown table."""
    se, p, seeds = (
        "–" if math.isnan(r[name]) else f"{r[name]:{form}}"
        for name, form in (("se", ".4f"), ("p", ".2g"), ("se_seeds", ".4f"))
    )
    cells = (metric, f"{r['a']:.4f}", f"{r['b']:.4f}", f"{r['difference']:+.4f}", se, p, str(r["n"]), seeds, verdict(r))
    return f"| {' | '.join(cells)} |"


def header(name: str, a: str, b: str, form: str) -> str:
    """What stands above the lines of a cell."""
    if form == "text":
        return f"{name}: {a} - {b}"
    return (
        f"**{name}**: {a} against {b}, paired over the same cases\n\n"
        f"| metric | {a} | {b} | difference | s.e. over cases | p | cases | s.e. over models | {a} is |\n"
        f"{'| --- ' * 9}|"
    )


def main() -> None:
    """Print one line per metric for each cell of the experiment that has both methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="for example kele/small")
    parser.add_argument("a", help="a method of it")
    parser.add_argument("b", help="the method to compare with")
    parser.add_argument("--metrics", nargs="+", default=METRICS)
    parser.add_argument("--format", choices=["text", "md"], default="text", help="md: Markdown tables with verdicts")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides, as given to the sweep")
    arguments = parser.parse_args()
    try:
        plan = experiments.load(arguments.experiment, arguments.set)
    except UserError as error:
        raise SystemExit(str(error)) from None
    cells: dict[tuple[str, ...], dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    for planned in plan.jobs:
        if planned.job.record_path.exists():
            cell = tuple(canonical(planned.values[key]) for key in plan.layout.keys if key != "method")
            cells[cell][planned.job.method][str(planned.job.seed)] = planned.job.folder
    if not cells:
        print(f"{arguments.experiment}: no finished job; run -m experiment={arguments.experiment}")
    for cell, methods in cells.items():
        missing = [name for name in (arguments.a, arguments.b) if name not in methods]
        if missing:
            print(f"{' '.join(cell) or arguments.experiment}: no finished job of {' and '.join(missing)}")
            continue
        print(header(" ".join(cell) or arguments.experiment, arguments.a, arguments.b, arguments.format))
        line = as_text if arguments.format == "text" else as_markdown
        for metric in arguments.metrics:
            a, b = (values_of(methods[name], metric) for name in (arguments.a, arguments.b))
            if a.keys() & b.keys():
                print(line(metric, paired(a, b)))
        if arguments.format == "md":
            print()


if __name__ == "__main__":
    main()
