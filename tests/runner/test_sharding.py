"""``trainer=fsdp`` and ``fsdp2``: jobs whose weights are shared out; what cannot work is refused at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from torch.utils._pytree import tree_map

from decathlon.errors import ConfigError
from decathlon.language import new_llama
from decathlon.language.sharding import shard_blocks
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct, make_trainer
from decathlon.runner.job import Job
from decathlon.runner.processes import device_count
from decathlon.runner.sharding import Sharded, _cut, _whole
from decathlon.tasks.cora import CoRA
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
    [
        ("osd trainer=fsdp", "only matrices can be projected; choose trainer=fsdp2 or ddp"),
        ("cora trainer=fsdp", "the frozen language model whole; choose trainer=fsdp2 or ddp"),
        ("kele trainer=fsdp", "an edit is written into whole weight matrices; choose trainer=ddp"),
        ("kele trainer=fsdp2_cpu", "an edit is written into whole weight matrices; choose trainer=ddp"),
        ("molpeg trainer=fsdp2_cpu", "the processes would train apart; choose trainer=ddp"),
    ],
)  # fmt: skip
def test_a_task_that_needs_whole_parameters_says_so_at_the_start(tmp_path: Path, task: str, why: str) -> None:
    places = [f"data_dir={tmp_path}", f"results_dir={tmp_path}"]
    job = Job.of(compose_config([*f"task={task}".split(), *places]))
    with pytest.raises(ConfigError, match=f"{why}$") as error:
        construct(job.config)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("method=lora", "method adapts whole matrices, which trainer=fsdp2 shares out; choose trainer=ddp"),
        ("method=fira", "Fira needs whole matrices"),
    ],
)
def test_what_osd_cannot_shard_is_one_line(run_here: Door, here: Path, override: str, why: str) -> None:
    del here
    done = run_here("task=osd", "+debug=true", "trainer=fsdp2_cpu", override)
    assert done.status == 2 and why in done.stderr and len(done.stderr.splitlines()) == 1


OSD = ["task=osd", "size=tiny", "steps=24", "length=32", "batch_size=4", "rank=8", "eval_tokens=3000", "warmup=0.25"]
CORA = [  # without the Q-Former, whose dropout draws anew in every process
    "task=cora", "generator=linear", "iterations=24", "train_rows=200", "valid_rows=40", "test_users=10",
    "cache_dtype=null", "warmup=2",
]  # fmt: skip


def run(places: list[str], *overrides: str, until: str | None = None) -> dict[str, Any]:
    """The record of a job; with ``until``, nothing: it is killed as soon as it has written a file of that name."""
    more = ["figures=false", "threads=1", "checkpoint.every_n_steps=1"]
    command = [sys.executable, "-m", "decathlon.run", *overrides, *places, *more]
    results = Path(places[0].removeprefix("results_dir="))
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        while until and process.poll() is None and not list(results.rglob(until)):
            time.sleep(0.01)
        if until and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return {}
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and not until, said
    finally:
        process.kill()
    (record,) = results.rglob("metrics.json")
    scores = {}
    for path in record.parent.glob("*.jsonl"):
        scores |= {row["id"]: row["score"] for row in map(json.loads, path.read_text().splitlines())}
    return {**json.loads(record.read_text()), "scores": scores}


@pytest.mark.parametrize(
    ("task", "first", "second"),
    [
        (OSD, "fsdp2_cpu", "cpu"),
        pytest.param(OSD, "cpu", "fsdp2_cpu", marks=pytest.mark.slow),
        pytest.param(CORA, "fsdp2_cpu", "cpu", marks=pytest.mark.slow),
        pytest.param(CORA, "cpu", "fsdp2_cpu", marks=pytest.mark.slow),
        pytest.param([*CORA, "method=collm_mf"], "fsdp2_cpu", "fsdp2_cpu", marks=pytest.mark.slow),
    ],
    ids=["osd2-1", "osd1-2", "cora2-1", "cora1-2", "collm2-2"],
)  # fmt: skip
def test_a_killed_job_goes_on_in_another_number_of_processes_to_the_result_of_one(
    tmp_path: Path, embedded_data: Path, task: list[str], first: str, second: str
) -> None:
    data = f"data_dir={embedded_data}"
    alone = run([f"results_dir={tmp_path / 'alone'}", data], *task, "trainer=cpu")
    places = [f"results_dir={tmp_path / 'moved'}", data]
    run(places, *task, f"trainer={first}", until="last.ckpt")
    moved = run(places, *task, f"trainer={second}")
    assert 0 < moved["resumed_from_step"] < 24
    for name in ("loss", "perplexity", "captured", "validation", "auc", "mf_auc"):
        if f"test/{name}" in alone["metrics"]:
            assert moved["metrics"][f"test/{name}"] == pytest.approx(alone["metrics"][f"test/{name}"], rel=1e-3)
    assert moved["scores"] == pytest.approx(alone["scores"], rel=1e-3, abs=1e-3)


def _share(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model, optimizer = _adam(f"{folder}/start.pt")
    fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(_cut(torch.load(f"{folder}/state.pt", weights_only=True), optimizer))
    _step(model, optimizer, slice(rank, None, 2))
    state = tree_map(_whole, optimizer.state_dict())
    weights = [p.full_tensor() for p in model.parameters()]
    torch.save([state, weights], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _adam(start: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    if Path(start).exists():
        model.load_state_dict(torch.load(start, weights_only=True))
    return model, torch.optim.AdamW(model.parameters())


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, rows: slice) -> None:
    optimizer.zero_grad()
    model(torch.arange(20.0).view(4, 5)[rows] / 20).square().mean().backward()
    optimizer.step()


def test_the_state_of_any_optimizer_passes_from_one_process_to_two_and_back(tmp_path: Path) -> None:
    model, optimizer = _adam(str(tmp_path / "start.pt"))
    _step(model, optimizer, slice(None))
    torch.save(model.state_dict(), tmp_path / "start.pt")
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    mp.spawn(_share, (str(tmp_path),), nprocs=2)
    _step(model, optimizer, slice(None))
    for rank in range(2):
        state, weights = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for index, one in optimizer.state_dict()["state"].items():
            assert all(torch.allclose(state["state"][index][name], one[name], atol=1e-7) for name in one)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights, model.parameters()))


def test_one_process_shares_nothing_out(tmp_path: Path) -> None:
    config = compose_config(["task=toy", "trainer=fsdp2_cpu", "trainer.devices=1", f"results_dir={tmp_path}"])
    assert not isinstance(make_trainer(Job.of(config).config, tmp_path).strategy, Sharded)


def test_precisions_that_lightning_does_not_shard(tmp_path: Path) -> None:
    places = [f"data_dir={tmp_path}", f"results_dir={tmp_path}"]
    config = Job.of(compose_config(["task=osd", "trainer=fsdp2_cpu", "precision=64-true", *places])).config
    with pytest.raises(ConfigError, match="precision=64-true: trainer=fsdp2 has 32-true, "):
        make_trainer(config, tmp_path)


def _blocks(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = new_llama(64, width=32, layers=3, heads=2, inner=88, seed=0).requires_grad_(False)
    whole = model(input_ids=torch.arange(8)[None]).logits
    shard_blocks(model, torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
    blocks = list(model.model.layers)

    def parts() -> list[bool]:
        return [all(hasattr(p, "device_mesh") for p in block.parameters()) for block in blocks]

    seen = [parts()]
    cora = CoRA(model, 4, 4, rank=2, blocks=1)
    with torch.no_grad():
        close = torch.allclose(model(input_ids=torch.arange(8)[None]).logits, whole, atol=1e-5)
    seen.append(parts())
    with cora.personalised(torch.ones(1, 4), torch.ones(1, 4)):
        model(input_ids=torch.arange(8)[None]).logits.square().mean().backward()
    seen.append(parts())
    learns = any(p.grad is not None and bool(p.grad.any()) for p in cora.parameters())
    torch.save([seen, close, learns], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_blocks_of_a_frozen_model_are_in_parts_again_after_each_pass(tmp_path: Path) -> None:
    mp.spawn(_blocks, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        seen, close, learns = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert seen == [[True] * 3] * 3 and close and learns


def test_a_training_that_diverges_is_recorded_among_several_processes_too(tmp_path: Path, embedded_data: Path) -> None:
    places = [f"results_dir={tmp_path}", f"data_dir={embedded_data}"]
    found = run(places, *CORA, "method=tallrec", "lr=1e30", "warmup=0", "iterations=4", "trainer=fsdp2_cpu")
    assert found["metrics"]["test/diverged"] == 1
