"""Jobs through the runner: what a user types, what is wrong with it, what is left of it."""

import json
from pathlib import Path

import pytest

from decathlon.errors import UserError
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job
from tests.conftest import script

QUICK = ["task=dive", "+debug=true", "trainer=cpu", "figures=false"]


def run_job(tmp_path: Path, *overrides: str) -> tuple[dict[str, float], Path]:
    cfg = compose_config([*QUICK, f"data_dir={tmp_path / 'data'}", f"results_dir={tmp_path / 'results'}", *overrides])
    job = Job.of(cfg)
    job.folder.mkdir(parents=True, exist_ok=True)
    return execute(job.config, job.folder, construct(job.config))["metrics"], job.folder


def fails(tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        run_job(tmp_path, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_job_measures_every_member_and_draws(tmp_path: Path) -> None:
    metrics, folder = run_job(tmp_path, "figures=true", "curves=true", "members=2")
    for name in ("accuracy", "accuracy_train", "accuracy_by_id_ood_val", "accuracy_member1", "f1", "recall_member0"):
        assert 0 <= metrics[f"test/{name}"] <= 1
    assert {"test/jaccard", "test/jaccard_independent", "train/jaccard", "train/keep_rate_1"} <= set(metrics)
    chosen = int(metrics["test/member"])
    assert metrics["test/accuracy"] == metrics[f"test/accuracy_member{chosen}"] == metrics["test/accuracy_ood_test"]
    for name in ("masks.png", "curves.png"):
        assert (folder / name).stat().st_size > 5_000
    header = (folder / "history.csv").read_text().splitlines()[0]
    assert header.startswith("epoch,member,") and "ood_test/f1" in header
    quality = json.loads((folder / "mask_quality.json").read_text())
    assert len(quality["f1"]) == 2


def test_curves_change_nothing_but_what_is_written(tmp_path: Path) -> None:
    plain, _ = run_job(tmp_path / "a")
    curves, _ = run_job(tmp_path / "b", "curves=true")
    assert {name: plain[name] for name in plain if name.startswith("test/")} == {
        name: curves[name] for name in curves if name.startswith("test/")
    }


def test_the_test_set_decides_nothing(tmp_path: Path) -> None:
    """Labels of the test set changed: the same member, epoch and validation metrics."""
    from decathlon.tasks.dive.data.sources import Motif

    plain, _ = run_job(tmp_path / "a")
    real = Motif.read
    with pytest.MonkeyPatch.context() as patch:

        def other(self: Motif, root: Path) -> object:
            parts = real(self, root)
            y = parts.graphs.graphs["y"]
            for name in ("ood_test", "id_test"):
                y[parts.rows[name]] = (y[parts.rows[name]] + 1) % 3
            return parts

        patch.setattr(Motif, "read", other)
        changed, _ = run_job(tmp_path / "b")
    for name in ("member", "epoch", "accuracy_ood_val", "accuracy_id_val", "member_by_id", "epoch_by_id"):
        assert plain[f"test/{name}"] == changed[f"test/{name}"]
    assert plain["test/accuracy"] != changed["test/accuracy"]


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    assert fails(tmp_path, "members=0") == "method=dive: members=0 must be a whole number of at least 1"
    assert "diversity=-0.1 must be" in fails(tmp_path, "diversity=-0.1")
    assert "shift=scaffold is unknown here; choose basis, size" in fails(tmp_path, "shift=scaffold")
    assert "split=odd is unknown" in fails(tmp_path, "split=odd")
    assert "batch_size=1" in fails(tmp_path, "smoke.batch_size=1")
    assert "lr=0" in fails(tmp_path, "lr=0")
    assert "regression=l3 is unknown; choose l1, mse" in fails(tmp_path, "regression=l3")
    assert "width >= 1" in fails(tmp_path, "smoke.width=0")
    assert "has no option odd" in fails(tmp_path, "+method.odd=1")
    assert "takes no path=" in fails(tmp_path, "path=mine.pt")
    assert "sampler=odd is unknown; choose bernoulli, printed" in fails(tmp_path, "method.sampler=odd")
    assert "no epoch was evaluated" in fails(tmp_path, "smoke.eval_every=9")


def test_figures_of_many_jobs(tmp_path: Path) -> None:
    for seed in (0, 1):
        overrides = ["curves=true", "members=2", f"seed={seed}"]
        metrics, folder = run_job(tmp_path, *overrides)
        (folder / "metrics.json").write_text(json.dumps({"metrics": metrics, "config": {"method": {"name": "dive"}}}))
    script("analysis/dive_figures.py").main([str(tmp_path / "results"), str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"f1.png", "members.png", "quality.png"}
    with pytest.raises(SystemExit, match="no finished jobs"):
        script("analysis/dive_figures.py").main([str(tmp_path / "out"), str(tmp_path / "out")])


def test_what_was_trained_is_used_without_the_runner(tmp_path: Path) -> None:
    from decathlon.tasks.dive.data.sources import Motif
    from decathlon.tasks.dive.loading import load
    from decathlon.tasks.dive.metrics import measure

    metrics, folder = run_job(tmp_path, "members=2")
    deployed = load(folder / "model.pt")
    parts = Motif("basis", "concept", 0, 6000, (1.0, 1.0, 1.0, 0.3, 0.0)).read(".")
    batch = parts.graphs.batch(parts.rows["ood_test"][:40])
    predictions, masks = deployed(batch), deployed.masks(batch)
    assert predictions.shape == (40, 3) and masks.shape == (len(batch.neighbours),)
    assert abs(float(measure("accuracy", predictions[None], batch.y)) - metrics["test/accuracy"]) < 1e-6
    (folder / "broken.pt").write_text("no")
    with pytest.raises(UserError, match="is broken"):
        load(folder / "broken.pt")
