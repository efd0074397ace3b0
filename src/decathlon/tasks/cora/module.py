"""A job of the task: an adapter of a frozen language model is trained on click labels and tested on later rows."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from decathlon import distributed
from decathlon.errors import ConfigError
from decathlon.language.sharding import shard_blocks
from decathlon.randomness import seeded
from decathlon.recommendation.ctr import auc
from decathlon.rows import append, mend, read_rows, rows_path
from decathlon.schedules import schedule
from decathlon.tasks.cora.data import RecommendationData, check_method
from decathlon.tasks.cora.evaluation import baselines, row_metrics
from decathlon.tasks.cora.frozen import Frozen
from decathlon.tasks.cora.general import general_ability
from decathlon.tasks.cora.methods import Adapter, Batch, Stage
from decathlon.tasks.cora.scoring import scores_of
from decathlon.tasks.cora.trained import keep

log = logging.getLogger(__name__)
WARMUP_START = 1e-5  # the rate that the published warm-up starts from


class Recommender(LightningModule):
    """Trains a method's adapter and tests it; or tests a method that trains nothing.

    Test metrics: ``test/auc``, ``test/uauc`` (over ``test/uauc_users`` users), and each of rows whose user and item are
    known to training (``_warm``) and of the others (``_cold``). On the same rows: ``test/bias_auc`` (shrunk means),
    ``test/lr_auc`` (logistic regression on the frozen collaborative vectors), ``test/mf_auc`` (their own dot
    product), ``test/frozen_auc`` (the language model as it is, where its states are kept), and the same with ``uauc``.
    ``test/validation``: validation AUC of the tested state. ``test/general_before``, ``_after``: of a trained method,
    see :mod:`~.general`.

    Args:
        method: config. score: ``yes`` (the raw logit of Yes) or ``yes_minus_no``.
        epochs, iterations: the schedule's length is their product. lr, warmup, end: of the schedule, in steps; ``end``
            is the last rate as a share of the first. restarts: the published warm-up, anew with every epoch.
        weight_decay: of matrices; vectors have none.
        seed: of all that the adapter draws.
        figures: whether to draw.
    """

    unshardable = "it shards what is trained, a small adapter, and every process holds the frozen language model whole"
    shards_itself = True

    def __init__(
        self, method: dict[str, Any], score: str = "yes", epochs: int = 1, iterations: int = 100, lr: float = 1e-3,
        warmup: int = 200, end: float = 0.08, restarts: bool = False, weight_decay: float = 1e-3, seed: int = 0,
        figures: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.method = check_method(method)
        if score not in ("yes", "yes_minus_no"):
            raise ConfigError(f"score={score} is unknown; choose yes or yes_minus_no")
        if min(epochs, iterations) < 1:
            raise ConfigError(f"epochs={epochs} and iterations={iterations} must be at least 1")
        if lr <= 0:
            raise ConfigError(f"lr={lr} must be positive")
        self.score, self.seed, self.figures = score, int(seed), bool(figures)
        self.steps, self.iterations = int(epochs) * int(iterations), int(iterations)
        self.lr, self.weight_decay, self.restarts = float(lr), float(weight_decay), bool(restarts)
        self.warmup, self.end = int(warmup), float(end)
        self.bounds = self._bounds()
        for first, last in self.bounds if self.method.stages else []:
            schedule("cosine", last - first, self.warmup, self.end)
        self.adapter: Adapter = Adapter()
        self.frozen: Frozen | None = None
        self.curve: list[list[float]] = []
        self.diverged = False
        self._seen: list[Tensor] = []
        self.done: set[str] = set()

    def _bounds(self) -> list[tuple[int, int]]:
        """First and last step of each stage."""
        shares = [stage.share for stage in self.method.stages]
        ends = [round(self.steps * sum(shares[: k + 1]) / sum(shares)) for k in range(len(shares))]
        return list(zip([0, *ends[:-1]], ends))

    @property
    def data(self) -> RecommendationData:
        """The job's data."""
        found = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(found, RecommendationData)
        return found

    @property
    def folder(self) -> Path:
        """The job's folder."""
        return Path(self.trainer.default_root_dir)

    def setup(self, stage: str) -> None:
        if not self.method.uses_llm or self.data.llm is None or len(list(self.adapter.children())):
            return
        if self.trainer.world_size > self.data.batch_size:
            raise ConfigError(
                f"a batch_size={self.data.batch_size} cannot be shared by {self.trainer.world_size} processes"
            )
        if self.device_mesh is not None:
            shard_blocks(self.data.llm, self.device_mesh["data_parallel"])
        if self.device.type != "cpu" or self.trainer.strategy.root_device.type != "cpu":
            self.data.llm.to(self.trainer.strategy.root_device)
        with seeded("cora adapter", self.seed):
            try:
                self.adapter = self.method.adapter(self.data.llm, self.data.sizes)
            except ValueError as error:
                raise ConfigError(f"on model={self.data.model_options['name']}: {error}") from error
        # Where its weights are shared out, all processes run the model together: none reads what another has kept.
        self.frozen = self.data.frozen(self.adapter.first) if self.device_mesh is None else None

    def configure_model(self) -> None:
        """Nothing more: where Lightning shares weights out it asks for this hook."""

    # Training

    def stage_at(self, step: int) -> int:
        """Which stage step ``step`` belongs to; 0 where nothing is trained."""
        for number, (_, last) in enumerate(self.bounds):
            if step < last:
                return number
        return max(len(self.bounds) - 1, 0)

    def prompt_at(self, step: int) -> str:
        """The kind of prompt at a step."""
        stages: tuple[Stage, ...] = self.method.stages
        return stages[self.stage_at(step)].prompt if stages else "text"

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = []
        rates = []
        for stage, (first, last) in zip(self.method.stages, self.bounds):
            named = [(name, one) for name, one in self.adapter.named_parameters() if one.requires_grad]
            own = [one for name, one in named if name.startswith(stage.parts)]
            for parameters, decay in (
                ([p for p in own if p.dim() > 1], self.weight_decay), ([p for p in own if p.dim() < 2], 0.0),
            ):  # fmt: skip
                if parameters:
                    groups.append({"params": parameters, "lr": self.lr * stage.lr, "weight_decay": decay})
                    rates.append((stage, first, last))
        by_id: dict[int, int] = {}
        for group in groups:  # a parameter of two stages stands in the group of the first, at the rates of both
            group["params"] = [p for p in group["params"] if by_id.setdefault(id(p), id(group)) == id(group)]
        kept = [(group, rate) for group, rate in zip(groups, rates) if group["params"]]
        optimizer = torch.optim.AdamW([group for group, _ in kept])
        factors = [self._factor(group["lr"] / self.lr) for group, _ in kept]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _factor(self, own: float) -> Any:
        """The rate at a step as a share of a group's first: each stage warms up and cools down on its own."""
        shapes = [schedule("cosine", last - first, self.warmup, self.end) for first, last in self.bounds]

        def factor(step: int) -> float:
            number = self.stage_at(min(step, self.steps - 1))
            within = step - self.bounds[number][0]
            relative = self.method.stages[number].lr / own
            if self.restarts and within < self.warmup:
                low = WARMUP_START / self.lr
                return relative * (low + (1 - low) * (step % self.iterations) / self.warmup)
            return relative * shapes[number](within)

        return factor

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        stage = self.method.stages[self.stage_at(self.global_step)]
        for name, parameter in self.adapter.named_parameters():
            if name in self._trained:
                parameter.requires_grad_(name.startswith(stage.parts))

    def on_fit_start(self) -> None:
        self._trained = {name for name, one in self.adapter.named_parameters() if one.requires_grad}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        step = self.global_step
        places = self.data.places["train"][self.data.order.batch(step)]
        world = distributed.world_size()
        mine = places[distributed.rank() :: world]
        made = self.data.batch(mine, self.prompt_at(step), self.device, self._states(self.prompt_at(step)))
        self.data.llm.train(getattr(self.method, "given", {}).get("dropout", 0.0) > 0)
        with seeded("cora step", self.seed, step, distributed.rank(), device=self.device):
            loss = F.binary_cross_entropy_with_logits(self.scores(made), made.labels)
        if distributed.total(int(not loss.isfinite()), self.device):
            self.diverged = True
            self.trainer.should_stop = True
            log.warning("WARNING: the loss is not finite at step %d: training ends here; lower lr", step)
            # A step without a loss is skipped; among several processes Lightning has none: one without gradients is.
            return None if world == 1 else torch.zeros((), device=self.device, requires_grad=True)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(mine))
        return loss * (len(mine) * world / len(places))  # the mean over processes is that over rows

    def on_after_backward(self) -> None:
        if self.device_mesh is not None:  # every process has the adapter whole
            for parameter in self.adapter.parameters():
                if parameter.grad is not None:
                    distributed.average(parameter.grad)

    def _states(self, kind: str) -> Frozen | None:
        return self.frozen if kind == "text" else None

    def scores(self, batch: Batch) -> Tensor:
        """Scores of a batch, (B,) in float32."""
        return scores_of(self.data.llm, self.adapter, batch, self.data.answers, self.score)

    # Validation

    def on_validation_epoch_start(self) -> None:
        self._seen = []

    def validation_step(self, places: Tensor, batch_idx: int) -> None:
        self._seen.append(torch.stack([places.double(), self._scored(places)], dim=1))

    def _scored(self, places: Tensor) -> Tensor:
        self.data.llm.eval()
        kind = self.prompt_at(max(self.global_step - 1, 0))
        found = self.scores(self.data.batch(places, kind, self.device, self._states(kind)))
        return found.detach().double().cpu()

    def on_validation_epoch_end(self) -> None:
        seen = torch.cat(distributed.gather_rows(torch.cat(self._seen), self.device))
        # Several processes may have scored a row twice.
        seen = seen[seen[:, 0].argsort(stable=True)]
        seen = seen[torch.cat([torch.ones(1, dtype=torch.bool), seen[1:, 0] != seen[:-1, 0]])]
        places = seen[:, 0].long()
        assert self.data.log is not None
        rows = self.data.rows[places]
        quality = auc(seen[:, 1].nan_to_num(0.0), self.data.log.labels[rows])
        quality = quality if math.isfinite(quality) else 0.5
        number = self.stage_at(max(self.global_step - 1, 0))
        # A state of an earlier stage answers another prompt: it is never the one that is tested.
        self.log("val/selection", quality - (len(self.bounds) - 1 - number), rank_zero_only=False)
        self.log("val/auc", quality, prog_bar=True, rank_zero_only=False)
        if not self.trainer.sanity_checking:
            self.curve.append([float(self.global_step), quality])

    # Test

    @property
    def _rows_path(self) -> Path:
        return rows_path(self.folder, self.global_rank)

    def on_test_start(self) -> None:
        mend(self._rows_path)
        self.done = {row["id"] for row in read_rows(self.folder)}
        if self.done:
            log.info("going on after %d scored rows", len(self.done))

    def test_step(self, places: Tensor, batch_idx: int) -> None:
        assert self.data.log is not None
        rows = self.data.rows[places]
        if self.device_mesh is None and all(str(row) in self.done for row in rows.tolist()):
            return
        if self.method.uses_llm:
            kind = self.data.last_prompt
            self.data.llm.eval()
            scores = self.scores(self.data.batch(places, kind, self.device, self._states(kind))).detach().double().cpu()
        else:
            scores = self.data.alone(rows)
        known = self.data.log
        append(
            self._rows_path,
            [
                {
                    "id": str(row), "user": int(known.users[row]), "item": int(known.items[row]),
                    "label": int(known.labels[row]), "warm": bool(known.warm[row]), "score": score,
                }
                for row, score in zip(rows.tolist(), scores.tolist())
                if str(row) not in self.done
            ],
        )  # fmt: skip

    def on_test_epoch_end(self) -> None:
        """Metrics of all rows, those of other processes and earlier attempts among them."""
        self.trainer.strategy.barrier()
        found = read_rows(self.folder)
        rows = torch.tensor([int(one["id"]) for one in found])
        values = [one["score"] for one in found]
        self.diverged = self.diverged or any(value is None for value in values)
        scores = torch.tensor([0.0 if value is None else value for value in values], dtype=torch.float64)
        assert self.data.log is not None
        metrics = row_metrics(self.data.log, rows, scores) | self._beside(rows)
        if self.method.stages:
            metrics["diverged"] = float(self.diverged)
            metrics |= general_ability(self.data.llm, self.data.tokenizer, self.adapter)
            last = [value for step, value in self.curve if self.stage_at(int(step) - 1) == len(self.bounds) - 1]
            metrics["validation"] = max(last, default=math.nan)
            metrics["parameters"] = float(sum(p.numel() for p in self.adapter.parameters() if p.requires_grad))
        self.log_dict({f"test/{name}": value for name, value in metrics.items()}, rank_zero_only=False)
        if self.trainer.is_global_zero:
            log.info(
                "AUC %.3f (warm %.3f, cold %.3f) of %d rows; bias alone %.3f, logistic regression on the vectors %.3f",
                metrics["auc"], metrics["auc_warm"], metrics["auc_cold"], len(rows), metrics["bias_auc"],
                metrics["lr_auc"],
            )  # fmt: skip
            if self.figures:
                from decathlon.tasks.cora.figures import draw_job

                draw_job(self.folder, found, metrics, self.curve)

    def _beside(self, rows: Tensor) -> dict[str, float]:
        """The cheap baselines on the same rows, and the frozen model where its answers are kept."""
        data, known = self.data, self.data.log
        assert known is not None
        frozen = None
        if self.frozen is not None:
            place = {row: number for number, row in enumerate(data.rows.tolist())}
            two = self.frozen.answers[[place[row] for row in rows.tolist()]]
            frozen = two[:, 0] if self.score == "yes" else two[:, 0] - two[:, 1]
        return baselines(known, data.chosen.train, rows, data.models, self.method.collaborative, frozen)

    def export(self, folder: Path) -> None:
        """Keep log, vectors, adapter, and which language model it is of; see ``decathlon.tasks.cora.trained``."""
        keep(folder, self.data, self.adapter)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["cora"] = {"curve": [list(point) for point in self.curve], "diverged": self.diverged}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        state = checkpoint["cora"]
        self.curve, self.diverged = [list(point) for point in state["curve"]], bool(state["diverged"])
