"""Jobs through the runner: what a user types, what is wrong with it, what a kill leaves behind."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from decathlon.errors import UserError
from decathlon.runner import catalog
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job
from tests.conftest import ROOT, script
from tests.tasks.ckd.worlds import ALL

QUICK = ["task=ckd", "+debug=true", "trainer=cpu", "figures=false"]


def job_of(tmp_path: Path, *overrides: str) -> Job:
    places = [f"data_dir={tmp_path / 'data'}", f"results_dir={tmp_path / 'results'}"]
    return Job.of(compose_config([*QUICK, *places, *overrides]))


def run_job(tmp_path: Path, *overrides: str) -> tuple[dict[str, float], Path]:
    job = job_of(tmp_path, *overrides)
    job.folder.mkdir(parents=True, exist_ok=True)
    return execute(job.config, job.folder, construct(job.config))["metrics"], job.folder


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "seconds" not in name}


@pytest.mark.parametrize("name", [name for name in ALL if name != "vbpr"])
def test_every_backbone_runs(name: str, tmp_path: Path) -> None:
    method = "ckd" if name not in ("mf", "lightgcn") else "joint"
    metrics, folder = run_job(tmp_path, f"backbone={name}", f"method={method}", "smoke.max_users=40")
    assert metrics["test/recall@20"] is not None
    assert ("test/recall@20/image" in metrics) == (method == "ckd")
    assert json.loads((folder / "curve.json").read_text())[-1]["epoch"] == 2


def test_a_job_draws_its_curve_and_logs_weights(tmp_path: Path) -> None:
    metrics, folder = run_job(tmp_path, "figures=true")
    assert (folder / "curve.png").stat().st_size > 5_000
    assert metrics["train/weight/text"] + metrics["train/weight/image"] == pytest.approx(2, abs=1e-4)
    assert 0 <= metrics["train/clamped"] <= 1
    assert metrics["test/weakest@20"] == min(metrics[f"test/recall@20/{name}"] for name in ("text", "image"))
    curve = json.loads((folder / "curve.json").read_text())
    assert metrics["test/validation"] == pytest.approx(max(point["recall@20"] for point in curve))


def test_a_teacher_is_the_uni_modal_job_but_for_its_seed(tmp_path: Path) -> None:
    """The ensemble shows each teacher alone; a uni-modal job of that modality has the same kind of result."""
    found, _ = run_job(tmp_path, "method=ensemble")
    uni, _ = run_job(tmp_path, "method=uni", "method.only=text")
    assert {"test/recall@20/text", "test/recall@20/image"} <= set(found)
    assert uni["test/recall@20"] == uni["test/recall@20/text"]


def test_the_best_state_is_tested_and_training_ends_by_patience(tmp_path: Path) -> None:
    long = ["method=mf", "smoke.epochs=40", "patience=2", "+loop.limit_train_batches=1.0"]
    job = job_of(tmp_path, *long, "loop.max_epochs=40", "smoke.max_users=60")
    job.config["loop"]["max_epochs"] = 40
    job.folder.mkdir(parents=True)
    metrics = execute(job.config, job.folder, construct(job.config))["metrics"]
    curve = json.loads((job.folder / "curve.json").read_text())
    values = [point["recall@20"] for point in curve]
    assert metrics["test/validation"] == pytest.approx(max(values))
    best = values.index(max(values))
    assert metrics["test/epochs"] == curve[best]["epoch"] and (len(values) == best + 3 or len(values) == 40)


def test_a_job_killed_after_its_last_validation_ends_with_the_same_numbers(tmp_path: Path) -> None:
    whole, folder = run_job(tmp_path, "method=ckd")
    curve = (folder / "curve.json").read_text()
    (folder / "fit.json").unlink()
    again, _ = run_job(tmp_path, "method=ckd")
    assert timeless(again) == timeless(whole) and (folder / "curve.json").read_text() == curve


def test_a_backbone_s_options_may_name_modalities(tmp_path: Path) -> None:
    spec = "backbone={name: freedom, weights: {text: 0.7, image: 0.3}}"
    metrics, _ = run_job(tmp_path, spec, "method=joint", "smoke.max_users=40")
    assert metrics["test/recall@20"] is not None
    with pytest.raises(UserError, match="the modalities are text, image"):
        run_job(tmp_path / "b", spec.replace("image", "sound"), "method=joint", "smoke.max_users=40")


def test_results_depend_on_no_global_state(tmp_path: Path) -> None:
    first, _ = run_job(tmp_path / "a")
    torch.rand(17)
    second, _ = run_job(tmp_path / "b")
    assert timeless(first) == timeless(second)


def test_a_seed_changes_the_training_and_a_cached_teacher_does_not(tmp_path: Path) -> None:
    first, _ = run_job(tmp_path, "method=ckd")
    cached = sorted((tmp_path / "data" / "processed").glob("ckd-teacher-*.pt"))
    assert len(cached) == 2
    run_job(tmp_path, "method=ckd_equal")
    run_job(tmp_path, "method=ensemble")
    assert sorted((tmp_path / "data" / "processed").glob("ckd-teacher-*.pt")) == cached
    second, _ = run_job(tmp_path, "method=ckd", "seed=1")
    assert first["train/loss"] != second["train/loss"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone=bpr"], "backbone=bpr is unknown; choose vbpr"),
        (["backbone=mf"], "method=ckd needs modalities, and backbone=mf has none"),
        (["backbone_options={layers: 2}"], "backbone=vbpr has no option layers"),
        (["backbone=mmgcn", "backbone_options={layers: 0}"], "layers=0"),
        (["smoke.dim=0"], "dim=0"),
        (["lr=0"], "lr=0 must be positive"),
        (["reg=-1"], "reg=-1 not negative"),
        (["sampler=items"], "sampler=items is unknown; choose users or interactions"),
        (["smoke.batch_size=0"], "batch_size=0 must be at least 1"),
        (["patience=0"], "patience=0 must be at least 1"),
        (["split=half"], "split=half is unknown"),
        (["scale=max"], "scale=max is unknown"),
        (["interactions=rows.csv"], "interactions= is of dataset=files"),
        (["dataset=files"], "needs interactions=<csv>"),
        (["method.alpha=-1"], "alpha=-1"),
        (["method.temperature=0"], "temperature=0"),
        (["method.cross_entropy=kl"], "cross_entropy=kl is unknown"),
        (["method.teachers=two"], "teachers=two is unknown"),
        (["+method.gamma=1"], "method=ckd has no option gamma"),
        (["method=dropout", "method.p=1.5"], "p=1.5"),
        (["teacher_lr=-1"], "lr=-1"),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    job = job_of(tmp_path, *overrides)
    with pytest.raises(UserError) as caught:
        construct(job.config)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not job.folder.exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=ogm", "modalities=[text]"], "method=ogm needs 2 modalities or more; dataset=generated has text"),
        (["method=uni", "method.only=audio"], "only=audio is no modality; choose text, image"),
        (["modalities=[sound]"], "has no sound; choose text, image"),
        (["dataset=lfm2k"], "not found in"),
        (["split=published"], "split=published: this data has none of its own"),
        (["split=time"], "no time to split by"),
    ],
)
def test_what_the_data_cannot_do_is_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        run_job(tmp_path, *overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_one_modality_is_said_and_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, _ = run_job(tmp_path, "modalities=[text]")
    assert metrics["train/weight/text"] == 1
    assert metrics["test/recall@20"] == metrics["test/recall@20/text"]


def test_the_page_s_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The own-data example of the page, with files like those that it speaks of."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = [f"{u},{i}" for u in range(30) for i in random.choice(40, 6, replace=False)]
    (tmp_path / "rows.csv").write_text("user,item\n" + "\n".join(rows) + "\n")
    np.save(tmp_path / "image.npy", random.normal(size=(40, 6)))
    np.save(tmp_path / "text.npy", random.normal(size=(40, 5)))
    page = (ROOT / "docs" / "ckd.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("run task=ckd dataset=files"))
    found = re.findall(r"(?:'[^']*'|\S)+", line.split("#")[0])[2:]
    metrics, _ = run_job(tmp_path, *(part.replace("'", "") for part in found))
    assert metrics["test/recall@20/image"] is not None
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert blocks
    joint, alone, teachers = (
        torch.randn(9),
        {"a": torch.randn(9), "b": torch.randn(9)},
        {"a": torch.randn(9), "b": torch.randn(9)},
    )
    names = {
        "bpr": torch.zeros(()), "joint": joint, "alone": alone, "teachers": teachers, "generic_alone": alone,
        "generic_teachers": teachers, "torch": torch,
    }  # fmt: skip
    exec(compile(blocks[0], "docs/ckd.md", "exec"), names)


def test_the_convergence_figure(tmp_path: Path) -> None:
    for method in ("joint", "ckd"):
        job = job_of(tmp_path, f"method={method}", "smoke.max_users=40")
        job.folder.mkdir(parents=True)
        metrics = execute(job.config, job.folder, construct(job.config))["metrics"]
        job.finish({"metrics": metrics, "config": job.config})
    draw = script("analysis/ckd_convergence.py").main
    draw([str(tmp_path / "results" / "ckd" / "generated"), str(tmp_path / "out.png")])
    assert (tmp_path / "out.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="no finished jobs of joint, ckd"):
        draw([str(tmp_path), str(tmp_path / "none.png")])


def test_the_benchmark_s_loop_finds_the_same_recall() -> None:
    bench = script("bench/ckd.py")
    train, held = bench.interactions(40, 60, 300), bench.interactions(40, 60, 90, seed=2)
    users, items = torch.randn(40, 5), torch.randn(60, 5)
    from decathlon.recommendation.ranking import evaluate, inner_products

    fast = evaluate(inner_products(users, items), train, held)["recall@20"]
    assert bench.loop_evaluation(users, items, train, held, list(range(40))) == pytest.approx(fast)


@pytest.mark.parametrize("name", catalog.experiments("ckd"))
def test_the_first_job_of_every_table_can_be_built(name: str, tmp_path: Path) -> None:
    swept = compose_config([f"experiment={name}"], with_hydra=True).hydra.sweeper.params
    first = [f"{key}={str(values).split(',')[0]}" for key, values in swept.items()]
    config = Job.of(compose_config([f"experiment={name}", *first, f"results_dir={tmp_path}"])).config
    module, data = construct(config)
    assert module is not None and data.source is not None


def test_the_benchmark_refuses_a_measure_of_memory_that_cannot_be_true() -> None:
    bench = script("bench/ckd.py")
    assert bench.share_of_memory(200.0, 614.0, 138.0)["met"]
    assert not bench.share_of_memory(280.0, 694.0, 138.0)["met"]
    for one, four in ((0.0, 0.0), (0.0, 414.0), (150.0, 150.0)):
        found = bench.share_of_memory(one, four, 138.0)
        assert not found["met"] and "NO TRUE MEASURE" in found["detail"]


def test_the_benchmark_measures_memory_whatever_its_parent_needed() -> None:
    bench = script("bench/ckd.py")
    large = torch.ones(200 * 2**18)  # 200 MiB, which a started process's own maximum would inherit
    one = bench.peak(1, ["--users", "60", "--items", "2000", "--rows", "300"])
    assert len(large) and 0.9 * 39 < one < 150
