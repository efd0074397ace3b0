"""Bring the measured tables in docs/results.md and in the README up to date with the records in the results folder.

    python scripts/results_page.py [override ...]     # overrides as for `decathlon table`, for example results_dir=out

docs/results.md has every experiment of every task, in the catalog's order, with its verdicts; an experiment none of
whose jobs is finished is left out. In the README, what stands between ``<!-- table <experiment> <metric>,<metric> -->``
and ``<!-- /table -->`` is replaced.
"""

import re
import sys
from pathlib import Path

from decathlon.runner import catalog
from decathlon.tables.render import to_markdown
from decathlon.tables.table import make_table

ROOT = Path(__file__).parents[1]
HEAD = """# Results

Each table is what `decathlon table <name> --format md` prints after `run -m experiment=<name>`, on two CPU cores; this
page is written by `python scripts/results_page.py`. Mean ± standard deviation over seeds. A claim with > or < *holds*,
*fails* or is *undecided* by the 90 % t-interval of the differences paired by seed; one with >= or <= holds already when
the mean difference is on its side (docs/adding-a-task.md, 4).
"""
BLOCK = re.compile(r"(<!-- table (\S+) (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def page(overrides: list[str]) -> str:
    """docs/results.md: a part for each task of which an experiment has finished jobs, headed by the task's title."""
    parts = [HEAD]
    for task in catalog.tasks():
        tables = [make_table(name, overrides) for name in catalog.experiments(task)]
        finished = [table for table in tables if table.finished]
        if finished:
            title = " ".join(str(catalog.read(f"task/{task}").get("task", {}).get("title", task)).split())
            parts.append(f"\n## {task}: {title}\n")
        parts += [f"\n### `{table.name}`\n\n{to_markdown(table)}" for table in finished]
    return "".join(parts)


def refreshed(readme: str, overrides: list[str]) -> str:
    """The README with its tables as they are now."""

    def block(found: re.Match[str]) -> str:
        start, name, metrics, end = found.groups()
        table = make_table(name, overrides, metrics.split(","))
        table.verdicts, table.layout.note = [], ""
        return f"{start}{to_markdown(table)}{end}"

    return BLOCK.sub(block, readme)


def main() -> None:
    """Write both files."""
    overrides = sys.argv[1:]
    readme = ROOT / "README.md"
    texts = {ROOT / "docs" / "results.md": page(overrides), readme: refreshed(readme.read_text("utf-8"), overrides)}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
