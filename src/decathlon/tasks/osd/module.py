"""Pretraining a language model by a method, and what it is measured by."""

import json
import logging
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from decathlon import distributed, files
from decathlon.errors import ConfigError
from decathlon.schedules import schedule
from decathlon.tasks.osd.data import IGNORED, Batch, TextData
from decathlon.tasks.osd.measures import state_bytes, subspace_quality
from decathlon.tasks.osd.models import check_size, make_model
from decathlon.tasks.osd.optimizers import ProjectedOptimizer
from decathlon.tasks.osd.optimizers.shards import shard
from decathlon.tasks.osd.recipes import Recipe
from decathlon.tasks.osd.trained import keep

log = logging.getLogger(__name__)
_LAST = 10  # training steps whose perplexity is averaged, as in the paper's Table 1


class LanguageModelling(LightningModule):
    """A LLaMA trained on next tokens.

    Args:
        method: method config (see ``Recipe``).
        size: of the model (``models.SIZES``).
        lr: highest learning rate of embeddings, head and norms. scale: that of the other matrices, relative to it.
        rank: of projected matrices or of factors. match: which modules; None: attention and MLP.
        steps: of the training. warmup: share of them in which the rate rises from 0. end: the last rate, relative; in
            between it follows ``shape``.
        length: longest sequence. per_layer: update each parameter inside the backward pass.
        clip: of the gradient's global norm; it is the trainer's matter, and cannot be had with per_layer.
        probe_every: measure the subspaces at every so many-th step (an SVD of each gradient) and at the last; None:
            never.
        eval_compat: ``galore`` also reports the perplexity as that code computes it: the sum of the batches' means over
            one batch too many.
        seed: of the initial weights. figures: draw them. matrix: of another module (``costs``).

    Raises:
        ConfigError: in one line, for values that cannot be.
    """

    unshardable = "it flattens the weights, and only matrices can be projected"
    shards_itself = True

    def __init__(
        self, method: Mapping[str, Any], size: str = "small", lr: float = 0.01, scale: float = 0.25, rank: int = 32,
        match: str | None = None, steps: int = 200, warmup: float = 0.1, end: float = 0.1, shape: str = "cosine",
        length: int = 256, per_layer: bool = False, clip: float | None = None, probe_every: int | None = None,
        eval_compat: str | None = None,
        seed: int = 0, figures: bool = True, matrix: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if eval_compat not in (None, "galore"):
            raise ConfigError(f"eval_compat={eval_compat} is unknown; choose null or galore")
        if probe_every is not None and probe_every < 1:
            raise ConfigError(f"probe_every={probe_every} must be at least 1, or null")
        if not 0 <= warmup < 1:
            raise ConfigError(f"warmup={warmup} is a share of the steps, from 0 to below 1")
        if per_layer and clip:
            raise ConfigError(
                "per_layer=true frees each gradient at once, so there is no global norm to clip by: set clip=null"
            )
        self.size, self.recipe = check_size(str(size)), Recipe(method, lr, scale, rank, match)
        self.rate = schedule(shape, int(steps), min(round(warmup * steps), steps - 1), float(end), first=0)
        self.steps, self.length, self.seed, self.figures = int(steps), int(length), int(seed), bool(figures)
        self.per_layer, self.probe_every, self.eval_compat = bool(per_layer), probe_every, eval_compat
        self.model: Any = None
        self.hidden: dict[str, Tensor] = {}
        self.diverged = False
        self.losses: list[float] = []
        self.update_seconds: list[float] = []
        self.probes: list[list[float]] = []  # step, captured, drift, overlap
        self.validations: list[list[float]] = []  # step, loss
        self.costs: dict[str, float] = {}
        self.done = 0
        self._content: str | None = None
        self._began: float | None = None  # of the update
        self._step_began: float | None = None
        self.train_seconds = 0.0
        self._parts: list[Tensor] = []
        self._sums = torch.zeros(5, dtype=torch.float64)

    # ---------------------------------------------------------------- before training

    @property
    def data(self) -> TextData:
        """The job's data."""
        found = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(found, TextData)
        return found

    def configure_model(self) -> None:
        if self.model is None:
            self.model = make_model(self.size, self.data.found.vocabulary, self.seed, self.length)
            if self.device_mesh is not None:
                self._shard(self.device_mesh["data_parallel"])
            self.hidden = self.recipe.install(self.model, self.seed)

    def _shard(self, mesh: Any) -> None:
        if self.recipe.adapter is not None:
            raise ConfigError("this method adapts whole matrices, which trainer=fsdp2 shares out; choose trainer=ddp")
        try:
            shard(self.model, mesh)
        except ValueError as error:
            raise ConfigError(f"size={self.size}: {error}; choose another number of processes") from error

    def configure_optimizers(self) -> Any:
        self._check_trainer()
        optimizer = self.recipe.optimizer(self.model, self.hidden)
        factor = self.recipe.adapter.lr_factor if self.recipe.adapter else lambda step: 1.0
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step) * factor(step))
        optimizer.register_step_post_hook(self._after_update)
        if self.per_layer:
            optimizer.step_in_backward()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    def _check_trainer(self) -> None:
        trainer = self.trainer
        if not self.per_layer:
            return
        if trainer.accumulate_grad_batches != 1:
            raise ConfigError("per_layer=true updates in every backward pass: set loop.accumulate_grad_batches=1")
        if trainer.world_size > 1:
            raise ConfigError("per_layer=true sees the gradients of one process only: use one device")

    def on_fit_start(self) -> None:
        content = self.data.found.content
        if self._content is not None and self._content != content:
            raise ConfigError(
                "this job began on another text: an installed package or a file has changed since; use force=true"
            )
        self._content = content

    # ---------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self._step_began is None:
            self._step_began = time.perf_counter()
        loss: Tensor = self.model(input_ids=batch["ids"], labels=batch["labels"]).loss
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch["ids"]))
        loss = loss * self._weight(batch)
        self._parts.append(loss.detach().float())
        return loss

    def _weight(self, batch: Batch) -> float:
        """What this process's loss counts in the mean over processes: its share of the tokens."""
        world = distributed.world_size()
        if self.data.packing != "documents" and self.data.batch_size % world == 0:
            return 1.0
        mine = int((batch["labels"][:, 1:] != IGNORED).sum())
        return mine * world / distributed.total(mine, self.device)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if not self.per_layer:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        if self.probe_every and self.recipe.projects and (self.done % self.probe_every == 0 or self._is_last):
            self._probe()
        self._began = time.perf_counter()

    @property
    def _is_last(self) -> bool:
        return self.done >= self.steps - 1

    def _probe(self) -> None:
        found = subspace_quality(self.optimizer)
        if found:
            self.probes.append([float(self.done), found["captured"], found["drift"], found["overlap"]])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().optimizer_step(*args, **kwargs)
        except FloatingPointError as error:  # a result, and not a failed run
            self.diverged = self.trainer.should_stop = True
            self._parts.clear()
            log.warning("step %d: %s; this run has diverged and stops", self.done, error)

    def _after_update(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """What belongs to a step: before a checkpoint is written."""
        if self._began is not None and not self.per_layer:  # there the updates are part of the backward pass
            self.update_seconds.append(time.perf_counter() - self._began)
        if self._step_began is not None:
            self.train_seconds += time.perf_counter() - self._step_began
        self._began = self._step_began = None
        self.done += 1
        loss = torch.stack(self._parts).mean()
        self._parts.clear()
        distributed.average(loss)
        self.losses.append(float(loss))
        if self.recipe.adapter is not None:
            self.recipe.adapter.after_step(self.model, optimizer, self.done)

    @property
    def optimizer(self) -> ProjectedOptimizer:
        """The method's optimizer, without Lightning's wrapper."""
        found = self.trainer.optimizers[0]
        assert isinstance(found, ProjectedOptimizer)
        return found

    def on_train_end(self) -> None:
        optimizer, mib = self.optimizer, 2.0**20
        self.costs = {
            "state_mib": state_bytes(optimizer) / mib,
            "hidden_state_mib": state_bytes(optimizer, self.hidden.values()) / mib,
            "weights_mib": sum(p.numel() * p.element_size() for p in self.model.parameters()) / mib,
        }

    # ---------------------------------------------------------------- evaluation

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(5, dtype=torch.float64)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        mean = float(self.model(input_ids=batch["ids"], labels=batch["labels"]).loss)
        kept = batch["labels"][:, 1:] != IGNORED
        if not kept.any():
            return  # another process's share is longer by one batch
        predicted = batch["ids"][:, 1:][kept].cpu().numpy()
        tokens = len(predicted)
        text = self.data.found.bytes_of(predicted)
        self._sums += torch.tensor([mean * tokens, tokens, text, mean, 1.0], dtype=torch.float64)

    test_step = validation_step

    def _evaluated(self) -> dict[str, float]:
        """Loss (mean over tokens, in nats), perplexity, bits per byte, over all processes."""
        if distributed.world_size() > 1:
            self._sums = torch.stack(distributed.gather(self._sums.to(self.device))).sum(0).cpu()
        total, tokens, text, means, batches = self._sums.tolist()
        loss = total / tokens
        found = {"loss": loss, "perplexity": _exp(loss), "bits_per_byte": total / text / math.log(2)}
        if self.eval_compat == "galore":  # its loop counts one batch more than there are
            found["perplexity_galore"] = _exp(means / (batches + 1))
        return {name: math.nan for name in found} if self.diverged else found

    def on_validation_epoch_end(self) -> None:
        found = self._evaluated()
        self.validations.append([float(self.done), found["loss"]])
        self.log_dict({f"val/{name}": value for name, value in found.items()}, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        found = {**self._evaluated(), **self.costs}
        last = self.losses[-_LAST:]
        found["train_perplexity"] = statistics.fmean(map(_exp, last)) if last and not self.diverged else math.nan
        if self.update_seconds:
            found["update_time_ms"] = 1e3 * statistics.median(self.update_seconds)
            found["update_time_mean_ms"] = 1e3 * statistics.fmean(self.update_seconds)
        if self.probes:
            found |= dict(zip(("captured", "drift", "overlap"), self.probes[-1][1:]))
        found["train_time_h"] = self.train_seconds / 3600
        found |= {"diverged": float(self.diverged), "corpus": float(int(self.data.found.content[:6], 16))}
        self.log_dict({f"test/{name}": value for name, value in found.items()})
        if self.trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        folder = Path(self.trainer.default_root_dir)
        said = {
            "corpus_sha256": self.data.found.content, "losses": self.losses, "validations": self.validations,
            "probes": self.probes,
        }  # fmt: skip
        files.write_text(folder / "curves.json", json.dumps(said) + "\n")
        if self.figures and self.losses:
            from decathlon.tasks.osd.figures import save_figures  # matplotlib is slow to import

            save_figures(folder, self.losses, self.validations, self.probes)

    # ---------------------------------------------------------------- state

    def export(self, folder: Path) -> None:
        """Keep model and tokenizer; see ``decathlon.tasks.osd.trained``."""
        keep(folder, self.model, self.data.found.vocabulary, self.data.found.tokenizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["osd"] = {
            "done": self.done, "losses": self.losses, "update_seconds": self.update_seconds, "probes": self.probes,
            "validations": self.validations, "diverged": self.diverged, "costs": self.costs, "content": self._content,
            "train_seconds": self.train_seconds,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["osd"]
        self.done, self.diverged, self._content = int(state["done"]), bool(state["diverged"]), state["content"]
        self.train_seconds = float(state["train_seconds"])
        self.losses, self.update_seconds = list(state["losses"]), list(state["update_seconds"])
        self.probes, self.validations, self.costs = list(state["probes"]), list(state["validations"]), state["costs"]


def _exp(loss: float) -> float:
    """The perplexity of a loss; infinite where it is beyond all numbers."""
    return math.exp(loss) if loss < 700 else math.inf
