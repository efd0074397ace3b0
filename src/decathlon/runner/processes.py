"""A job on several devices: its processes are started from its own ``config.yaml``.

Lightning's launcher repeats ``sys.argv``, which under a Hydra multirun is the whole sweep. Here torchrun starts the
workers of exactly one job, so several devices work inside a sweep as they do in a single run.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import yaml

from decathlon import files
from decathlon.errors import ConfigError, UserError
from decathlon.runner.nodes import Node

Config = dict[str, Any]
ALONE = Node()
FSDP2 = "fsdp2"  # as trainer.strategy
ERROR = "worker-error.json"  # in a job's folder: what the first worker that failed has said


def is_sharded(trainer: Config) -> bool:
    """Whether each process would hold a part of the parameters only (FSDP, FSDP2)."""
    return str(trainer.get("strategy") or "").startswith("fsdp")


def device_count(trainer: Config) -> int:
    """How many processes the trainer config asks for on this machine.

    Raises:
        ConfigError: ``devices`` is no number of them, there are not so many GPUs, or the parameters are to be shared
            out among processes on the CPU by torch's first FSDP, which does not run there.
    """
    import torch

    devices, gpus = trainer.get("devices", 1), torch.cuda.device_count()
    if devices in ("auto", -1, "-1"):
        devices = 1 if trainer.get("accelerator") == "cpu" else max(1, gpus)
    try:
        wanted = len(devices) if isinstance(devices, list) else int(devices)
    except (TypeError, ValueError):
        wanted = 0
    if wanted < 1:
        raise ConfigError(f"trainer.devices={devices} is neither a number of devices, nor a list of them, nor auto")
    flat = is_sharded(trainer) and trainer["strategy"] != FSDP2
    if flat and (trainer.get("accelerator") == "cpu" or not gpus):
        raise ConfigError(
            f"trainer.strategy={trainer['strategy']} shards the parameters over GPUs (torch's first FSDP runs on no "
            f"CPU){'' if gpus else ', and torch sees none here'}; choose trainer=fsdp2_cpu, ddp_cpu, or cpu"
        )
    if trainer.get("accelerator") == "gpu" and wanted > max(gpus, int(torch.backends.mps.is_available())):
        seen = f"{gpus} of them" if gpus else "none"
        needed = "a GPU" if wanted == 1 else f"{wanted} GPUs"
        raise ConfigError(f"this trainer needs {needed}, and torch sees {seen} here")
    return wanted


class WorkersFailed(RuntimeError):
    """The processes of a job ended without a result; carries the error of the first that said one."""


def run_workers(folder: Path, count: int, lock: int, node: Node = ALONE) -> Config:
    """Run the job of ``folder`` in ``count`` processes of this machine and return its outcome.

    The workers inherit the descriptor ``lock``: the job stays locked until the last of them has ended. They end with
    this process. ``node``: this machine, the first of those that the job is run on.
    """
    result, error = folder / "outcome.json", folder / ERROR
    result.unlink(missing_ok=True)
    error.unlink(missing_ok=True)
    done = _start(folder, count, node, lock)
    if done.returncode == 0 and result.exists():
        outcome = json.loads(result.read_text())
        result.unlink()
        return outcome
    if error.exists():
        said = json.loads(error.read_text())
        error.unlink()
        if said["user"]:
            raise UserError(said["message"])
        raise WorkersFailed(f"{said['message']}\n{said['traceback']}")
    raise WorkersFailed(f"the {count} processes of the job ended with status {done.returncode} and no result")


def give_workers(folder: Path, count: int, node: Node) -> None:
    """Run the ``count`` processes that this machine, not the first, has in the job of ``folder``.

    Raises:
        WorkersFailed: they ended otherwise than well; the first machine says why.
    """
    done = _start(folder, count, node)
    if done.returncode:
        raise WorkersFailed(f"the {count} processes of machine {node.rank} ended with status {done.returncode}")


def _start(folder: Path, count: int, node: Node, *descriptors: int) -> "subprocess.CompletedProcess[bytes]":
    command = [
        sys.executable, "-m", "decathlon.runner.torchrun", str(folder / ERROR), *node.arguments(),
        f"--nproc-per-node={count}", "--max-restarts=0", "-m", "decathlon.runner.processes", str(folder),
    ]  # fmt: skip
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    return subprocess.run(command, pass_fds=descriptors, env=environment, preexec_fn=die_with_parent)


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def worker(folder: Path) -> int:
    """One process of a job, started by torchrun."""
    die_with_parent()
    import torch

    from decathlon.runner import machine
    from decathlon.runner.execute import execute

    config = yaml.safe_load((folder / "config.yaml").read_text())
    # The real number of devices: `auto` has been counted by the process that started this one.
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    config["trainer"]["devices"] = local
    config["trainer"]["num_nodes"] = int(os.environ["WORLD_SIZE"]) // local
    config["trainer"]["strategy"] = config["trainer"].get("strategy") or "ddp"
    try:
        machine.reset_peak_memory()
        outcome = execute(config, folder)
        peaks: list[Any] = [machine.peak_memory()] * int(os.environ["WORLD_SIZE"])
        if torch.distributed.is_initialized():
            torch.distributed.all_gather_object(peaks, machine.peak_memory())
        if os.environ["RANK"] == "0":
            outcome["peak_memory_mib"] = {key: max(peak[key] for peak in peaks) for key in peaks[0]}
            files.write_text(folder / "outcome.json", json.dumps(outcome))
        if torch.distributed.is_initialized():
            # None may leave before the outcome is written: torchrun ends the others when one has gone wrong.
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        said = {"user": isinstance(error, UserError), "message": message, "traceback": traceback.format_exc()}
        if not (folder / ERROR).exists():
            files.write_text(folder / ERROR, json.dumps(said))
        return 1
    return 0


if __name__ == "__main__":
    status = worker(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the interpreter's shutdown: threads of the communication library may still run and would abort it.
    os._exit(status)
