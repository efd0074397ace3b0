"""``decathlon runs``, ``show``, ``compare``, ``status``, ``plan``, ``clean`` and ``run --dry-run``."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from decathlon import locks
from decathlon.runner import forecast, knobs, records, remake
from decathlon.runner.compose import compose_config
from decathlon.runner.job import Job
from tests.conftest import Door, environment
from tests.report.folders import finish, finished, hostile


@pytest.fixture
def root(here: Path) -> Path:
    return here / "results"


def listed(text: str) -> list[dict[str, str]]:
    return json.loads(text)


def test_runs_show_only_the_knobs_that_differ(root: Path, decathlon_here: Door) -> None:
    finished(root, "lr=0.01,0.1", "seed=0,1")
    rows = listed(decathlon_here("runs", "toy", "--format", "json").stdout)
    assert len(rows) == 4
    assert set(rows[0]) == {"id", "seed", "lr", "test/accuracy", "age", "took", "state"}
    assert {(row["seed"], row["lr"]) for row in rows} == {(s, lr) for s in "01" for lr in ("0.01", "0.1")}
    some = listed(decathlon_here("runs", "--where", "lr=1e-2", "--where", "status=finished", "--format", "json").stdout)
    assert len(some) == 2 and set(some[0]) == {"id", "seed", "test/accuracy", "age", "took", "state"}
    order = listed(decathlon_here("runs", "--sort", "test/accuracy", "--reverse", "--format", "json").stdout)
    values = [float(row["test/accuracy"]) for row in order]
    assert values == sorted(values, reverse=True)


def test_a_knob_is_what_jobs_of_a_kind_differ_in() -> None:
    def row(method: str, seed: str, **own: str) -> dict[str, str]:
        return {"task": "t", "dataset": "d", "method": method, "seed": seed, "data_seed": seed, **own}

    kinds = [row("a", seed, depth="3", lr="0.1", width="8", **{"deep.x": "1"}) for seed in "01"]
    kinds += [row("b", seed, lr="0.2", width="null", **{"deep.x": "2"}) for seed in "01"]
    # What a method alone has, or another has not, says no more than the method; nor does a seed that is the job's.
    assert knobs.differing(kinds) == ["method", "seed", "lr"]
    assert knobs.differing([*kinds, row("a", "0", lr="0.1", width="8")]) == [
        "method", "seed", "depth", "lr", "deep.x"
    ]  # fmt: skip
    assert "width" in knobs.differing([*kinds, row("b", "0", lr="0.2", width="9")])


def test_where_data_lie_is_no_setting() -> None:
    config = {"data_dir": "/here", "results_dir": "/there", "data": {"root": "/here", "n": 3}, "file": "/here/mine.csv"}
    assert knobs.flat(config) == {"data.n": 3, "file": "/here/mine.csv"}


def test_every_format_has_the_same_rows(root: Path, decathlon_here: Door) -> None:
    finished(root, "seed=0,1,2")
    assert decathlon_here("runs", "--format", "csv").stdout.count("\n") == 4
    assert decathlon_here("runs", "--format", "md").stdout.count("\n") == 5
    assert decathlon_here("runs").stdout.count("finished") == 3 + 1


def test_states(root: Path, decathlon_here: Door) -> None:
    jobs = finished(root, "seed=0,1,2,3,4")
    main = jobs[0].config["report"][0]
    finish(jobs[1], metrics={main: None})
    for job in jobs[2:]:
        job.record_path.unlink()
        job.write_config()
    jobs[2].fail(RuntimeError("a [red]bad[/red] day"), "Traceback\n  line\nRuntimeError: a bad day")
    with locks.locked(jobs[3].folder / "lock"):
        states = {row["seed"]: row["state"] for row in listed(decathlon_here("runs", "--format", "json").stdout)}
        assert states == {"0": "finished", "1": "diverged", "2": "failed", "3": "running", "4": "interrupted"}
        only = listed(decathlon_here("runs", "--where", "status=failed", "--format", "json").stdout)
        assert [row["id"] for row in only] == [jobs[2].identity]
        said = decathlon_here("status", "task=toy", "seed=0,1,2,3,4,5")
        assert "6 jobs: 1 finished, 1 diverged, 1 running, 1 failed, 1 interrupted, 1 to do" in said.stdout
        assert "a [red]bad[/red] day" in said.stderr
    shown = decathlon_here("show", jobs[2].identity[:8])
    assert shown.status == 0 and "a [red]bad[/red] day" in shown.stdout and "RuntimeError: a bad day" in shown.stdout


@pytest.mark.parametrize(
    "overrides",
    [
        ["lr=0.05", "method=linear", "seed=3"],
        ["+debug=true"],
        ["experiment=toy/small", "seed=1"],
        ["+loop.gradient_clip_val=0.5", "checkpoint.monitor=null", "dataset.n=77", "width=3"],
        ["precision=bf16-mixed", "report=[a b,'c,d']", "++dataset.note=it's \\, odd"],
        ["lr={a: 1, b: {c: x, d: [2]}}"],
        ["~dataset.n", "++method.other=null"],
    ],
    ids=lambda words: words[0],
)
def test_show_gives_the_command_that_makes_the_job_again(root: Path, overrides: list[str]) -> None:
    if overrides[-1].startswith("++dataset.note"):
        overrides = [*overrides[:-1], '++dataset.note="it\'s, $odd: ~ {x}"']
    job = Job.of(compose_config(["task=toy", f"results_dir={root}", *overrides]))
    finish(job)
    _, command, doubt = remake.Commands().of(records.find(job.identity, root))
    assert not doubt and command[0] == "run"
    words = shlex.split(remake.shell(command))
    assert Job.of(compose_config(words[1:])).identity == job.identity


def test_a_job_that_no_command_of_today_makes_says_so(root: Path, decathlon_here: Door) -> None:
    (job,) = finished(root, "seed=0")
    job.folder.rename(job.folder.with_name("0" * 12))
    said = decathlon_here("show", "000")
    assert said.status == 0 and "no command of today makes this job" in said.stderr and "again:" not in said.stdout


def test_ids_that_are_none_or_several(root: Path, decathlon_here: Door) -> None:
    jobs = finished(root, f"seed={','.join(map(str, range(17)))}")
    first = {job.identity[0] for job in jobs}
    twice = next(c for c in first if sum(job.identity[0] == c for job in jobs) > 1)
    for command, message in (
        (["show", twice], "is the beginning of"),
        (["show", "zz"], "zz is no job"),
        (["show", ""], "an empty name is no job"),
        (["runs", "results_dir="], "names no folder"),
        (["show", "0123456789ab"], "no job in"),
        (["compare", jobs[0].identity], "needs two jobs"),
        (["runs", "--where", "lrr=1"], "did you mean lr"),
        (["runs", "--where", "status=done"], "is no state of a job; choose finished"),
        (["runs", "--where", "lr"], "is no key=value"),
        (["runs", "--sort", "nothing"], "no job has it"),
        (["runs", "tyo"], "tyo is no task; choose"),
        (["runs", "lr=3"], "lr=3 has no meaning here"),
        (["runs", "results_dir=elsewhere"], "is no folder of results"),
        (["status"], "name an experiment"),
        (["status", "toy/smal"], "toy/smal is no experiment; choose toy/"),
        (["clean", "--yes"], "--yes removes what is named"),
    ):
        said = decathlon_here(*command)
        assert said.status == 2 and message in said.stderr and said.stderr.count("\n") == 1, command


def test_compare_puts_settings_and_metrics_side_by_side(root: Path, decathlon_here: Door) -> None:
    a, b = finished(root, "lr=0.01,0.1")
    rows = listed(decathlon_here("compare", a.identity, str(b.folder), "--format", "json").stdout)
    found = {row[""]: row for row in rows}
    assert found["lr"][a.identity] == "0.01" and found["lr"][b.identity] == "0.1"
    assert "module.lr" not in found
    x, y = (records.read(job.folder).metrics["test/loss"] for job in (a, b))  # type: ignore[union-attr]
    assert float(found["test/loss"]["difference"]) == pytest.approx(y - x, abs=1e-4)


def test_time_left_is_that_of_the_nearest_kin(root: Path) -> None:
    finished(root, "lr=0.01", "seed=0,1", wall_time_s=100.0)
    finished(root, "lr=0.1", "seed=0", wall_time_s=7.0)
    finished(root, "lr=0.2", "seed=0", wall_time_s=1e6, resumed_from_step=3)  # says little of a whole run
    finished(root, "lr=0.3", "seed=0", "+debug=true", wall_time_s=1e-3)
    seen = forecast.foresee(forecast.jobs_of(["task=toy", f"results_dir={root}", "lr=0.01,0.1", "seed=0,1,2"]))
    assert seen.count("finished") == 3 and seen.count("missing") == 3 and seen.unknown == 0
    assert [step.seconds for step in seen.todo] == [100.0, 7.0, 7.0]
    assert seen.seconds_left == 114.0 and seen.gpu_hours == 0 and seen.disk > 0
    other = forecast.foresee(forecast.jobs_of(["task=toy", f"results_dir={root}", "lr=0.5"]))
    assert other.todo[0].seconds == 100.0  # the median of those of the same dataset and method
    empty = forecast.foresee(forecast.jobs_of(["task=toy", f"results_dir={root}/none", "lr=0.5"]))
    assert empty.unknown == 1


def test_gpu_hours_are_counted_where_known(root: Path) -> None:
    on_gpu = {"host": 1.0, "device": 2.0}
    finished(root, "seed=0", wall_time_s=1800.0, peak_memory_mib=on_gpu, devices=2)
    seen = forecast.foresee(forecast.jobs_of(["task=toy", f"results_dir={root}", "seed=1,2", "trainer=gpu"]))
    assert seen.gpu_hours == pytest.approx(2.0)
    on_cpu = forecast.foresee(forecast.jobs_of(["task=toy", f"results_dir={root}", "seed=1,2", "trainer=cpu"]))
    assert on_cpu.gpu_hours == 0 and on_cpu.unknown == 2


def test_dry_run_runs_nothing(root: Path, run_here: Door, decathlon_here: Door) -> None:
    said = run_here("-m", "task=toy", "seed=0,1", "lr=0.1,0.2", "--dry-run")
    assert said.status == 0 and "4 jobs: 4 to do" in said.stdout and not root.exists()
    finished(root, "seed=0", "lr=0.1")
    said = run_here("-m", "task=toy", "seed=0,1", "lr=0.1,0.2", "--dry-run")
    assert "4 jobs: 1 finished, 3 to do" in said.stdout and "about 30 s left" in said.stdout
    assert "the longest of them about 10 s" in said.stdout
    each = listed(decathlon_here("plan", "task=toy", "seed=0,1", "lr=0.1", "--each", "--format", "json").stdout)
    assert [row["state"] for row in each] == ["finished", "to do"]
    whole = decathlon_here("plan", "toy/small")
    assert whole.status == 0 and "to do" in whole.stdout


def test_clean_removes_what_it_said_and_only_with_yes(root: Path, decathlon_here: Door) -> None:
    keep, gone = finished(root, "seed=0,1")
    (debug,) = finished(root, "seed=0", "+debug=true")
    gone.record_path.unlink()
    gone.fail(RuntimeError("x"), "trace")
    for job in (keep, debug):
        (job.folder / "checkpoints").mkdir()
        (job.folder / "checkpoints" / "last.ckpt").write_bytes(b"x" * 5000)
    (keep.folder / "metrics.json.broken").write_text("{")
    (keep.folder / ".metrics.abcdefgh.part.json").write_text("{")
    (keep.folder / ".trained.abcdefgh").mkdir()
    (keep.folder / "mine.txt").write_text("a user's own")
    (root / "mine.txt").write_text("a user's own")
    before = sorted(root.rglob("*"))
    said = decathlon_here("clean")
    assert said.status == 0 and "nothing is removed without --yes" in said.stdout
    assert decathlon_here("clean", "--failed", "--debug", "--strays", "--checkpoints").status == 0
    assert sorted(root.rglob("*")) == before
    with locks.locked(gone.folder / "lock"):
        assert decathlon_here("clean", "--failed", "--yes").status == 0
    assert gone.folder.exists()  # a process had it
    said = decathlon_here("clean", "--failed", "--debug", "--strays", "--checkpoints", "--yes")
    assert said.status == 0, said.stderr
    assert not gone.folder.exists() and not debug.folder.exists()
    left = {path.name for path in keep.folder.iterdir()} - {"lock"}
    assert left == {"metrics.json", "mine.txt"} and (root / "mine.txt").exists()


def test_a_hostile_folder_costs_no_command_more_than_a_line(root: Path, decathlon_here: Door) -> None:
    jobs = finished(root, "seed=0,1")
    hostile(root, strays=10_000)
    said = decathlon_here("runs", "--format", "json")
    assert said.status == 0 and {job.identity for job in jobs} <= {row["id"] for row in listed(said.stdout)}
    lines = said.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("warning: ") for line in lines)
    assert "cannot be read" in lines[0] and "unheard" in lines[2]
    assert "10004 files or folders" in lines[1] and "belong to no job" in lines[1]  # three links, one folder with no id
    for command in (["runs"], ["show", jobs[0].identity], ["compare", jobs[0].identity, jobs[1].identity],
                    ["compare", jobs[0].identity, "eeeeeeeeeeee"], ["show", "eeeeeeeeeeee"], ["show", "000000000001"],
                    ["show", "bbbbbbbbbbbb"], ["show", "aaaaaaaaaaaa"], ["show", "cccccccccccc"],
                    ["show", "ddddddddddd0"], ["show", "ddddddddddd1"], ["show", "aaaaaaaaaaa0"], ["show", "f" * 12],
                    ["show", "000000000010"], ["compare", "000000000010", "000000000011", "000000000012"],
                    ["status", "task=toy", "seed=0,1"], ["plan", "task=toy", "seed=0,1,2"], ["clean"],
                    ["clean", "--strays", "--failed", "--checkpoints", "--debug"], ["runs", "--sort", "test/accuracy"],
                    ["runs", "unheard"], ["runs", "--where", "seed=0"]):  # fmt: skip
        said = decathlon_here(*command)
        assert said.status == 0, (command, said.stderr)
        assert "Traceback" not in said.stdout + said.stderr and len(said.stderr.splitlines()) <= 3, command


def test_looking_imports_no_torch(root: Path) -> None:
    finished(root, "seed=0,1")
    program = (
        "import sys; from decathlon import cli\n"
        "cli.main(['runs']), cli.main(['clean'])\n"
        "assert 'hydra' not in sys.modules\n"  # it takes longer than to list a thousand jobs
        "for words in (['runs'], ['status', 'task=toy', 'seed=0'], ['plan', 'task=toy'], ['clean'],"
        " ['show', sys.argv[1]], ['compare', *sys.argv[1:]]):\n"
        "    cli.main(words)\n"
        "assert not {'torch', 'lightning', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)\n"
    )
    ids = [path.name for path in root.glob("toy/*/*/*")]
    done = subprocess.run(
        [sys.executable, "-c", program, *ids], cwd=root.parent, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
