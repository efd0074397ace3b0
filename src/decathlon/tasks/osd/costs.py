"""Two questions that need no training: what fits into memory, and what an SVD costs beside a step of online PCA."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from decathlon.errors import ConfigError
from decathlon.randomness import generator
from decathlon.tasks.osd.measures import state_bytes
from decathlon.tasks.osd.models import check_size, meta_model
from decathlon.tasks.osd.pca import gradient_of_projected
from decathlon.tasks.osd.recipes import Recipe
from decathlon.tasks.osd.subspaces import random_subspace

_GB = 1e9
_LEAST_SECONDS = 0.3  # of a measurement


class NoData(LightningDataModule):
    """One empty batch. ``training``: what a training would need."""

    def __init__(self, **training: Any) -> None:
        super().__init__()

    def test_dataloader(self) -> DataLoader:
        one: Any = range(1)
        return DataLoader(one, batch_size=None)


class MemoryAccount(LightningModule):
    """Bytes of weights, gradients and optimizer states of a model, counted on the meta device: no data, no training.

    The weights and gradients are bfloat16, as in the paper; ``moments`` of the method says what the moments are, and P
    and its own optimizer's state are float32. Metrics, in GB of 10^9 bytes: ``weights_gb``, ``gradients_gb``,
    ``largest_gradient_gb`` (all that is alive at a time with updates inside the backward pass), ``state_gb``, and
    ``weights_and_state_gb``, which GaLore's paper reports.

    Args:
        method, size, lr, scale, rank, match: as for ``LanguageModelling``. training: what only a training needs.
    """

    def __init__(
        self, method: Mapping[str, Any], size: str = "60m", lr: float = 0.01, scale: float = 0.25, rank: int = 128,
        match: str | None = None, seed: int = 0, **training: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.recipe, self.seed = check_size(str(size)), Recipe(method, lr, scale, rank, match), int(seed)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        model = meta_model(self.size, torch.bfloat16)
        optimizer = self.recipe.optimizer(model, self.recipe.install(model, self.seed))
        optimizer.allocate()
        trained = [p for p in model.parameters() if p.requires_grad]
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        state = state_bytes(optimizer)
        found = {
            "weights_gb": weights, "gradients_gb": sum(p.numel() * p.element_size() for p in trained),
            "largest_gradient_gb": max(p.numel() * p.element_size() for p in trained), "state_gb": state,
            "weights_and_state_gb": weights + state,
        }  # fmt: skip
        self.log_dict({f"test/{name}": number / _GB for name, number in found.items()}, batch_size=1)


class SvdAgainstPca(LightningModule):
    """Time of one SVD of a gradient over that of one gradient of the online PCA loss, in closed form.

    The closed form is timed with the product P' G that projects the gradient, which the optimizer needs anyway.

    Args:
        matrix: shape, for example ``512x1376``. rank: k. training: what only a training needs.
    """

    def __init__(self, matrix: str = "512x1376", rank: int = 128, seed: int = 0, **training: Any) -> None:
        super().__init__()
        try:
            rows, columns = (int(part) for part in str(matrix).split("x"))
        except ValueError:
            raise ConfigError(f"matrix={matrix} is no shape: for example 512x1376") from None
        if not 1 <= rank <= min(rows, columns):
            raise ConfigError(f"rank={rank} must be from 1 to {min(rows, columns)} for matrix={matrix}")
        self.shape, self.rank, self.seed = (min(rows, columns), max(rows, columns)), int(rank), int(seed)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        gradient = torch.randn(self.shape, generator=generator("timing", self.seed)).to(self.device)
        projection = random_subspace(self.shape[0], self.rank, ("timing", self.seed)).to(gradient)
        norm = float(torch.linalg.vector_norm(gradient))

        def pca() -> Tensor:
            projected = projection.mT @ gradient
            return gradient_of_projected(projection, gradient, projected / norm, norm, 0.1)

        svd_ms = 1e3 * seconds(lambda: torch.linalg.svd(gradient, full_matrices=False), self.device)
        pca_ms = 1e3 * seconds(pca, self.device)
        found = {"svd_time_ms": svd_ms, "pca_time_ms": pca_ms, "time_ratio": svd_ms / pca_ms}
        self.log_dict({f"test/{name}": value for name, value in found.items()}, batch_size=1)


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """The least time of a call, of as many as fill 0.3 s and of three at least, after one that warms up."""

    def once() -> float:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    found: list[float] = []
    while len(found) < 3 or sum(found) < _LEAST_SECONDS:
        found.append(once())
    return min(found)
