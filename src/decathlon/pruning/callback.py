"""Pruning in a Lightning ``Trainer``: any module, any data that is read through an ``EpochSampler``."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from decathlon.distributed import is_distributed, total
from decathlon.errors import ConfigError
from decathlon.pruning.base import Pruner
from decathlon.pruning.distributed import merge
from decathlon.pruning.evidence import Evidence
from decathlon.pruning.method import check_method, make_pruner
from decathlon.pruning.reference import mean_lag
from decathlon.pruning.sampler import EpochSampler, epoch_generator
from decathlon.pruning.shadow import Shadow
from decathlon.pruning.static import Fixed


class Informant(Protocol):
    """A module that can say what a model thinks of the training samples; needed by the static methods."""

    def evidence(self, **scoring: Any) -> list[Evidence]:
        """Train scratch models on everything and return what they say; ``scoring`` comes from the method's config."""


def index_of(batch: Any) -> Tensor:
    """The positions (B,) of a batch's samples in the training set: its ``index``, or its last part if it is a tuple."""
    if isinstance(batch, Mapping):
        return cast(Tensor, batch["index"])
    if hasattr(batch, "index") and isinstance(batch.index, Tensor):
        return batch.index
    if isinstance(batch, (tuple, list)) and isinstance(batch[-1], Tensor) and not batch[-1].is_floating_point():
        return batch[-1]
    raise ValueError(
        "a batch says nowhere which samples it holds: give it `index`, their positions in the training set"
    )


