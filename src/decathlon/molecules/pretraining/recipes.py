"""What ``pretrain=`` may say."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from decathlon.errors import ConfigError
from decathlon.files import sha256
from decathlon.molecules.encoders import model_inputs, model_options

NAMES = ("default", "none", "properties", "graphmae", "graphcl", "denoise")
_READS = {
    "properties": ("fingerprint", "graph"),
    "graphmae": ("graph",),
    "graphcl": ("graph",),
    "denoise": ("geometry",),
}


@dataclass(frozen=True)
class Recipe:
    """How an encoder is pretrained.

    Attributes:
        name: ``properties``, ``graphmae``, ``graphcl``, ``denoise``, or ``checkpoint``.
        source: of the molecules: a name (``decathlon.molecules.pretraining.sources``), or a mapping with the class of
            a source and its arguments. None: the dataset's own unlabelled remainder if it has one, else ``chembl``.
        epochs, lr, batch_size: of Adam. dropout: of the encoder meanwhile.
        mask: share of atoms masked (graphmae, properties on graphs) or of a molecule changed (graphcl).
        alpha: exponent of the scaled cosine error (graphmae). temperature: of NT-Xent (graphcl).
        noise: standard deviations in Ångström (denoise).
        max_molecules: use at most so many molecules of the source.
        seed: of initialisation, order and masks.
        path: of the checkpoint.
    """

    name: str
    source: Any = None
    epochs: int = 3
    lr: float = 1e-3
    batch_size: int = 256
    dropout: float = 0.0
    mask: float = 0.25
    alpha: float = 1.0
    temperature: float = 0.1
    noise: tuple[float, ...] = (0.05, 0.1, 0.3)
    max_molecules: int | None = None
    seed: int = 0
    path: str = ""

    def key(self) -> dict[str, Any]:
        """What identifies the result; a checkpoint is known by its content, wherever it lies."""
        if self.name == "checkpoint":
            return {"name": self.name, "sha256": sha256(self.path)}
        return asdict(self)


_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("properties", "fingerprint"): {"epochs": 8, "dropout": 0.1},
    ("properties", "graph"): {"epochs": 5, "lr": 2e-3},
    ("graphcl", "graph"): {"mask": 0.2},
    ("denoise", "geometry"): {"source": "train", "epochs": 10, "lr": 5e-4, "batch_size": 128},
}


_BY_MODEL = {"gin": "graphmae", "gin_small": "properties", "fp_mlp": "properties", "painn": "none"}


def parse_recipe(pretrain: str | Mapping[str, Any] | None, model: str | Mapping[str, Any]) -> Recipe | None:
    """The recipe of ``pretrain=properties``, ``pretrain=weights.pt`` or ``{name: graphmae, epochs: 100, …}``.

    Args:
        pretrain: a name, the path of a checkpoint, a mapping with ``name`` and the options to change, or None.
        model: the encoder; it decides the defaults. ``default`` is graphmae for gin, properties for gin_small and
            fp_mlp, none for painn.

    Returns:
        None for ``none``.

    Raises:
        ConfigError: an unknown name or option, a bad value, or a recipe for another kind of encoder.
    """
    given: dict[str, Any] = {"name": pretrain} if not isinstance(pretrain, Mapping) else dict(pretrain)
    name = given.pop("name", None)
    inputs = model_inputs(model)
    if name == "default":
        name = _BY_MODEL[model_options(model)[0]]
    if name is None or name == "none":
        return None
    if name not in NAMES:
        if name != "checkpoint" and Path(str(name)).suffix in (".pt", ".pth", ".ckpt", ".safetensors"):
            return Recipe("checkpoint", path=str(name))
        if name == "checkpoint" and given.get("path"):
            return Recipe("checkpoint", path=str(given["path"]))
        raise ConfigError(f"pretrain={name} is unknown; choose {', '.join(NAMES)}, or a .pt or .safetensors file")
    if inputs not in _READS[name]:
        raise ConfigError(f"pretrain={name} is for {' and '.join(_READS[name])} encoders, this one reads {inputs} data")
    unknown = set(given) - set(Recipe.__dataclass_fields__)
    if unknown:
        options = ", ".join(field for field in Recipe.__dataclass_fields__ if field not in ("name", "path"))
        raise ConfigError(f"pretrain.{min(unknown)} is unknown; the options are {options}")
    base = replace(Recipe(name), **_DEFAULTS.get((name, inputs), {}))
    given = {key: value for key, value in given.items() if value is not None}
    if "noise" in given:
        noise = given["noise"]
        given["noise"] = tuple(noise) if isinstance(noise, list | tuple) else (float(noise),)
    recipe = replace(base, **given)
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    for field, good in {
        "epochs": recipe.epochs >= 1,
        "batch_size": recipe.batch_size >= 2,
        "lr": recipe.lr > 0,
        "dropout": 0 <= recipe.dropout < 1,
        "mask": 0 <= recipe.mask < 1,
        "temperature": recipe.temperature > 0,
        "noise": len(recipe.noise) > 0 and min(recipe.noise) > 0,
        "max_molecules": recipe.max_molecules is None or recipe.max_molecules >= 2,
    }.items():
        if not good:
            raise ConfigError(f"pretrain.{field}={getattr(recipe, field)} is out of range")
