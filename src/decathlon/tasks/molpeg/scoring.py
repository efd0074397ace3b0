"""Scores of the static methods: what models that were fine-tuned on everything say of the training samples."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from decathlon.progress import track
from decathlon.pruning.evidence import Evidence
from decathlon.pruning.sampler import EpochSampler, epoch_generator
from decathlon.pruning.scores import Forgetting, deepfool
from decathlon.storage import cached_state
from decathlon.tasks.molpeg.losses import label_losses
from decathlon.tasks.molpeg.predictor import Predictor


class Scoring:
    """Makes and caches the evidence on one data module.

    All methods and prune ratios of a sweep share it: it depends on the data, the model, its pretraining, the
    training options, the seed and the number of epochs only.

    Args:
        data: the data module, set up.
        model: name and options of the encoder.
        lr, weight_decay: of Adam.
        seed: of the run.
        device: where to train.
    """

    def __init__(
        self,
        data: Any,
        model: Mapping[str, Any],
        lr: float,
        weight_decay: float,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.data, self.model, self.lr, self.weight_decay = data, dict(model), lr, weight_decay
        self.seed, self.device = seed, device
        self.regression = data.task_type == "regression"

    def evidence(
        self, epochs: int = 20, repeats: int = 1, boundary: bool = False, fingerprints: bool = False
    ) -> list[Evidence]:
        """Evidence of ``repeats`` scratch models after ``epochs`` epochs on all samples.

        Args:
            boundary: also compute each sample's distance to the decision boundary.
            fingerprints: add the molecules' Morgan bits, if the data have any, as features to cluster by.
        """
        return [self._evidence(epochs, repeat, boundary, fingerprints) for repeat in range(repeats)]

    def _evidence(self, epochs: int, repeat: int, boundary: bool, fingerprints: bool) -> Evidence:
        key = {
            "data": self.data.identity(), "model": self.model, "lr": self.lr, "weight_decay": self.weight_decay,
            "seed": self.seed, "epochs": epochs, "repeat": repeat, "format": 2,
        }  # fmt: skip
        state = cached_state(
            self.data.root, f"{self.data.dataset_name}-scores", key, lambda: self._train(epochs, repeat)
        )
        weights = state.pop("weights")
        if boundary and not self.regression:
            state.update(
                cached_state(self.data.root, f"{self.data.dataset_name}-boundary", key, lambda: self._boundary(weights))
            )
        return Evidence(**state, features=self.data.fingerprints() if fingerprints else None)

    def _predictor(self, seed: int) -> Predictor:
        data = self.data
        return Predictor(self.model, data.encoder_spec(), data.num_tasks, data.pretrained_state(), seed)

    def _train(self, epochs: int, repeat: int) -> dict[str, Any]:
        seed = self.seed + 2**16 * (repeat + 1)
        model = self._predictor(seed).to(self.device)
        fused = torch.device(self.device).type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        forgetting = Forgetting(self.data.sampler.n)
        with torch.random.fork_rng(), torch.enable_grad(), everything(self.data.sampler) as sampler:
            torch.manual_seed(seed)
            for epoch in track(range(epochs), "training a model to score by"):
                sampler.set_epoch(int(epoch_generator(seed, epoch).initial_seed() % 2**31))
                for batch in self.data.train_dataloader():
                    batch = batch.to(self.device)
                    labels = self._labels(batch)
                    logits = model(batch)
                    total, known = label_losses(logits, labels, self.regression)
                    optimizer.zero_grad()
                    (total.sum() / known.sum().clamp(min=1)).backward()
                    optimizer.step()
                    if not self.regression:
                        correct = (logits.detach() > 0).float() == labels
                        forgetting.update(batch.index.cpu(), correct.cpu(), ~torch.isnan(labels.cpu()))
            state = self._outputs(model)
        weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        counts = {"forgotten": forgetting.events, "learned": forgetting.learned}
        return {**state, **counts, "regression": self.regression, "weights": weights}

    def _outputs(self, model: Predictor) -> dict[str, Any]:
        """Embeddings, logits and labels, by position in the training set; batches come shuffled."""
        train = self._read(model, self.data.train_dataloader())
        places = train.pop("index")
        order = torch.empty_like(places)
        order[places] = torch.arange(len(places))
        val = self._read(model, self.data.val_dataloader())
        val.pop("index")
        return {name: part[order] for name, part in train.items()} | {f"val_{k}": v for k, v in val.items()}

    @torch.no_grad()
    def _read(self, model: Predictor, batches: Any) -> dict[str, Tensor]:
        model.eval()
        parts: dict[str, list[Tensor]] = {"index": [], "embeddings": [], "logits": [], "labels": []}
        for batch in batches:
            batch = batch.to(self.device)
            z = model.encoder(batch)
            for name, value in zip(parts, (batch.index, z, model.head(z), self._labels(batch)), strict=True):
                parts[name].append(value.cpu())
        return {name: torch.cat(values) for name, values in parts.items()}

    def _boundary(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """``boundary``: DeepFool's distance of each training sample, in the encoder's continuous inputs, (n,)."""
        model = self._predictor(self.seed).to(self.device).eval().requires_grad_(False)
        model.load_state_dict(weights)
        encoder: Any = model.encoder
        distance = torch.empty(self.data.sampler.n)
        with torch.enable_grad(), everything(self.data.sampler):
            for batch in track(self.data.train_dataloader(), "measuring distances to the decision boundary"):
                batch = batch.to(self.device)
                inputs = encoder.embed(batch).detach()
                rows = batch.graph if hasattr(batch, "graph") else torch.arange(len(inputs), device=self.device)

                def logits(change: Tensor, batch: Any = batch, inputs: Tensor = inputs) -> Tensor:
                    return model.head(encoder.encode(inputs + change, batch))

                known = ~torch.isnan(batch.y)
                distance[batch.index.cpu()] = deepfool(logits, tuple(inputs.shape), rows, known).cpu()
        return {"boundary": distance}

    def _labels(self, batch: Any) -> Tensor:
        if not self.regression:
            return batch.y
        mean, std = torch.as_tensor(self.data.target_mean), torch.as_tensor(self.data.target_std)
        return (batch.y - mean.to(batch.y)) / std.to(batch.y)


@contextmanager
def everything(sampler: EpochSampler) -> Iterator[EpochSampler]:
    """Let ``sampler`` yield the whole training set to this process, and put it back afterwards."""
    indices, weight, epoch = sampler.indices, sampler.weight, sampler.epoch
    sampler.set_selection()
    sampler.sharded = False
    try:
        yield sampler
    finally:
        sampler.sharded = True
        sampler.set_selection(indices, None if indices is None else weight[indices])
        sampler.set_epoch(epoch)
