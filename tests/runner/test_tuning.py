"""Tables that are tuned on seeds of their own: the sweep runs the other seeds at the chosen setting only."""

import json
from pathlib import Path

from decathlon.runner.forecast import jobs_of
from tests.runner.conftest import Door

TUNED = "experiment=toy/tuned"


def ran(folder: Path) -> set[tuple[str, float, int]]:
    configs = [json.loads(path.read_text())["config"] for path in folder.glob("results/*/*/*/*/metrics.json")]
    return {(config["method"]["name"], config["lr"], config["seed"]) for config in configs}


def test_a_sweep_runs_what_tuning_has_chosen(run_here: Door, decathlon_here: Door, here: Path) -> None:
    # linear: three settings on seed 9 and one on two others. `fixed` ignores lr: one on each seed.
    assert len(jobs_of([TUNED])) == 8
    assert run_here("-m", TUNED).status == 0
    linear = {(lr, seed) for method, lr, seed in ran(here) if method == "linear"}
    assert {lr for lr, seed in linear if seed == 9} == {0.1, 0.01, 0.001}
    chosen = {lr for lr, seed in linear if seed != 9}
    assert len(linear) == 5 and len(chosen) == 1 and len(ran(here)) == 8
    table = json.loads(decathlon_here("table", "toy/tuned", "--format", "json").stdout)
    assert table["finished"] == table["jobs"] == 8
    cell = next(cell for cell in table["cells"] if cell["method"] == "linear")
    assert cell["n"] == cell["expected"] == 2 and cell["tuned"] == chosen.pop()
    again = run_here("-m", TUNED)
    assert again.status == 0 and len(ran(here)) == 8 and "8 skipped" in " ".join(again.stdout.split())


def test_jobs_wait_where_tuning_is_not_finished(run_here: Door, here: Path) -> None:
    assert run_here("-m", TUNED, "method=linear", "seed=0,1").status == 0
    assert len(ran(here)) == 6, "narrowed to seeds that nothing is tuned on: every setting is run"


def test_a_tuning_job_that_fails_holds_back_those_that_it_decides(run_here: Door, here: Path) -> None:
    done = run_here("-m", TUNED, "method=crash", "lr=0.1,0.01", "seed=9,0")
    assert done.status != 0
    assert ran(here) == set() and done.stderr.count("the toy crashed") == 4
    assert "1 jobs wait: the jobs that their setting is tuned by have not all finished" in done.stdout
