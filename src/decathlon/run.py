"""``run``: the Hydra application. One job, or with ``-m`` a sweep of them."""

import contextlib
import errno
import os
import sys
import traceback
from time import perf_counter
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from decathlon import files
from decathlon.errors import ConfigError, UserError
from decathlon.runner import catalog, sweep
from decathlon.runner.checks import check_values
from decathlon.runner.console import say_error, say_result, say_start, short
from decathlon.runner.job import Job
from decathlon.runner.messages import explain

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
            sweep.leave_outcome(outcome)


def run_job(job: Job) -> tuple[dict[str, Any], bool]:
    """Run a job, or answer from its record. Returns the record and whether it was there before.

    Raises:
        UserError: a value or a file is wrong. Anything else that goes wrong is kept in the job's folder as well.
    """
    force = job.config["force"]
    record = job.record()
    if record is not None and not force:
        say_result(job, record, known=True)
        return record, True
    from decathlon.runner import execute, machine, processes

    execute.quiet()
    count = processes.device_count(job.config["trainer"])
    built = execute.construct(job.config)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"results_dir={job.config['results_dir']} cannot be written: {error.strerror}") from error
    with files.locked(
        job.folder / "lock", lambda: print(f"waiting for another process to finish {job.folder}")
    ) as lock:
        record = job.record()
        if record is not None and not force:
            say_result(job, record, known=True)
            return record, True
        if force:
            _forget(job)
        job.write_config()
        say_start(job, f"{count} processes" if count > 1 else _device(job), resumed=job.last_checkpoint.exists())
        start = perf_counter()
        try:
            if count > 1:
                outcome = processes.run_workers(job.folder, count, lock)
            else:
                machine.reset_peak_memory()
                outcome = execute.execute(job.config, job.folder, built)
        except Exception as error:
            _keep_failure(job, error)
            raise
        record = {
            "status": "finished", "task": job.task, "dataset": job.dataset, "method": job.method, "seed": job.seed,
            "id": job.identity, "wall_time_s": round(perf_counter() - start, 3),
            "peak_memory_mib": machine.peak_memory(), **outcome, "device": machine.device_name(), "devices": count,
            "versions": machine.versions(), "commit": machine.commit(), "config": job.config,
        }  # fmt: skip
        job.finish(record)
    say_result(job, record)
    return record, False


def _device(job: Job) -> str:
    import torch

    wanted = job.config["trainer"].get("accelerator", "auto")
    return "gpu" if wanted == "gpu" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


def _forget(job: Job) -> None:
    """Remove what earlier attempts left, for ``force=true``; the lock stays."""
    import shutil

    for path in job.folder.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _keep_failure(job: Job, error: Exception) -> None:
    with contextlib.suppress(OSError):  # a full disk: the message on the screen has to do
        job.fail(error, traceback.format_exc())
        error.add_note(f"traceback in {short(job.failure_path)}")


def _one_line(error: Exception, arguments: list[str]) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return explain(error, arguments)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return f"{error.strerror}: {error.filename or 'while writing'}"
    notes = getattr(error, "__notes__", [])
    return f"{type(error).__name__}: {error}" + (f" ({notes[-1]})" if notes else "")


def main() -> None:
    """Console script ``run``."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we print one line
    catalog.register_groups()
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    try:
        app()
        if single_failure:
            raise single_failure[0]
    except (UserError, HydraException, OmegaConfBaseException) as error:
        say_error(_one_line(error, arguments))
        sys.exit(2)
    except KeyboardInterrupt:
        say_error("interrupted; the same command goes on from the last checkpoint")
        sys.exit(130)
    except Exception as error:
        say_error(_one_line(error, arguments))
        sys.exit(1)
    if sweep.failed_jobs:
        sys.exit(1)


if __name__ == "__main__":
    main()
