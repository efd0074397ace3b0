"""``run``: the Hydra application. One job, or with ``-m`` a sweep of them."""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from time import perf_counter
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from decathlon import files, locks
from decathlon.errors import ConfigError, UserError
from decathlon.runner import catalog, console, groups, nodes, sweep
from decathlon.runner.checks import check_overrides, check_values
from decathlon.runner.console import say, say_error, say_result, say_start, say_warning, short
from decathlon.runner.job import Job
from decathlon.runner.messages import COMPOSITION, explain

# The error of a single run, on its way from the Hydra application to `main`.
single_failure: list[Exception] = []


@hydra.main(config_path=str(catalog.CONFIGS), config_name="run", version_base="1.3")
def app(cfg: DictConfig) -> float | None:
    """Run one composed config; inside a sweep a failure is noted and the sweep goes on."""
    outcome: dict[str, Any] = {"status": "interrupted"}
    try:
        check_values(list(HydraConfig.get().overrides.task), cfg)
        job = Job.of(cfg)
        record, known = run_job(job)
        outcome.update(status="skipped" if known else "finished", folder=str(job.folder))
        main_metric = next((record["metrics"].get(name) for name in job.config["report"]), None)
        return main_metric
    except BlockingIOError:
        outcome.update(status="locked")  # the sweep comes back to it
        return None
    except Exception as error:
        if not sweep.in_sweep():
            # Raised from main(): Hydra would put lines of its own above ours.
            single_failure.append(error)
            return None
        message = _one_line(error, list(HydraConfig.get().overrides.task))
        say_error(message)
        outcome.update(status="failed", error=message)
        return None
    finally:
        if sweep.in_sweep():
            with contextlib.suppress(OSError):  # a full disk: the sweep counts a job without an outcome as failed
                sweep.leave_outcome(outcome)


def run_job(job: Job) -> tuple[dict[str, Any], bool]:
    """Run a job, or answer from its record. Returns the record and whether it was there before.

    Raises:
        UserError: a value or a file is wrong. Anything else that goes wrong is kept in the job's folder as well.
        BlockingIOError: another process has the job, and its sweep passes over such.
    """
    force = job.config["force"]
    record = job.record()
    if record is not None and not force:
        say_result(job, record, known=True)
        return record, True
    machines = nodes.count(job.config["trainer"])
    if number := nodes.rank(machines):
        return _help(job, machines, number)
    wait = not sweep.passes_over()
    if not wait and locks.is_locked(job.folder / "lock"):
        raise BlockingIOError
    from decathlon.runner import checkpoint, execute, machine, processes

    execute.quiet()
    count = processes.device_count(job.config["trainer"])
    built = execute.construct(job.config)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"results_dir={job.config['results_dir']} cannot be written: {error.strerror}") from error
    waiting = f"waiting for another process to finish {short(job.folder)}"
    with locks.locked(job.folder / "lock", lambda: say(waiting), wait) as lock:
        record = job.record()
        if record is not None and not force:
            say_result(job, record, known=True)
            return record, True
        if force:
            _forget(job)
        for line in checkpoint.mend(job.folder):
            say_warning(line)
        if job.record_path.exists():
            files.set_aside(job.record_path)
        job.write_config()
        where = f"{count} processes" if count > 1 else _device(job)
        where += f" on each of {machines} machines" if machines > 1 else ""
        say_start(job, where, resumed=job.last_checkpoint.exists(), place=sweep.position())
        start = perf_counter()
        try:
            if count > 1 or machines > 1:
                del built
                with nodes.announced(job.folder, machines) as node:
                    outcome = processes.run_workers(job.folder, count, lock, node)
            else:
                machine.reset_peak_memory()
                outcome = execute.execute(job.config, job.folder, built)
        except Exception as error:
            _keep_failure(job, error)
            raise
        record = {
            "status": "finished", "task": job.task, "dataset": job.dataset, "method": job.method, "seed": job.seed,
            "id": job.identity, "wall_time_s": round(perf_counter() - start, 3),
            "peak_memory_mib": machine.peak_memory(), **outcome, "device": machine.device_name(),
            "devices": count * machines, "versions": machine.versions(), "commit": machine.commit(),
            "config": job.config,
        }  # fmt: skip
        job.finish(record)
    say_result(job, record)
    return record, False


def _help(job: Job, machines: int, number: int) -> tuple[dict[str, Any], bool]:
    """Give the processes of machine ``number`` to a job whose lock and record are the first machine's."""
    from decathlon.runner import execute, processes

    execute.quiet()
    count = processes.device_count(job.config["trainer"])
    say(f"machine {number} of {machines} waits for the first one in {short(job.folder)}")
    node = nodes.found(job.folder, machines, number, anew=job.config["force"])
    if node is not None:
        processes.give_workers(job.folder, count, node)
    record = nodes.awaited(job.record, job.folder)
    say_result(job, record, known=node is None)
    return record, node is None


def _device(job: Job) -> str:
    import torch

    wanted = job.config["trainer"].get("accelerator", "auto")
    return "gpu" if wanted == "gpu" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


def _forget(job: Job) -> None:
    """Remove what earlier attempts left, for ``force=true``; the lock stays, and what a link points to."""
    import shutil

    for path in job.folder.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _keep_failure(job: Job, error: Exception) -> None:
    with contextlib.suppress(OSError):  # a full disk: the message on the screen has to do
        job.fail(error, traceback.format_exc())
        error.add_note(f"traceback in {short(job.failure_path)}")


def _one_line(error: Exception, arguments: list[str]) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, COMPOSITION):
        return explain(error, arguments)
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"{error.strerror}: {error.filename or 'while writing'}"
    notes = getattr(error, "__notes__", [])
    return f"{type(error).__name__}: {error}" + (f" ({notes[-1]})" if notes else "")


_DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EPERM,
    errno.EISDIR, errno.EIO, errno.ESTALE,
}  # fmt: skip


_VALUED = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Console script ``run``."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we print one line
    console.speak_any_alphabet()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--version" in given:
        print(f"decathlon {version('decathlon')}")
        return
    overrides = [
        argument
        for before, argument in zip([None, *given], given)
        if not argument.startswith("-") and before not in _VALUED
    ]
    single_failure.clear()
    sweep.failed_jobs.clear()
    try:
        if "--help" in given or "-h" in given:
            console.say_help()
            return
        groups.register_groups()
        check_overrides(overrides)
        if "--dry-run" in given:
            from decathlon.report.commands import dry_run

            dry_run(overrides)
            return
        sys.argv = [sys.argv[0], *given]
        app()
        if single_failure:
            raise single_failure[0]
    except KeyboardInterrupt:
        done = sweep.how_far()
        say_error(f"interrupted{f', {done}' if done else ''}; the same command goes on from the last checkpoint")
        sys.exit(130)
    except Exception as error:
        say_error(_one_line(error, overrides))
        sys.exit(2 if isinstance(error, (UserError, *COMPOSITION)) else 1)
    if sweep.failed_jobs:
        sys.exit(1)


if __name__ == "__main__":
    main()
