"""Encoders: from a batch of molecules to one vector per molecule."""

from collections.abc import Mapping
from typing import Any

from decathlon.build import check_options
from decathlon.errors import ConfigError
from decathlon.molecules.encoders.base import Encoder
from decathlon.molecules.encoders.fingerprint import FingerprintMlp
from decathlon.molecules.encoders.gin import Gin
from decathlon.molecules.encoders.painn import Painn

MODELS: dict[str, tuple[type[Encoder], dict[str, Any]]] = {
    "gin": (Gin, {"layers": 5, "width": 300, "dropout": 0.5}),
    "gin_small": (Gin, {"layers": 3, "width": 64, "dropout": 0.2}),
    "fp_mlp": (FingerprintMlp, {"widths": [128, 128], "dropout": 0.3}),
    "painn": (Painn, {"width": 128, "layers": 3, "basis": 20, "cutoff": 5.0}),
}


def model_options(model: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and full options of ``gin``, or of ``{name: gin, dropout: 0.2}``: what is not given is the model's default.

    Raises:
        ConfigError: no such model.
    """
    given = {"name": model} if isinstance(model, str) else dict(model)
    name = given.pop("name", None)
    if name not in MODELS:
        raise ConfigError(f"model={name} is unknown; choose {', '.join(MODELS)}")
    return name, {**MODELS[name][1], **{key: value for key, value in given.items() if value is not None}}


def model_inputs(model: str | Mapping[str, Any]) -> str:
    """What a model reads: ``graph``, ``fingerprint`` or ``geometry``."""
    return MODELS[model_options(model)[0]][0].inputs


def make_encoder(model: str | Mapping[str, Any], spec: Mapping[str, Any]) -> Encoder:
    """Build an encoder: ``encoder(batch)`` is (B, ``encoder.out_dim``).

    Every encoder also has ``embed(batch)``, its continuous inputs, and ``encode(embedded, batch)``, the rest.

    Args:
        model: a name in ``MODELS``, or a mapping with ``name`` and the options to change.
        spec: what the data offers: ``inputs`` and, for fingerprints, ``bits``.

    Raises:
        ConfigError: no such model or option, or the data is of another kind.
    """
    name, options = model_options(model)
    kind = MODELS[name][0]
    if kind.inputs != spec["inputs"]:
        raise ConfigError(f"model={name} reads {kind.inputs} data, this data module offers {spec['inputs']}")
    measured = {"bits": spec["bits"]} if kind is FingerprintMlp else {}
    check_options(kind, options, f"model={name}", also=measured)
    try:
        return kind(**{**options, **measured})
    except ValueError as error:
        raise ConfigError(f"model={name}: {error}") from error


__all__ = ["MODELS", "Encoder", "FingerprintMlp", "Gin", "Painn", "make_encoder", "model_inputs", "model_options"]
