"""The identity of a job: what changes it and what does not."""

import pytest

from decathlon.runner.compose import compose_config
from decathlon.runner.job import Job

BASE = ["task=toy"]


def identity(*overrides: str) -> str:
    return Job.of(compose_config([*BASE, *overrides])).identity


@pytest.mark.parametrize(
    "override",
    ["data_dir=elsewhere", "results_dir=elsewhere", "force=true", "trainer=ddp_cpu", "logger=wandb", "lr=0.010",
     "seed=0", "method=linear", "+dataset.methods=[linear,fixed]"],
)  # fmt: skip
def test_places_and_machines_are_not_identity(override: str) -> None:
    assert identity(override) == identity()


@pytest.mark.parametrize(
    "override",
    ["lr=0.02", "seed=1", "method=fixed", "epochs=5", "width=9", "precision=bf16-mixed", "+debug=true",
     "checkpoint.monitor=val/accuracy", "+loop.gradient_clip_val=1.0"],
)  # fmt: skip
def test_all_that_can_change_a_result_is_identity(override: str) -> None:
    assert identity(override) != identity()


def test_a_method_may_ignore_a_knob() -> None:
    assert identity("method=fixed", "lr=0.5") == identity("method=fixed")
    assert identity("method=fixed", "width=9") != identity("method=fixed")


def test_an_experiment_gives_the_same_job_as_the_same_values_by_hand() -> None:
    by_hand = Job.of(compose_config(["task=toy", "lr=0.1", "seed=2"])).identity
    by_table = Job.of(compose_config(["experiment=toy/small", "lr=0.1", "seed=2"])).identity
    assert by_hand == by_table


def test_the_folder_says_what_it_is() -> None:
    job = Job.of(compose_config([*BASE, "results_dir=/r"]))
    assert str(job.folder) == f"/r/toy/points/linear/{job.identity}"
