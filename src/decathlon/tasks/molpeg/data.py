"""The molecules of MolPeg's experiments: a target dataset, its split, and an encoder pretrained on a source set."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from decathlon.build import build
from decathlon.errors import ConfigError, DataError
from decathlon.graphs.batches import Batch
from decathlon.graphs.loader import BatchLoader
from decathlon.molecules.dataset import MoleculeDataset, cached_features
from decathlon.molecules.encoders import make_encoder, model_inputs, model_options
from decathlon.molecules.packing import PackedFingerprints
from decathlon.molecules.pretraining import Recipe, load_weights, parse_recipe, pretrained, source_table
from decathlon.molecules.splits import Split, random_split, scaffold_split
from decathlon.molecules.tables import Table
from decathlon.pruning import EpochSampler
from decathlon.storage import digest, processed_path

log = logging.getLogger(__name__)

SPLITS = ("random", "scaffold")
EVALUATION_BATCH = 1024


class MoleculeData(pl.LightningDataModule):
    """Molecules with labels, batched for one kind of encoder.

    ``prepare_data`` reads the table, featurises it and pretrains the encoder, each once: the results are cached beside
    the raw data, or in the user's cache if that folder is read-only. ``setup`` reads them. Batches carry ``index``,
    positions 0..n-1 in the training set (in the validation and test part: in that part), and ``y`` (B, T) float32,
    NaN where a label is unknown, in the units of the data.

    Args:
        root: data folder.
        dataset: ``source`` (the class of a table and its arguments), and optionally ``name``, ``split``, ``split_seed``
            and ``split_sizes``, which the arguments of those names override.
        model: name of the encoder, or a mapping of ``name`` and options; decides what is featurised.
        pretrain: ``none``, ``default``, ``properties``, ``graphmae``, ``graphcl``, ``denoise``, a checkpoint,
            or a mapping of ``name`` and options (``decathlon.molecules.pretraining.Recipe``).
        batch_size: of a training step; several processes share each batch.
        seed: of the order of training.
        split: ``random`` or ``scaffold``. split_seed: of the random split.
        max_molecules: use at most so many molecules of the target, and of the pretraining source.
        processes: worker processes for featurisation; by default one per core for large datasets.

    Attributes:
        sampler: what training reads through; a pruner sets its selection.
        train_size: number of training molecules.
        num_tasks: number of labels T. tasks: their names. task_type: ``classification`` or ``regression``. unit: of
            the labels.
        target_mean, target_std: (T,) over the training set, for regression.
        report: what became of the rows of the table.
    """

    sampler: EpochSampler
    split_: Split
    parts: dict[str, MoleculeDataset]

    def __init__(
        self,
        root: str | Path,
        dataset: Mapping[str, Any],
        model: str | Mapping[str, Any] = "fp_mlp",
        pretrain: str | Mapping[str, Any] | None = None,
        batch_size: int = 256,
        seed: int = 0,
        split: str | None = None,
        split_seed: int | None = None,
        max_molecules: int | None = None,
        processes: int | None = None,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.dataset = dict(dataset)
        self.dataset_name = str(self.dataset.get("name", "molecules"))
        if not isinstance(self.dataset.get("source"), Mapping):
            raise ConfigError(f"dataset={self.dataset_name} has no source")
        self.model, self.inputs = model, model_inputs(model)
        self.recipe: Recipe | None = parse_recipe(pretrain, model)
        if self.recipe is not None and self.recipe.name == "checkpoint" and not Path(self.recipe.path).is_file():
            raise DataError(f"pretrain={self.recipe.path}: there is no such file")
        self.split = split or str(self.dataset.get("split", "random"))
        if self.split not in SPLITS:
            raise ConfigError(f"split={self.split} is unknown; choose {' or '.join(SPLITS)}")
        if self.split == "scaffold" and self.inputs == "geometry":
            raise ConfigError("split=scaffold needs SMILES, this dataset's molecules are geometries; use split=random")
        self.split_seed = int(self.dataset.get("split_seed", 42) if split_seed is None else split_seed)
        if isinstance(batch_size, bool) or int(batch_size) != batch_size or batch_size < 2:
            raise ConfigError(f"batch_size={batch_size} is out of range; give a whole number of at least 2")
        if max_molecules is not None and max_molecules < 20:
            raise ConfigError(f"max_molecules={max_molecules} is too few to split; give at least 20")
        self.batch_size, self.seed = int(batch_size), int(seed)
        self.max_molecules, self.processes = max_molecules, processes
        self.source = build(self.dataset["source"])
        self.parts = {}
        self._weights: dict[str, Tensor] | None = None

    # Preparing and reading

    def prepare_data(self) -> None:
        """Fetch, featurise and pretrain what is not cached yet."""
        if self.parts and (self.recipe is None or self._weights is not None):
            return
        self.setup("fit")
        log.info("%s: %s", self.dataset_name, describe(self.report))
        self.pretrained_state()

    def fetch_data(self) -> list[Path]:
        """Fetch, check and featurise the target, and fetch and check what pretraining reads; nothing is trained.

        Returns:
            The folders of what is there now: that of the raw file, if the dataset has one, and that of the features.
        """
        self.setup("fit")
        log.info("%s: %s", self.dataset_name, describe(self.report))
        if self.recipe is not None and self.recipe.name != "checkpoint":
            self._pretraining_table(self.recipe)
        elif self.recipe is not None:
            self.pretrained_state()
        raw = [self.source.fetch(self.root).parent] if hasattr(self.source, "fetch") else []
        return [*raw, self.cache_dir.parent]

    def setup(self, stage: str | None = None) -> None:
        """Read the dataset and split it. All parts are read, whatever ``stage`` is."""
        if self.parts:
            return
        table = self.source.table(self.root, self.max_molecules)
        whole = MoleculeDataset.build(self.root, table, self.inputs, self.processes)
        self.split_ = self._split(whole)
        for name, rows in self.split_._asdict().items():
            if len(rows) < 2:
                raise DataError(
                    f"{self.dataset_name}: {len(whole)} molecules are too few, the {name} part has {len(rows)}"
                )
        parts = {name: whole.select(rows) for name, rows in self.split_._asdict().items()}
        if table.task_type == "classification":
            self._check_labels(parts)
        self.parts, self.report = parts, whole.table.report
        self.tasks, self.task_type, self.unit = table.tasks, table.task_type, table.unit
        self.num_tasks = len(self.tasks)
        self.train_size = len(self.split_.train)
        self.sampler = EpochSampler(self.train_size, self.seed)
        y = self.parts["train"].table.y
        self.target_mean = y.nanmean(0)
        self.target_std = (y - self.target_mean).square().nanmean(0).sqrt().clamp(min=1e-6)

    def _check_labels(self, parts: Mapping[str, MoleculeDataset]) -> None:
        """Say of which part nothing can be learned or measured; a sliver of the data may be so, but not all of it.

        Raises:
            DataError: a part has no task with labels of both classes.
        """
        for name, part in parts.items():
            y = part.table.y
            if bool(((y == 1).any(0) & (y == 0).any(0)).any()):
                continue
            classes = sorted({int(label) for label in y[~y.isnan()].unique().tolist()})
            what = f"all known labels are {classes[0]}" if len(classes) == 1 else "no task has labels of both classes"
            fault = f"{self.dataset_name}: in the {len(part)} molecules of the {name} part {what}"
            if self.max_molecules is None:
                raise DataError(f"{fault}; nothing can be learned or measured on it, another split_seed may help")
            log.warning("%s (max_molecules=%d); its metrics are undefined", fault, self.max_molecules)

    def _split(self, whole: MoleculeDataset) -> Split:
        if whole.table.parts:  # the file's own
            named = whole.table.parts
            return Split(*(torch.tensor([i for i, p in enumerate(named) if p == name]) for name in Split._fields))
        if self.split == "scaffold":
            state = cached_features(self.root, "scaffolds", whole.table.smiles, self.processes)
            return scaffold_split(state["scaffolds"])
        sizes = self.dataset.get("split_sizes")
        published = getattr(self.source, "rows", None) or whole.table.report.get("rows")
        return random_split(len(whole), self.split_seed, sizes, published)

    # What the module asks for

    def encoder_spec(self) -> dict[str, Any]:
        """What ``decathlon.molecules.encoders.make_encoder`` has to know of the data."""
        return self.parts["train"].spec

    def pretrained_state(self) -> dict[str, Tensor] | None:
        """State dict of the pretrained encoder, made at the first call and cached on disk; None for pretrain=none.

        Raises:
            DataError: the pretraining source or the checkpoint is missing, broken, or of another encoder.
        """
        if self.recipe is None:
            return None
        if self._weights is None:
            self._weights = self._pretrain(self.recipe)
        return self._weights

    def _pretrain(self, recipe: Recipe) -> dict[str, Tensor]:
        if recipe.name == "checkpoint":
            with torch.random.fork_rng():
                return load_weights(recipe.path, make_encoder(self.model, self.encoder_spec()))
        source = partial(self._pretraining_table, recipe)
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer is not None else torch.device("cpu")
        return pretrained(self.root, self.model, recipe, source, self.processes, device)

    def _pretraining_table(self, recipe: Recipe) -> Table:
        limits = [limit for limit in (recipe.max_molecules, self.max_molecules) if limit is not None]
        limit = min(limits) if limits else None
        train = self.parts["train"].table
        return source_table(self.root, recipe.source, self.source, train, limit, self.max_molecules)

    def fingerprints(self) -> Tensor | None:
        """Morgan bits of the training molecules, (n, 1024) uint8; None where the data have no SMILES."""
        smiles = self.parts["train"].table.smiles
        if not smiles:
            return None
        packed = self.parts["train"].packed
        if not isinstance(packed, PackedFingerprints):
            packed = PackedFingerprints.from_state(cached_features(self.root, "fingerprint", smiles, self.processes))
        return torch.cat([packed.dense(rows).byte() for rows in torch.arange(self.train_size).split(10_000)])

    def identity(self) -> dict[str, Any]:
        """What determines the data, their features and the pretrained encoder, by content, as plain values."""
        return {
            "dataset": self.dataset_name,
            "source": self.dataset["source"],
            "parts": {name: part.content() for name, part in self.parts.items()},
            "order": self.seed,
            "inputs": self.inputs,
            "batch_size": self.batch_size,
            "pretrain": self._pretrain_identity(),
            "model": list(model_options(self.model)),
        }

    def _pretrain_identity(self) -> dict[str, Any] | None:
        if self.recipe is None:
            return None
        # The name of a source or of a checkpoint does not say what is in it; the weights do.
        return {**self.recipe.key(), "weights": digest(self.pretrained_state() or {})}

    @property
    def cache_dir(self) -> Path:
        """A folder for what is computed from this dataset: beside the raw data, or in the user's cache."""
        return processed_path(self.root, self.dataset_name)

    # Loaders

    def train_dataloader(self) -> BatchLoader:
        """Batches of what ``sampler`` selects; a last batch of one molecule joins the one before it.

        ``batch_size`` is that of all processes together: each reads its part of every batch.
        """
        return BatchLoader(
            self.parts["train"].batch,
            order=lambda: self.sampler.batches(self.batch_size),
            length=lambda: self.sampler.number_of_batches(self.batch_size),
            sampler=self.sampler,
            batch_size=self.batch_size,
        )

    def val_dataloader(self) -> BatchLoader:
        """The validation part in order, in large batches."""
        return self._in_order("val")

    def test_dataloader(self) -> BatchLoader:
        """The test part in order, in large batches."""
        return self._in_order("test")

    def predict_dataloader(self) -> BatchLoader:
        """The test part in order."""
        return self._in_order("test")

    def _in_order(self, name: str) -> BatchLoader:
        part = self.parts[name]
        batches = list(torch.arange(len(part)).split(self._evaluation_batch))
        return BatchLoader(part.batch, lambda: batches, lambda: len(batches), batch_size=self._evaluation_batch)

    @property
    def _evaluation_batch(self) -> int:
        return EVALUATION_BATCH if self.inputs == "fingerprint" else max(self.batch_size, 256)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The batch on ``device``."""
        return batch.to(device)


def describe(report: Mapping[str, int]) -> str:
    """A table's report in words: 41,127 rows; 7 without valence check."""
    parts = [f"{count:,} {part.replace('_', ' ')}" for part, count in report.items() if count or part == "rows"]
    return "; ".join(parts)
