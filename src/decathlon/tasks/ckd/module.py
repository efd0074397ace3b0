"""A job: one method trains one backbone, or predicts without training, and is ranked over all items."""

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from decathlon import files
from decathlon.build import build
from decathlon.errors import ConfigError
from decathlon.randomness import seeded
from decathlon.tasks.ckd.backbones.base import Backbone, Graph, Vectors, make_backbone
from decathlon.tasks.ckd.data import MultimodalData
from decathlon.tasks.ckd.methods.balance import ModalityRates
from decathlon.tasks.ckd.methods.base import Method, Untrained
from decathlon.tasks.ckd.teachers import make_teachers
from decathlon.tasks.ckd.trained import keep
from decathlon.tasks.ckd.training import KS, SELECTION, Patience, Settings, Teachers, Training, measure, views_of

log = logging.getLogger(__name__)

RUNNER_KEYS = ("trains", "backbone")


class MultimodalRecommender(LightningModule):
    """Trains a method and ranks all items.

    A training step is an epoch; a Lightning epoch is ``evaluate_every`` of them and ends with a validation. The
    training ends after ``patience`` validations without improvement of Recall@20, and the best state is tested.

    Test metrics, over users with test items: ``test/recall@20``, ``precision``, ``ndcg`` (standard),
    ``ndcg_official`` and ``hit``, at 10 and 20, and the same of each modality alone, ``test/recall@20/<modality>``;
    ``test/weakest@20``: the lowest of these Recalls. ``test/validation``: Recall@20 on the validation part, of the
    state that is tested. ``test/epochs``: trained until then. ``test/seconds_per_epoch``. For CKD
    ``train/weight/<modality>`` and ``train/clamped``, means over the last epoch. The job's folder gets ``curve.json``
    and ``curve.png``: validation Recall@20 over the epochs.

    Args:
        root: data folder, for cached teachers.
        method: config of the method; its ``backbone`` replaces the job's.
        backbone: a name, or a mapping of ``name`` and options. dim: width of each part. options: more options.
        settings: see :class:`Settings`. teachers: settings of the teachers that differ: ``lr``, ``reg``.
        seed: of weights, batches and teachers.
        figures: draw Recall of all modalities and of each alone over the epochs.
    """

    def __init__(
        self, root: str | Path, method: Mapping[str, Any], backbone: str | Mapping[str, Any] = "vbpr", dim: int = 64,
        options: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None,
        teachers: Mapping[str, Any] | None = None, seed: int = 0, figures: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.automatic_optimization = False
        self.root, self.seed, self.figures = Path(root), int(seed), bool(figures)
        self.label = str(method.get("name"))
        self.settings = Settings(**(settings or {}))
        changed = {key: value for key, value in (teachers or {}).items() if value is not None}
        self.teacher_settings = replace(self.settings, **changed)
        self.spec = backbone
        self.options = {"dim": int(dim), **(options or {})}
        self.method: Method = build(
            {key: value for key, value in method.items() if key not in RUNNER_KEYS}, called="method"
        )
        self._check_backbone()
        self.backbone: Backbone | None = None
        self.training_: Training | None = None
        self.teachers: Teachers = {}
        self.patience = Patience(self.settings.patience)
        self.steps, self.epochs, self.seconds, self.best_epoch = 0, 0, 0.0, 0
        self.curve: list[dict[str, float]] = []

    def _check_backbone(self) -> None:
        """A wrong name or option ends here, before anything is written: a tiny one is built."""
        graph = Graph(torch.tensor([0, 1]), torch.tensor([0, 1]), 2, 3)
        # What names modalities fits real data only.
        options = {key: value for key, value in self.options.items() if not isinstance(value, Mapping)}
        spec = self.spec
        if isinstance(spec, Mapping):
            spec = {key: value for key, value in spec.items() if not isinstance(value, Mapping)}
        tiny = make_backbone(spec, graph, {"a": torch.eye(3), "b": torch.ones(3, 2)}, **options)
        if self.method.least and not tiny.modalities:
            name = spec if isinstance(spec, str) else spec.get("name")
            raise ConfigError(
                f"method={self.label} needs modalities, and backbone={name} has none; choose vbpr, mmgcn, …"
            )

    # Building

    @property
    def data(self) -> MultimodalData:
        """The job's data."""
        found = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(found, MultimodalData)
        return found

    def setup(self, stage: str) -> None:
        """Build the model, and make or load the teachers."""
        if self.trainer.world_size > 1:
            raise ConfigError(
                "task=ckd runs in one process; sweep over jobs in parallel instead (hydra/launcher=joblib)"
            )
        if self.backbone is not None:
            return
        data, device = self.data, self.trainer.strategy.root_device
        with seeded("ckd", self.seed):
            self.backbone = make_backbone(self.spec, Graph.of(data.train, self.seed), data.features, **self.options)
        self._check_modalities(self.backbone)
        if self.method.teachers is not None:
            self.teachers = self._taught(self.method.teachers, self.teacher_settings, device)[0]
        if isinstance(self.method, ModalityRates) and stage == "fit":
            self._choose_rates(self.method, device)
        if isinstance(self.method, Untrained):
            return
        self.training_ = Training(
            self.backbone, self.method, data.train, data.val, self.settings, self.seed, self.teachers
        )
        if self.training_.sampler.saturated:
            log.info("%d users have no negative item and are not drawn", self.training_.sampler.saturated)

    def _check_modalities(self, backbone: Backbone) -> None:
        count = len(self.data.features)
        if count < self.method.least:
            names = ", ".join(self.data.features) or "none"
            raise ConfigError(
                f"method={self.label} needs {self.method.least} modalities or more; "
                f"dataset={self.data.label} has {names}"
            )
        if self.method.least and count == 1:
            log.warning("there is one modality: its own prediction is the joint one, and weights are all 1")
        self.method.keep(backbone)

    def _taught(self, kind: str, settings: Settings, device: torch.device) -> tuple[Teachers, dict[str, float]]:
        data = self.data
        return make_teachers(
            kind, self.root, self.spec, self.options, data.train, data.val, data.features, settings, self.seed, device
        )

    def _choose_rates(self, method: ModalityRates, device: torch.device) -> None:
        """The factor by which each modality's model alone does best on validation."""
        found: dict[str, dict[float, float]] = {}
        for factor in method.factors:
            changed = replace(self.teacher_settings, lr=self.teacher_settings.lr * factor)
            for name, recall in self._taught("uni", changed, device)[1].items():
                found.setdefault(name, {})[factor] = recall
        method.chosen = {name: max(values, key=values.__getitem__) for name, values in found.items()}
        log.info("learning rates: %s", ", ".join(f"{name} x {value:g}" for name, value in method.chosen.items()))

    def configure_optimizers(self) -> Any:
        return self.training_.optimizer() if self.training_ is not None else None

    # Training

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One epoch."""
        training = self.training_
        assert training is not None
        if self.ended:
            return
        optimizer: Any = self.optimizers()
        sums: dict[str, torch.Tensor] = {}
        start = time.perf_counter()
        for _ in range(training.steps_per_epoch):
            for name, value in training.step(self.steps, optimizer, self.manual_backward).items():
                sums[name] = sums.get(name, 0.0) + value.detach()
            self.steps += 1
        self.epochs += 1
        self.seconds += time.perf_counter() - start
        for name, value in sums.items():
            self.log(f"train/{name}", float(value) / training.steps_per_epoch, prog_bar=name == "loss", batch_size=1)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert self.backbone is not None
        if not self.curve or self.curve[-1]["epoch"] < self.epochs:  # else killed after the last one: it is done
            found = self._rank(dict(views_of(self.backbone, self.method)), test=False)
            point = {name: found[name] for name in found if name.startswith(SELECTION)}
            self.curve.append({"epoch": float(self.epochs), **point})
            if self.patience.see(point[SELECTION]):
                self.best_epoch = self.epochs
        for name, value in self.curve[-1].items():
            if name != "epoch":
                self.log(f"val/{name}", value, batch_size=1, prog_bar=name == SELECTION)
        if self.ended:
            self.trainer.should_stop = True

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or validation has not improved for long."""
        return self.epochs >= self.settings.epochs or self.patience.ended

    def on_train_end(self) -> None:
        """Leave the curve in the job's folder."""
        if self.curve and self.trainer.is_global_zero:
            files.write_text(self.folder / "curve.json", json.dumps(self.curve) + "\n")
            if self.figures:
                from decathlon.tasks.ckd.figures import draw_curve  # matplotlib is slow to import

                draw_curve(self.folder / "curve.png", {self.label: self.curve}, self.data.label)

    def _rank(self, views: Mapping[str, Vectors], test: bool) -> dict[str, float]:
        """Metrics of every view, by ``<metric>`` and ``<metric>/<modality>``."""
        found: dict[str, float] = {}
        data = self.data
        for name, vectors in views.items():
            metrics = measure(vectors, data.train, data.test if test else data.val)
            found |= {f"{metric}{name}": value for metric, value in metrics.items()}
        return found

    # Testing

    def test_step(self, batch: Any, batch_idx: int) -> None:
        if isinstance(self.method, Untrained):
            views = self.method.views(self.data.train, self.teachers)
        else:
            assert self.backbone is not None
            views = dict(views_of(self.backbone, self.method))
        self._tested = views[""]
        found = self._rank(views, test=True)
        own = [value for name, value in found.items() if name.startswith(f"{SELECTION}/")]
        if own:
            found[f"weakest@{max(KS)}"] = min(own)
        found["validation"] = self._rank({"": views[""]}, test=False)[SELECTION]
        if not math.isfinite(found[SELECTION]):
            log.warning("the training diverged: its vectors are not finite; lower lr=%g", self.settings.lr)
            found["diverged"] = 1.0
        if self.epochs:
            found["epochs"] = float(self.best_epoch)
            found["seconds_per_epoch"] = self.seconds / self.epochs
        self.log_dict({f"test/{name}": value for name, value in found.items()}, batch_size=1)

    def export(self, folder: Path) -> None:
        """Keep the tested vectors and whose they are; see ``decathlon.tasks.ckd.trained``."""
        keep(folder, self._tested, self.data)

    @property
    def folder(self) -> Path:
        """The job's folder."""
        return Path(self.trainer.default_root_dir)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ckd"] = {
            "steps": self.steps, "epochs": self.epochs, "seconds": self.seconds, "best_epoch": self.best_epoch,
            "best": self.patience.best, "count": self.patience.count, "curve": [dict(point) for point in self.curve],
            "method": self.method.state_dict(),
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["ckd"]
        if not self.trainer.testing:
            self.steps = int(state["steps"])
            self.patience.best, self.patience.count = float(state["best"]), int(state["count"])
        self.epochs, self.seconds, self.best_epoch = (
            int(state["epochs"]),
            float(state["seconds"]),
            int(state["best_epoch"]),
        )
        self.curve = [dict(point) for point in state["curve"]]
        self.method.load_state_dict(state["method"])
