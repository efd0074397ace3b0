"""Jobs through the runner: own text, what is wrong with it, what is measured, costs without a training."""

import json
import math
from pathlib import Path

import pytest
import torch

from decathlon.errors import ConfigError, DataError, UserError
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, execute
from decathlon.runner.job import Job
from decathlon.tasks.osd.measures import captured_energy, orthonormality_error, overlap
from tests.conftest import script

TEXT = "\n\n".join(f"The number {i} is followed by {i + 1}, as everybody knows who can count." for i in range(400))
QUICK = ["task=osd", "+debug=true", "trainer=cpu", "figures=false"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text" / "count.txt"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


def job_of(tmp_path: Path, *overrides: str) -> Job:
    places = [f"data_dir={tmp_path / 'data'}", f"results_dir={tmp_path / 'results'}"]
    return Job.of(compose_config([*QUICK, *places, *overrides]))


def run_job(tmp_path: Path, *overrides: str) -> tuple[dict[str, float], Path]:
    job = job_of(tmp_path, *overrides)
    job.folder.mkdir(parents=True, exist_ok=True)
    return execute(job.config, job.folder, construct(job.config))["metrics"], job.folder


@pytest.mark.parametrize("tokens", ["byte", "bpe"])
@pytest.mark.parametrize("packing", ["packed", "documents"])
def test_own_text(tmp_path: Path, text: Path, tokens: str, packing: str) -> None:
    metrics, folder = run_job(
        tmp_path, "dataset=text", f"files={text.parent}", f"tokens={tokens}", f"packing={packing}", "figures=true"
    )
    loss = metrics["test/loss"]
    assert metrics["test/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    if tokens == "byte":
        assert metrics["test/bits_per_byte"] == pytest.approx(loss / math.log(2), rel=1e-5)
    else:
        assert metrics["test/bits_per_byte"] < loss / math.log(2)
    said = json.loads((folder / "curves.json").read_text())
    assert metrics["test/corpus"] == int(said["corpus_sha256"][:6], 16)
    assert metrics["test/train_time_h"] > 0 and metrics["test/update_time_ms"] > 0
    assert len(said["losses"]) == 2 and (folder / "loss.png").stat().st_size > 5000
    last = [math.exp(value) for value in said["losses"]]
    assert metrics["test/train_perplexity"] == pytest.approx(sum(last) / len(last), rel=1e-5)


def test_perplexity_is_a_mean_over_tokens_and_galores_is_not(tmp_path: Path, text: Path) -> None:
    metrics, _ = run_job(
        tmp_path, "dataset=text", f"files={text}", "eval_compat=galore", "packing=documents", "smoke.eval_tokens=160",
        "smoke.length=40",
    )  # fmt: skip
    assert metrics["test/perplexity_galore"] != pytest.approx(metrics["test/perplexity"], rel=0.01)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["rank=0"], "rank=0 must be at least 1"),
        (["method.alpha=-1"], "alpha=-1 must be a number"),
        (["method.variant=v2"], "variant=v2 is unknown"),
        (["+method.beta=1"], "method=osd has no option beta"),
        (["size=2b"], "size=2b is unknown; choose tiny"),
        (["packing=loose"], "packing=loose is unknown"),
        (["length=1"], "length=1 must be at least 2"),
        (["warmup=1.5"], "warmup=1.5 is a share"),
        (["shape=saw"], "schedule=saw is unknown"),
        (["per_layer=true"], "set clip=null"),
        (["match=zzz"], "no trainable linear map's name matches"),
        (["dataset=text"], "files=<folder, file or pattern>"),
        (["dataset=text", "files=/no/such/place"], "there is no text file in /no/such/place"),
        (["dataset=hub"], "hub=<name> must say"),
        (["method=relora", "gap=1", "method.adapter.rewarm=3"], "0 <= rewarm < restart"),
        (["dataset=timing", "matrix=square"], "matrix=square is no shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(tmp_path: Path, overrides: list[str], says: str) -> None:
    for key in ("rank", "length", "gap", "size", "matrix"):
        overrides = [f"smoke.{o}" if o.startswith(f"{key}=") else o for o in overrides]
    with pytest.raises((UserError, ValueError)) as error:
        run_job(tmp_path, "dataset=docstrings", "docstring_packages=[hydra]", *overrides)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_text_shorter_than_a_sequence_and_a_folder_without_text(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.mkdir()
    with pytest.raises(DataError, match="no text file"):
        run_job(tmp_path, "dataset=text", f"files={short}")
    (short / "a.txt").write_text("one\n\ntwo\n\nthree")
    with pytest.raises(DataError, match=r"too short.*less than one window of 16; choose a smaller length") as error:
        run_job(tmp_path, "dataset=text", f"files={short}")
    assert "\n" not in str(error.value)


def test_updates_inside_the_backward_pass_lead_to_the_same_model(tmp_path: Path, text: Path) -> None:
    plain, _ = run_job(tmp_path, "dataset=text", f"files={text}", "clip=null")
    inside, _ = run_job(tmp_path, "dataset=text", f"files={text}", "clip=null", "per_layer=true")
    assert inside["test/loss"] == plain["test/loss"] and "test/update_time_ms" not in inside
    with pytest.raises(ConfigError, match="accumulate_grad_batches=1"):
        run_job(
            tmp_path, "dataset=text", f"files={text}", "clip=null", "per_layer=true", "+loop.accumulate_grad_batches=2"
        )


def test_validations_inside_an_epoch(tmp_path: Path, text: Path) -> None:
    _, folder = run_job(tmp_path, "dataset=text", f"files={text}", "val_every=1")
    said = json.loads((folder / "curves.json").read_text())
    assert [step for step, _ in said["validations"]] == [1.0, 2.0]


def test_a_run_that_diverges_says_so(tmp_path: Path, text: Path) -> None:
    metrics, _ = run_job(tmp_path, "dataset=text", f"files={text}", "method=sgd", "lr=1e30", "clip=null", "warmup=0")
    assert metrics["test/diverged"] == 1 and metrics["test/perplexity"] is None


def test_a_corpus_that_changes_ends_the_job_in_one_line(tmp_path: Path, text: Path) -> None:
    job = job_of(tmp_path, "dataset=text", f"files={text}")
    job.folder.mkdir(parents=True)
    execute(job.config, job.folder, construct(job.config))
    (job.folder / "fit.json").unlink()
    text.write_text(TEXT + "\n\nAnd so on.")
    with pytest.raises(ConfigError, match="began on another text"):
        execute(job.config, job.folder, construct(job.config))


def test_costs_without_a_training(tmp_path: Path) -> None:
    found, _ = run_job(
        tmp_path, "dataset=memory", "moments=weight", "smoke.size=60m", "smoke.rank=128", "method=galore"
    )
    weights, hidden = 58_073_600, 25_296_896
    assert found["test/weights_gb"] == pytest.approx(2e-9 * weights, rel=1e-6)
    rest = 4 * (weights - hidden)
    low = 8 * (32 * (512 * 128 * 4 + 4 * 128 * 512) + 24 * (4 * 512 * 128 + 4 * 128 * 1376)) // 8
    assert found["test/state_gb"] == pytest.approx(1e-9 * (rest + low), rel=1e-6)
    timed, _ = run_job(tmp_path, "dataset=timing")
    assert timed["test/time_ratio"] > 0


def test_measures_of_a_subspace() -> None:
    gradient = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    first, last = torch.eye(3)[:, :1], torch.eye(3)[:, 2:]
    assert captured_energy(2 * first, gradient) == pytest.approx(1.0)
    assert captured_energy(last, gradient) == pytest.approx(1 / 9)
    assert captured_energy(first, torch.zeros(3, 3)) == 1.0
    assert orthonormality_error(first) == 0 and orthonormality_error(2 * first) == pytest.approx(3.0)
    assert overlap(first, 3 * first) == pytest.approx(1.0) and overlap(first, last) == pytest.approx(0.0)


def test_what_was_trained_is_used_without_the_runner(tmp_path: Path, text: Path) -> None:
    from decathlon.tasks.osd.models import make_model

    metrics, folder = run_job(tmp_path, "dataset=text", f"files={text}")
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    model = make_model("tiny", vocabulary=256)
    model.load_state_dict({name.removeprefix("model."): value for name, value in saved.items()})
    assert model.generate(torch.tensor([[65, 66]]), max_new_tokens=3, do_sample=False).shape == (1, 5)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    drawn = script("analysis/osd_curves.py").main(tmp_path / "results" / "osd", tmp_path / "out")
    assert drawn.stat().st_size > 5000


@pytest.mark.slow
def test_a_job_on_two_processes_is_that_of_one(tmp_path: Path, text: Path) -> None:
    from decathlon.run import run_job as run

    found = []
    for trainer in ("cpu", "ddp_cpu"):
        places = [f"data_dir={tmp_path / 'data'}", f"results_dir={tmp_path / trainer}", f"trainer={trainer}"]
        options = ["task=osd", "+debug=true", "figures=false", "dataset=text", f"files={text}"]
        found.append(run(Job.of(compose_config([*options, *places])))[0]["metrics"])
    assert found[1]["test/loss"] == pytest.approx(found[0]["test/loss"], rel=1e-3)
    assert found[1]["test/train_perplexity"] == pytest.approx(found[0]["test/train_perplexity"], rel=1e-3)
