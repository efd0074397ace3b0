"""``trainer=fsdp``: where it cannot work it is refused in one line, before anything is read, trained or written."""

from pathlib import Path

import pytest
import torch

from decathlon.errors import ConfigError
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct
from decathlon.runner.job import Job
from decathlon.runner.processes import device_count
from tests.runner.conftest import Door


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without GPU")
@pytest.mark.parametrize("task", ["toy", "osd", "cora"])
@pytest.mark.parametrize("more", [[], ["trainer.accelerator=cpu", "trainer.devices=2"]])
def test_without_a_gpu_nothing_begins(run_here: Door, here: Path, task: str, more: list[str]) -> None:
    done = run_here(f"task={task}", "trainer=fsdp", *more)
    assert done.status == 2 and done.stdout == ""
    assert done.stderr.startswith("error: trainer.strategy=fsdp shards the parameters over GPUs")
    assert len(done.stderr.splitlines()) == 1 and not list(here.iterdir())


def test_devices_of_a_sharded_job(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = {"accelerator": "gpu", "devices": "auto", "strategy": "fsdp"}
    with pytest.raises(ConfigError, match="fsdp_cpu_offload shards the parameters over GPUs"):
        device_count({**trainer, "accelerator": "cpu", "devices": 2, "strategy": "fsdp_cpu_offload"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_count(trainer) == 2


@pytest.mark.parametrize(
    ("task", "why"),
    [("osd", "only whole matrices"), ("cora", "the frozen language model whole"), ("kele", "an edit is")],
)
def test_a_task_that_needs_whole_parameters_says_so_at_the_start(tmp_path: Path, task: str, why: str) -> None:
    job = Job.of(compose_config([f"task={task}", "trainer=fsdp", f"data_dir={tmp_path}", f"results_dir={tmp_path}"]))
    with pytest.raises(ConfigError, match=f"{why}.*; choose trainer=ddp") as error:
        construct(job.config)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
