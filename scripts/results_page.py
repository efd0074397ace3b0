"""Write docs/results.md: every measured table with its verdicts, from the records in the results folder.

    python scripts/results_page.py [override ...]     # overrides as for `decathlon table`, for example results_dir=out

An experiment none of whose jobs is finished is left out.
"""

import sys
from pathlib import Path

from decathlon.render import to_markdown
from decathlon.table import make_table

EXPERIMENTS = {
    "MolPeg": ["molpeg/hiv_small", "molpeg/small"],
    "ConFIG": ["pinn/small", "pinn/small_common", "pinn/small_natural", "pinn/small_length", "pinn/small_updates"],
    "KELE": ["kele/small", "kele/ablation", "kele/k_sweep", "kele/boundary", "kele/smol", "kele/smol_mello"],
    "JRegNet": ["jregnet/small"],
}
HEAD = """# Results

Each table is what `decathlon table <name> --format md` prints after `run -m experiment=<name>`, on two CPU cores; this
page is written by `python scripts/results_page.py`. Mean ± standard deviation over seeds. A claim *holds*, *fails* or is
*undecided* by the 90 % t-interval of the differences paired by seed (docs/adding-a-task.md, 4).
"""


def page(overrides: list[str]) -> str:
    """The whole page."""
    parts = [HEAD]
    for paper, names in EXPERIMENTS.items():
        parts.append(f"\n## {paper}\n")
        for name in names:
            table = make_table(name, overrides)
            if table.finished:
                parts.append(f"\n### `{name}`\n\n{to_markdown(table)}")
    return "".join(parts)


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "docs" / "results.md"
    target.write_text(page(sys.argv[1:]), encoding="utf-8")
    print(f"wrote {target}")