class Pruning(Callback):
    """Trains each epoch on what a pruner selects.

    The module either offers ``sample_losses(batch) -> (B,)``, which costs one more forward pass, or returns
    ``losses`` (B,) from ``training_step`` beside ``loss`` (and ``index``, if the batch has none). Methods that want
    a reference keep an averaged copy of all parameters here and call ``sample_losses`` with it, unless the module's
    attribute ``brings_losses`` is true: then ``training_step`` returns ``reference_losses`` too, and nothing is
    computed here. Weights, where a method has them, are set as ``module.sample_weights`` (B,), else None, before
    each ``training_step``. Static methods need ``module.evidence``.

    Logs ``train/kept``, ``train/coverage`` (share of samples seen so far), ``train/overlap`` (of consecutive kept
    sets), ``train/samples`` and ``train/reference_lag`` (steps) once an epoch.

    Args:
        method: ``class`` and options of the pruner.
        prune: share of samples that an epoch leaves out.
        seed: of the pruner's own generator.
        sampler: what the training data are read through; by default the data module's ``sampler``.
    """

    def __init__(
        self,
        method: Mapping[str, Any],
        prune: float = 0.6,
        seed: int = 0,
        sampler: EpochSampler | None = None,
    ) -> None:
        self.method = dict(method)
        self.prune = prune
        self.seed = seed
        self.sampler = sampler
        self.kind = check_method(method, prune)
        self.pruner: Pruner | None = None
        self.shadow: Shadow | None = None
        self.selected: int | None = None  # the epoch that the sampler is set for
        self.finished = False  # whether all its batches have been trained on
        self.samples = 0
        self.stats: dict[str, float] = {}
        self._seen: list[Tensor] = []
        self._pending: dict[str, Any] | None = None  # state of a checkpoint, until the pruner exists
        self._reference_losses: Tensor | None = None
        self._losses: Tensor | None = None
        self._step = 0
        self._fitting = False
        self._device = torch.device("cpu")

    # Building and selecting

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to average parameters that each process holds a part of only."""
        strategy = type(trainer.strategy).__name__
        sharded = any(word in strategy for word in ("FSDP", "ModelParallel", "DeepSpeed"))
        if stage == "fit" and self.kind.wants_reference and sharded:
            raise ConfigError(
                f"{self.kind.__name__} averages whole parameters, which {strategy} splits over devices: use ddp"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the pruner, from scores of a scratch model if need be, and select for the first epoch."""
        if self.sampler is None:
            self.sampler = getattr(trainer.datamodule, "sampler", None)  # type: ignore[attr-defined]
        if self.sampler is None:
            raise ValueError("pruning needs the training data's EpochSampler: the data module's `sampler`")
        self._device = pl_module.device
        self.selected = None
        self.pruner = self._build(pl_module)
        if self.kind.wants_reference and not _brings_losses(pl_module):
            beta, mode = getattr(self.pruner, "beta", 0.5), getattr(self.pruner, "score_mode", "train")
            self.shadow = Shadow(pl_module, beta, buffers=mode == "eval")
        if self.pruner.varies:
            trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        self._step = trainer.global_step
        if self._pending is None:
            self._prepare(0, trainer, pl_module)
        else:
            self._resume(self._pending, trainer, pl_module)

    def _build(self, pl_module: LightningModule) -> Pruner:
        assert self.sampler is not None
        if not self.kind.wants_evidence:
            return make_pruner(self.method, self.sampler.n, self.prune, self.seed)
        if self._pending is not None:
            state = self._pending["pruner"]
            return Fixed(self.sampler.n, state["indices"], state.get("weights"))
        if not _offers(pl_module, "evidence"):
            raise ValueError(
                f"method {self.method.get('name')} needs a module with `evidence`, scores of a trained model"
            )
        with torch.random.fork_rng():
            found = cast(Informant, pl_module).evidence(**self.method.get("scoring", {}))
        return make_pruner(self.method, self.sampler.n, self.prune, self.seed, found)

    def _prepare(self, epoch: int, trainer: Trainer, pl_module: LightningModule) -> None:
        """Select for ``epoch``, unless that is done. The selection depends on the state of training only."""
        assert self.pruner is not None and self.sampler is not None
        if self.selected == epoch:
            return
        self._merge()
        if epoch > 0 and getattr(self.pruner, "rescore", "none") == "epoch":
            self._rescore(epoch, trainer, pl_module)
        before = self.sampler.indices
        indices, weights = self.pruner.select()
        self.sampler.set_selection(indices, weights)
        self.sampler.set_epoch(epoch)
        self.selected, self.finished = epoch, False
        self.stats = {
            "train/kept": float(len(indices)),
            "train/overlap": overlap(before, indices, self.sampler.n),
        }

    def _merge(self) -> None:
        """Let all processes know what each has seen."""
        if self._seen and self.pruner is not None:
            seen = torch.cat(self._seen)
            merge(self.pruner, seen, self._device)
            self.samples += total(len(seen), self._device)
        self._seen = []

    def _rescore(self, epoch: int, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score all samples with the current models, without counting them as trained on."""
        assert self.pruner is not None and self.sampler is not None
        source = trainer.datamodule if trainer.datamodule is not None else pl_module  # type: ignore[attr-defined]
        self.sampler.set_selection()
        seen = []
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(epoch_generator(self.seed, epoch).initial_seed())
            for batch in source.train_dataloader():
                batch = trainer.strategy.batch_to_device(batch)
                online, reference = self._score(pl_module, batch)
                seen.append(index_of(batch).cpu())
                self.pruner.observe(seen[-1], online, reference)
        merge(self.pruner, torch.cat(seen), self._device)

    def _score(self, pl_module: LightningModule, batch: Any) -> tuple[Tensor, Tensor | None]:
        if _offers(pl_module, "score_losses"):
            return cast(Any, pl_module).score_losses(batch)
        losses = cast(Any, pl_module).sample_losses(batch)
        return losses, None if self.shadow is None else self.shadow.losses(batch)

    # Training

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Select, where the end of the last epoch did not; what Lightning reads first needs it earlier."""
        self._prepare(trainer.current_epoch, trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hand the weights to the module; take the losses that it does not bring itself."""
        assert self.pruner is not None and self.sampler is not None
        if hasattr(pl_module, "sample_weights"):
            index = index_of(batch)
            weights = self.sampler.weight[index.cpu()].to(index.device) if self.sampler.weighted else None
            cast(Any, pl_module).sample_weights = weights
        elif self.sampler.weighted:
            raise ValueError(f"method {self.method.get('name')} weights samples; the module takes no `sample_weights`")
        self._losses = self._reference_losses = None
        if _offers(pl_module, "sample_losses") and not _brings_losses(pl_module):
            with torch.no_grad():
                self._losses = cast(Any, pl_module).sample_losses(batch)
        if self.shadow is not None:
            self._reference_losses = self.shadow.losses(batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the pruner the batch's losses, and let the reference follow."""
        assert self.pruner is not None
        given = outputs if isinstance(outputs, Mapping) else {}
        losses = given.get("losses", self._losses)
        if losses is None:
            raise ValueError("pruning needs per-sample losses: return `losses` or offer `sample_losses(batch)`")
        index = given["index"] if "index" in given else index_of(batch)
        self.pruner.update(index, losses, given.get("reference_losses", self._reference_losses))
        if is_distributed():
            self._seen.append(index.cpu())
        else:
            self.samples += len(index)
        if self.shadow is not None and trainer.global_step > self._step:
            self.shadow.update()
        self._step = trainer.global_step
        self.finished = trainer.is_last_batch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log, and select for the next epoch, so that a loader which reads ahead finds it set."""
        assert self.pruner is not None
        self._merge()
        coverage = float((self.pruner.count > 0).float().mean())
        values = {**self.stats, "train/coverage": coverage, "train/samples": float(self.samples)}
        if self.kind.wants_reference:
            values["train/reference_lag"] = mean_lag(getattr(self.pruner, "beta", 0.5))
        pl_module.log_dict(values)
        last = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
        if not last:
            self._prepare(trainer.current_epoch + 1, trainer, pl_module)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The pruner with its generator, the current selection, and the reference that is kept here."""
        if self.pruner is None or self.sampler is None:
            return {}
        self._merge()
        selection = {}
        if (indices := self.sampler.indices) is not None:
            selection = {"indices": indices, "weights": self.sampler.weight[indices]}
        return {
            "pruner": self.pruner.state_dict(),
            "shadow": {} if self.shadow is None else self.shadow.state_dict(),
            "selection": selection,
            "selected": self.selected,
            "finished": self.finished,
            "samples": self.samples,
            "stats": self.stats,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A test needs no selection: only a fit takes up the state."""
        self._fitting = trainer.state.fn == "fit"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the pruner is built."""
        if state_dict and self._fitting:
            self._pending = state_dict

    def _resume(self, state: dict[str, Any], trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.pruner is not None and self.sampler is not None
        self.pruner.load_state_dict(state["pruner"])
        if self.shadow is not None:
            self.shadow.load_state_dict(state["shadow"])
        selection = state["selection"]
        self.sampler.set_selection(selection.get("indices"), selection.get("weights"))
        self.sampler.set_epoch(state["selected"])
        self.selected, self.finished = state["selected"], state["finished"]
        self.samples, self.stats = state["samples"], dict(state["stats"])
        self._pending = None
        if self.finished:
            self._prepare(state["selected"] + 1, trainer, pl_module)


def _offers(module: LightningModule, method: str) -> bool:
    return callable(getattr(module, method, None))


def _brings_losses(module: LightningModule) -> bool:
    return bool(getattr(module, "brings_losses", False))


def overlap(before: Tensor | None, after: Tensor, n: int) -> float:
    """Share of the samples in ``after`` that were in ``before`` too; 0 where there was none."""
    if before is None:
        return 0.0
    kept_before = torch.zeros(n, dtype=torch.bool)
    kept_before[before] = True
    return float(kept_before[after].float().mean())
