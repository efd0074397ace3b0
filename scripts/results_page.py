"""Bring the measured tables in docs/results.md and the README's summary up to date with the records of finished jobs.

    python scripts/results_page.py [experiment ...] [override ...]    # overrides as for `decathlon table`

Without names every experiment is looked at, which takes minutes. docs/results.md has every experiment of every task, in
the catalog's order, with its verdicts; one that has not been run to its end here keeps the table it has. The README's
summary counts the verdicts of the tables of small and generated data.
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
SECTION = re.compile(r"^### `(\S+)`\n\n(.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)
SUMMARY = re.compile(r"(<!-- summary -->\n).*?(<!-- /summary -->)", re.DOTALL)
VERDICTS = ("holds", "undecided", "fails")


def sections(page: str, names: list[str], overrides: list[str]) -> dict[str, str]:
    """Each table by the name of its experiment, in the catalog's order.

    Of the experiments ``names`` (none: of all) one whose jobs are all finished here, or that ``page`` does not have, is
    as the records say; another stays.
    """
    old = dict(SECTION.findall(page))
    found = {}
    for name in (name for task in catalog.tasks() for name in catalog.experiments(task)):
        table = make_table(name, overrides) if not names or name in names else None
        if table is not None and table.finished and (table.finished == table.jobs or name not in old):
            found[name] = to_markdown(table)
        elif name in old:
            found[name] = old[name]
    return found


def results(tables: dict[str, str]) -> str:
    """docs/results.md: a part for each task that has tables, headed by the task's title."""
    parts = [HEAD]
    for task in catalog.tasks():
        own = {name: text for name, text in tables.items() if name.startswith(f"{task}/")}
        if own:
            title = " ".join(str(catalog.read(f"task/{task}").get("task", {}).get("title", task)).split())
            parts.append(f"\n## {task}: {title}\n")
        parts += [f"\n### `{name}`\n\n{text.strip()}\n" for name, text in own.items()]
    return "".join(parts)


def summary(tables: dict[str, str]) -> str:
    """How many claims of each task's small tables hold, are undecided and fail, as Markdown."""
    lines = ["| task | small tables | hold | undecided | fail |", "| --- | --- | --- | --- | --- |"]
    for task in catalog.tasks():
        own = {name: text for name, text in tables.items() if name.startswith(f"{task}/")}
        small = {name: text for name, text in own.items() if name.endswith(("small", "world"))}
        if small:
            text, names = "\n".join(small.values()), ", ".join(f"`{name.partition('/')[2]}`" for name in small)
            counts = [len(re.findall(rf"^\| \*{verdict}\*", text, re.MULTILINE)) for verdict in VERDICTS]
            lines.append(f"| `{task}` | {names} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write both files."""
    readme, page = ROOT / "README.md", ROOT / "docs" / "results.md"
    overrides = [argument for argument in sys.argv[1:] if "=" in argument]
    names = [argument for argument in sys.argv[1:] if "=" not in argument]
    tables = sections(page.read_text("utf-8"), names, overrides)
    counted = SUMMARY.sub(lambda found: found[1] + summary(tables) + found[2], readme.read_text("utf-8"))
    for path, text in {page: results(tables), readme: counted}.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
