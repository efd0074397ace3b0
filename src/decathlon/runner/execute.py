"""Run one job in this process: build its module and data, fit, test, and return the metrics."""

import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import FSDPStrategy
from omegaconf import OmegaConf

from decathlon import files, trained
from decathlon.errors import ConfigError, UserError
from decathlon.runner import processes
from decathlon.runner.checkpoint import AtomicCheckpointIO, LastCheckpoint, checkpoint_callbacks
from decathlon.runner.exact import RandomState
from decathlon.runner.sharding import PRECISIONS, Sharded
from decathlon.runner.signals import EndOnSignal

log = logging.getLogger(__name__)

Config = dict[str, Any]
DEFAULT_THREADS = torch.get_num_threads()


def quiet() -> None:
    """Show what tasks log, and silence what Lightning says that no user of a finished task can act on."""
    ours = logging.getLogger("decathlon")
    if not ours.handlers:
        ours.addHandler(logging.StreamHandler(sys.stdout))
        ours.setLevel(logging.INFO)
        ours.propagate = False
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    logging.getLogger("gcsfs").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory.*exists.*",
        ".*is smaller than the logging interval.*",
        ".*GPU available but not used.*",
        ".*Found .* module.*in eval mode.*",
        ".*isinstance.*LeafSpec.*",
        ".*Trying to infer the `batch_size`.*",
        ".*recommended to use `self.log.*sync_dist=True.*",
        ".*`training_step` returned `None`.*",
        ".*ended before the epoch ended and your dataloader is.*",
        ".*The dataloader.*",
        ".*experiment logs directory.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def construct(config: Config) -> tuple[LightningModule, LightningDataModule]:
    """Build the module and the data of a job from a seeded state. A bad value raises ConfigError, in one line.

    A module whose parameters FSDP cannot share out among processes says why in ``unshardable``; one that shares them
    out itself, for FSDP2, says ``shards_itself = True``.
    """
    seed_everything(config["seed"], workers=True, verbose=False)
    module = _instantiate(config["module"], "module")
    _check_sharding(module, config["trainer"].get("strategy"), processes.is_sharded(config["trainer"]))
    return module, _instantiate(config["data"], "data")


def _check_sharding(module: LightningModule, strategy: Any, sharded: bool) -> None:
    itself = getattr(module, "shards_itself", False)
    why = None if strategy == processes.FSDP2 and itself else getattr(module, "unshardable", None)
    if strategy == processes.FSDP2 and not itself:
        why = why or "this task does not share out its parameters, so the processes would train apart"
    if sharded and why:
        raise ConfigError(f"trainer.strategy={strategy}: {why}; choose trainer={'fsdp2 or ' if itself else ''}ddp")


