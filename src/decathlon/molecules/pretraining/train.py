"""The loop of pretraining: once per configuration, cached, and resumed where it was interrupted."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.errors import DataError
from decathlon.files import atomic, cached
from decathlon.molecules.dataset import FINGERPRINT, FORMAT, MoleculeDataset, cached_features
from decathlon.molecules.encoders import Encoder, Gin, Painn, make_encoder, model_inputs, model_options
from decathlon.molecules.pretraining.denoise import DistanceDenoising
from decathlon.molecules.pretraining.graphcl import GraphCl
from decathlon.molecules.pretraining.graphmae import GraphMae
from decathlon.molecules.pretraining.properties import Properties, standardised
from decathlon.molecules.pretraining.recipes import Recipe
from decathlon.molecules.tables import Table
from decathlon.progress import track
from decathlon.storage import digest, load_state, processed_path

log = logging.getLogger(__name__)
_NO_PARAMETERS = ("dropout",)  # options of a model that leave its parameters alone


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seeded global generator meanwhile, and put the caller's back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def objective(encoder: Encoder, recipe: Recipe, labels: int) -> nn.Module:
    """The loss function, with its own heads, that a recipe trains."""
    if recipe.name == "properties":
        return Properties(encoder, labels, recipe.mask)
    if recipe.name == "denoise":
        assert isinstance(encoder, Painn)
        return DistanceDenoising(encoder, recipe.noise)
    assert isinstance(encoder, Gin)
    if recipe.name == "graphmae":
        return GraphMae(encoder, recipe.mask, recipe.alpha)
    return GraphCl(encoder, recipe.mask, recipe.temperature)


def _bare(model: str | Mapping[str, Any]) -> dict[str, Any]:
    name, options = model_options(model)
    return {"name": name, **{key: value for key, value in options.items() if key not in _NO_PARAMETERS}}


def state_path(root: str | Path, model: str | Mapping[str, Any], recipe: Recipe, source_digest: str) -> Path:
    """Where the encoder that ``recipe`` makes of ``model`` is kept."""
    key = digest(_bare(model), recipe.key(), source_digest, FINGERPRINT, FORMAT, version("rdkit"), 2)
    return processed_path(root, f"pretrained-{key}.pt")


def pretrained(
    root: str | Path,
    model: str | Mapping[str, Any],
    recipe: Recipe,
    source: Callable[[], Table],
    processes: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """State dict of an encoder trained by ``recipe`` on ``source()``; trained once, then read from the cache.

    Raises:
        DataError: the source is missing or has too few molecules.
    """
    table = source()
    path = state_path(root, model, recipe, _table_digest(table))

    def make() -> dict[str, Any]:
        return train(root, model, recipe, table, path.with_name(path.name + ".partial"), processes, device)

    return cached(path, make, torch.save, load_state)


def _table_digest(table: Table) -> str:
    if table.smiles:
        return digest(table.smiles)
    assert table.geometry is not None
    return digest(table.geometry.state())


def train(
    root: str | Path,
    model: str | Mapping[str, Any],
    recipe: Recipe,
    table: Table,
    partial: Path,
    processes: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Pretrain an encoder on ``table``, keeping ``partial`` after each epoch so that a killed run can go on."""
    dataset = _dataset(root, model, recipe, table, processes)
    dropout = {} if model_options(model)[0] == "painn" else {"dropout": recipe.dropout}
    with seeded(recipe.seed):
        encoder = make_encoder({**_bare(model), **dropout}, dataset.spec)
        task = objective(encoder, recipe, dataset.table.y.shape[1]).to(device)
    optimiser = torch.optim.Adam(task.parameters(), recipe.lr)
    first = _resume(partial, task, optimiser)
    for epoch in range(first, recipe.epochs):
        began = time.perf_counter()
        loss = run_epoch(task, optimiser, dataset, recipe, epoch, device)
        seconds = time.perf_counter() - began
        log.info(
            "pretraining %s on %d molecules: epoch %d of %d, loss %.4f, %.0f s",
            recipe.name, len(dataset), epoch + 1, recipe.epochs, loss, seconds,
        )  # fmt: skip
        if epoch + 1 < recipe.epochs and seconds > 1:
            with atomic(partial) as temporary:
                torch.save({"epoch": epoch + 1, "task": task.state_dict(), "adam": optimiser.state_dict()}, temporary)
    partial.unlink(missing_ok=True)
    return {name: value.detach().cpu().clone() for name, value in encoder.state_dict().items()}


def run_epoch(
    task: nn.Module,
    optimiser: torch.optim.Optimizer,
    dataset: MoleculeDataset,
    recipe: Recipe,
    epoch: int,
    device: torch.device | str = "cpu",
) -> float:
    """One pass over the dataset in an order, and with masks, that depend on (seed, epoch) only: the mean loss."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(dataset), generator=generator)
    total = torch.zeros((), device=device)
    task.train()
    with seeded(recipe.seed * 1_000_003 + epoch):
        batches = [rows for rows in order.split(recipe.batch_size) if len(rows) > 1]
        for rows in track(batches, f"pretraining, epoch {epoch + 1} of {recipe.epochs}"):
            loss = task(dataset.batch(rows).to(device), generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach()
    return float(total / len(batches))


def _dataset(
    root: str | Path, model: str | Mapping[str, Any], recipe: Recipe, table: Table, processes: int | None
) -> MoleculeDataset:
    if recipe.name == "properties":
        values = cached_features(root, "descriptors", table.smiles, processes)["values"]
        table = replace(table, y=standardised(values))
    dataset = MoleculeDataset.build(root, table, model_inputs(model), processes)
    if len(dataset) < 2:
        raise DataError(f"pretraining needs at least 2 molecules, the source has {len(dataset)}")
    return dataset


def _resume(partial: Path, task: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    if not partial.exists():
        return 0
    try:
        state = load_state(partial)
        task.load_state_dict(state["task"])
        optimiser.load_state_dict(state["adam"])
        return int(state["epoch"])
    except (DataError, KeyError, RuntimeError, ValueError) as error:
        log.warning("%s is ignored: %s", partial, str(error).splitlines()[0])
        return 0
