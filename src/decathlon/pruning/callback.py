"""Pruning in a Lightning ``Trainer``: any module, any data that is read through an ``EpochSampler``."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._pytree import tree_leaves

from decathlon.distributed import is_distributed, rank, total
from decathlon.errors import ConfigError
from decathlon.pruning.base import Pruner
from decathlon.pruning.distributed import merge
from decathlon.pruning.epoch import Allowance, check_loaders, index_of
from decathlon.pruning.evidence import Evidence
from decathlon.pruning.losses import LossAdapter, loss_adapter
from decathlon.pruning.method import check_method, make_pruner
from decathlon.pruning.reference import mean_lag
from decathlon.pruning.sampler import EpochSampler
from decathlon.pruning.static import Fixed


class Informant(Protocol):
    """A module that can say what a model thinks of the training samples; needed by the static methods."""

    def evidence(self, **scoring: Any) -> list[Evidence]:
        """Train scratch models on everything and return what they say; ``scoring`` comes from the method's config."""


class Pruning(Callback):
    """Trains each epoch on what a pruner selects, and changes nothing else: with ``prune=0`` the training is the same.

    The per-sample losses come from the module in one of two ways (``decathlon.pruning.losses``). It offers
    ``sample_losses(batch) -> (B,)``, which costs one more forward pass unless ``training_step`` returns ``losses`` (B,)
    beside ``loss``; for a method that wants a reference an averaged copy of all parameters is kept here. Or its
    attribute ``brings_losses`` is true: then ``training_step`` returns ``losses`` and ``reference_losses``, and nothing
    is computed here. Positions are in the batch (``decathlon.pruning.epoch.index_of``), or ``training_step`` returns
    ``index``. Weights, where a method has them, are set as ``module.sample_weights`` (B,), else None, before each
    ``training_step``. Static methods need ``module.evidence``.

    Every batch must hold selected samples only: a loader that does not read the selection is refused.

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
        self.given = sampler
        self.kind = check_method(method, prune)
        self.pruner: Pruner | None = None
        self._pending: dict[str, Any] | None = None  # state of a checkpoint, until the pruner exists
        self._fitting = False
        self._begin(None)

    def _begin(self, sampler: EpochSampler | None) -> None:
        """Forget an earlier fit."""
        self.sampler = sampler
        self.adapter: LossAdapter | None = None
        self.selected: int | None = None  # the epoch that the sampler is set for
        self.finished = False  # whether all its batches have been trained on
        self.samples = 0
        self.stats: dict[str, float] = {}
        self._allowance: Allowance | None = None
        self._seen: list[Tensor] = []
        self._index: Tensor | None = None
        self._step = 0
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
        if getattr(trainer, "overfit_batches", 0):
            raise ConfigError("overfit_batches reads the first batches only, whatever is selected: leave it out")
        sampler = self.given or getattr(trainer.datamodule, "sampler", None)  # type: ignore[attr-defined]
        if not isinstance(sampler, EpochSampler):
            raise ConfigError("pruning needs the training data's EpochSampler: the data module's `sampler`")
        self._begin(sampler)
        self._device = pl_module.device
        self.pruner = self._build(pl_module)
        self.adapter = loss_adapter(pl_module, self.pruner, trainer.precision_plugin.train_step_context)
        if self.pruner.varies:
            trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        self._step = trainer.global_step
        if self._pending is None:
            self._prepare(trainer.current_epoch, trainer, pl_module)
        else:
            self._resume(self._pending, trainer, pl_module)

    def _build(self, pl_module: LightningModule) -> Pruner:
        assert self.sampler is not None
        if not self.kind.wants_evidence:
            return make_pruner(self.method, self.sampler.n, self.prune, self.seed)
        if self._pending is not None:
            state = self._pending["pruner"]
            return Fixed(self.sampler.n, state["indices"], state.get("weights"))
        if not callable(getattr(pl_module, "evidence", None)):
            raise ConfigError(
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
        if epoch > 0 and self.pruner.wants_rescoring:
            self._rescore(epoch, trainer, pl_module)
        before = self.sampler.indices
        indices, weights = self.pruner.select()
        self.sampler.set_selection(indices, weights)
        self.sampler.set_epoch(epoch)
        self.selected, self.finished = epoch, False
        self._allowance = Allowance(self.sampler)
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
        assert self.pruner is not None and self.sampler is not None and self.adapter is not None
        source = trainer.datamodule if trainer.datamodule is not None else pl_module  # type: ignore[attr-defined]
        self.sampler.set_selection()
        seen = []
        for number, batch in enumerate(source.train_dataloader()):
            batch = trainer.precision_plugin.convert_input(batch)
            batch = trainer.strategy.batch_to_device(batch)
            index = index_of(batch)
            if index is None:
                raise ConfigError("scoring all samples needs batches that say which they hold: give them an `index`")
            losses = self.adapter.score(batch, ("rescore", self.seed, epoch, number, rank()))
            seen.append(index.cpu())
            self.pruner.observe(seen[-1], *losses)
        merge(self.pruner, torch.cat(seen), self._device)

    # Training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the loaders, which exist now."""
        assert self.sampler is not None
        check_loaders(tree_leaves(trainer.train_dataloader), self.sampler)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Select, where the end of the last epoch did not; what Lightning reads first needs it earlier."""
        self._prepare(trainer.current_epoch, trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check what the batch holds, hand the weights to the module, take the losses that it does not bring itself."""
        assert self.sampler is not None and self._allowance is not None and self.adapter is not None
        index = index_of(batch)
        self._index = None if index is None else self._allowance.take(index)
        if self.sampler.weighted and not hasattr(pl_module, "sample_weights"):
            raise ConfigError(f"method {self.method.get('name')} weights samples; the module takes no `sample_weights`")
        if self.sampler.weighted and self._index is None:
            raise ConfigError(f"method {self.method.get('name')} weights samples; give the batches an `index`")
        if hasattr(pl_module, "sample_weights"):
            weights = self.sampler.weight[self._index].to(pl_module.device) if self.sampler.weighted else None
            cast(Any, pl_module).sample_weights = weights
        self.adapter.before_step(batch, (self.seed, trainer.current_epoch, batch_idx, rank()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the pruner the batch's losses, and let the reference follow."""
        assert self.pruner is not None and self.adapter is not None and self._allowance is not None
        given = outputs if isinstance(outputs, Mapping) else {}
        losses = self.adapter.after_step(given)
        index = self._index
        if index is None:
            if "index" not in given:
                raise ConfigError(
                    "a batch says nowhere which samples it holds: give it `index`, their positions in the training set"
                )
            index = self._allowance.take(given["index"])
        self.pruner.update(index, *losses)
        if is_distributed():
            self._seen.append(index)
        else:
            self.samples += len(index)
        if trainer.global_step > self._step:
            self.adapter.follow()
        self._step = trainer.global_step
        self.finished = trainer.is_last_batch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log, and select for the next epoch, so that a loader which reads ahead finds it set."""
        assert self.pruner is not None
        self._merge()
        coverage = float((self.pruner.count > 0).float().mean())
        values = {**self.stats, "train/coverage": coverage, "train/samples": float(self.samples)}
        if self.kind.wants_reference:
            values["train/reference_lag"] = mean_lag(self.pruner.beta)
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
            "shadow": {} if self.adapter is None else self.adapter.state_dict(),
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
        assert self.pruner is not None and self.sampler is not None and self.adapter is not None
        self.pruner.load_state_dict(state["pruner"])
        self.adapter.load_state_dict(state["shadow"])
        selection = state["selection"]
        self.sampler.set_selection(selection.get("indices"), selection.get("weights"))
        self.sampler.set_epoch(state["selected"])
        self.selected, self.finished = state["selected"], state["finished"]
        self.samples, self.stats = state["samples"], dict(state["stats"])
        self._allowance = Allowance(self.sampler)
        self._pending = None
        if self.finished:
            self._prepare(state["selected"] + 1, trainer, pl_module)


def overlap(before: Tensor | None, after: Tensor, n: int) -> float:
    """Share of the samples in ``after`` that were in ``before`` too; 0 where there was none."""
    if before is None:
        return 0.0
    kept_before = torch.zeros(n, dtype=torch.bool)
    kept_before[before] = True
    return float(kept_before[after].float().mean())
