"""Tiny random models, a small vocabulary and a few requests, shared by the tests of the editors."""

from pathlib import Path

import lightning as L
import yaml

from decathlon.language import tiny_model, word_tokenizer
from decathlon.runner.catalog import CONFIGS
from decathlon.tasks.kele import Edit

_FACTS = "Paris France Italy Rome is the capital of a Berlin Germany Spain because therefore we think"
WORDS = [*_FACTS.split(), *["that", "located", "in", "Europe", "Old", "Town", "city", "has", "river", "and", "country"]]
EDITS = [
    Edit("{} is the capital of", "Paris", "France", "Italy"),
    Edit("the capital is {} in", "Old Town", "Germany", "France Italy"),
    Edit("the country that has the city {}", "Rome", "Italy", "Spain"),
    Edit("we think that {} is located in the country", "Berlin", "Germany Europe", "Germany Italy"),
]
CORPUS = [" ".join(WORDS[(i * (s + 1)) % len(WORDS)] for i in range(3 + s % 11)) for s in range(80)]
FAMILIES = ("gpt2", "gptj", "llama")  # transposed weights; parallel branches; a gated MLP and rotary positions
# Small random models have small values: no penalty, so that edits get somewhere.
FAST = {
    "corpus": CORPUS,
    "contexts": ["because", "therefore we think"],
    "lr": 0.1,
    "steps": 12,
    "omega": 0.0,
    "clamp": 50.0,
}


METHODS = sorted(path.stem for path in (CONFIGS / "methods/kele").glob("*.yaml") if path.stem[0] != "_")


def method_of(name: str) -> dict:
    """A method's config with what it inherits, k = 20."""
    own = yaml.safe_load((CONFIGS / f"methods/kele/{name}.yaml").read_text())
    bases = [entry.partition("@")[0].rpartition("/")[2] for entry in own.pop("defaults", [])[:-1]]
    merged = {key: value for base in bases for key, value in method_of(base).items()} | own
    return {key: 20 if value == "${k}" else value for key, value in merged.items()}


def tokenizer():
    return word_tokenizer(WORDS)


def model(family, dtype="float64", **options):
    made = tiny_model(family, len(WORDS) + 2, **options)
    return made.double() if dtype == "float64" else made


def metrics_of(module: L.LightningModule, data: L.LightningDataModule, folder: Path) -> dict[str, float]:
    """What an evaluation on the CPU, with its rows in ``folder``, logs."""
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.test(module, data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