def _instantiate(spec: Config, what: str) -> Any:
    try:
        return instantiate(OmegaConf.create(spec), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        if isinstance(cause, ValueError):
            raise ConfigError(str(cause).splitlines()[0]) from error
        raise (cause or error) from None


def make_trainer(config: Config, folder: Path) -> Trainer:
    """The Trainer of a job: machine from ``trainer``, length from ``loop``, logs and checkpoints in ``folder``."""
    loop = {"max_epochs": None, "num_sanity_val_steps": 0, "log_every_n_steps": 50, **config["loop"]}
    if config.get("debug"):
        loop["log_every_n_steps"] = 1
    machine = dict(config["trainer"])
    if machine.get("accelerator", "auto") == "auto":  # never Apple's MPS, which has no float64
        machine["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    if machine.get("strategy") == processes.FSDP2:
        alone = processes.device_count(machine) * int(machine.get("num_nodes") or 1) == 1
        if not alone and config["precision"] not in PRECISIONS:
            raise ConfigError(f"precision={config['precision']}: trainer=fsdp2 has {', '.join(PRECISIONS)}")
        machine["strategy"] = "auto" if alone else Sharded()
    _keep_log(folder / "metrics.csv")
    loggers: list[Any] = [CSVLogger(folder, name="", version="")]
    for spec in config["logger"].values():
        loggers.append(_instantiate({**spec, "save_dir": str(folder)}, "logger"))
    checkpoint = config["checkpoint"]
    # First: what it puts back is there before any other callback draws a number.
    callbacks: list[Callback] = [RandomState(), EndOnSignal()]
    callbacks += [_instantiate(spec, "callback") for spec in config["callbacks"].values() if spec]
    callbacks += checkpoint_callbacks(
        folder / "checkpoints", checkpoint["monitor"], checkpoint["mode"], checkpoint["every_n_steps"],
        epochs=checkpoint["every_n_steps"] is None or loop["max_epochs"] is not None,
    )  # fmt: skip
    bar = machine.pop("enable_progress_bar", sys.stderr.isatty() and sys.stdout.isatty())
    if bar:
        callbacks.append(RichProgressBar(leave=False))
    plugins: list[Any] = [AtomicCheckpointIO()]
    if not TorchElasticEnvironment.detect():  # what Lightning would find else, SLURM, has not started these processes
        plugins.append(LightningEnvironment())
    return Trainer(
        **machine, **loop, precision=config["precision"], logger=loggers, callbacks=callbacks, default_root_dir=folder,
        plugins=plugins, enable_progress_bar=bar, enable_model_summary=False,
    )  # fmt: skip


def _keep_log(path: Path) -> None:
    """Set the log of an earlier attempt aside as ``metrics.<n>.csv``: the logger would overwrite it."""
    if path.exists() and os.environ.get("RANK", "0") == "0":
        path.rename(path.with_suffix(f".{len(list(path.parent.glob('metrics.*.csv')))}.csv"))


def execute(config: Config, folder: Path, built: tuple[LightningModule, LightningDataModule] | None = None) -> Config:
    """Run a job to its end and return ``{"metrics", "seconds", "resumed_from_step"}``.

    Work that an earlier, interrupted attempt left in ``folder`` is taken up: a finished fit is not repeated, a
    half-done one goes on from its last checkpoint.
    """
    quiet()
    torch.set_num_threads(config["threads"] or DEFAULT_THREADS)
    module, data = built or construct(config)
    trainer = make_trainer(config, folder)
    try:
        return _fit_and_test(config, folder, trainer, module, data)
    except SystemExit as error:
        if trainer.interrupted:  # Lightning makes an exit of Ctrl-C
            raise KeyboardInterrupt from error
        raise
    finally:
        for logger in trainer.loggers:
            # wandb would go on with this run in the next job of the same process.
            finish = getattr(getattr(logger, "experiment", None), "finish", None)
            if callable(finish):
                finish()


def _fit_and_test(
    config: Config, folder: Path, trainer: Trainer, module: LightningModule, data: LightningDataModule
) -> Config:
    last, fitted = folder / "checkpoints" / "last.ckpt", folder / "fit.json"
    outcome: Config = {"metrics": {}, "seconds": {}, "resumed_from_step": None}
    if config["fit"]:
        if not fitted.exists():
            start = time.perf_counter()
            resume = str(last) if last.exists() else None
            if resume:
                outcome["resumed_from_step"] = torch.load(resume, map_location="cpu", weights_only=True)["global_step"]
            trainer.fit(module, data, ckpt_path=resume, weights_only=True)
            keeper = next(callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint))
            trainer.save_checkpoint(last)  # the last step need not fall on a checkpoint's interval
            fit = {
                # What a killed attempt had logged is part of what this training has logged.
                "metrics": {**finite(keeper.logged), **_numbers(trainer)},
                "seconds": time.perf_counter() - start,
                "best": _best(trainer),
            }
            if trainer.is_global_zero:
                files.write_text(fitted, json.dumps(fit))
                last.with_name("previous.ckpt").unlink(missing_ok=True)
            trainer.strategy.barrier()
        fit = json.loads(fitted.read_text())
        outcome["metrics"].update(fit["metrics"])
        outcome["seconds"]["fit"] = fit["seconds"]
        checkpoint = str(last.parent / fit["best"]) if fit["best"] else str(last)
    else:
        checkpoint = None
    start = time.perf_counter()
    trainer.test(module, data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    outcome["seconds"]["test"] = time.perf_counter() - start
    outcome["metrics"].update(_numbers(trainer))
    _keep_trained(config, folder, trainer, module)
    return outcome


def _keep_trained(config: Config, folder: Path, trainer: Trainer, module: LightningModule) -> None:
    """Let the task keep what it has trained (``decathlon.trained``), with what is needed to load it; all or nothing."""
    export, loader = getattr(module, "export", None), config["task"].get("trained")
    if export is None or not loader or not trainer.is_global_zero:
        return
    if isinstance(trainer.strategy, (FSDPStrategy, Sharded)) and config["fit"]:
        log.warning("the weights are sharded: this job keeps its checkpoint, but nothing for decathlon.load")
        return
    target, temporary = folder / trained.FOLDER, Path(tempfile.mkdtemp(dir=folder, prefix=f".{trained.FOLDER}."))
    try:
        export(temporary)
        job = yaml.safe_dump({"load": loader, "config": config}, sort_keys=False)
        files.write_text(temporary / trained.JOB, job)
        temporary.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _numbers(trainer: Trainer) -> dict[str, float | None]:
    """All metrics that the module logged; what is not finite becomes None, as JSON has no such number."""
    return finite({name: float(value) for name, value in trainer.callback_metrics.items()})


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """Each number, or None where it is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _best(trainer: Trainer) -> str | None:
    """The name of the best checkpoint by the monitored metric, or None when nothing is monitored."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return Path(callback.best_model_path).name
    return None
