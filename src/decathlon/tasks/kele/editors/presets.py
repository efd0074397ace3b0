"""Settings per model: what the papers' code uses for theirs, what was measured for the small ones.

``rome`` settings hold for KELE and EMMET too, ``memit`` settings for PMET and AlphaEdit, unless they say otherwise.
Sources: ROME's, MEMIT's, PMET's and AlphaEdit's published hyperparameters; entries marked (unverified) are from memory
or by analogy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_PAPER_CONTEXTS = ((5, 10), (10, 10))
_MEMIT_CONTEXTS = ((10, 5),)
_WORLD_CONTEXTS = ("because", "i think that", "therefore", "he said that")

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "gpt2-xl": {
        "rome": {"layer": 17, "lr": 0.5, "steps": 20, "clamp": 4.0, "omega": 0.5, "beta": 0.0625},
        "memit": {"layer": (13, 14, 15, 16, 17), "lr": 0.5, "steps": 20, "clamp": 0.75, "weight": 20_000.0},
        "pmet": {"weight": 20_000.0},
        "ft": {"layer": 1},
        "ft_l": {"layer": 0, "epsilon": 5e-4},
    },
    "gpt-j-6b": {
        "rome": {"layer": 5, "lr": 0.5, "steps": 20, "clamp": 4.0, "omega": 0.5, "beta": 0.0625},
        "memit": {"layer": (3, 4, 5, 6, 7, 8), "lr": 0.5, "steps": 25, "clamp": 0.75, "weight": 15_000.0},
        "pmet": {"lr": 0.2, "steps": 30, "weight": 6_000.0, "beta": 1.0},
        "ft": {"layer": 21},
        "ft_l": {"layer": 0, "epsilon": 5e-5},
    },
    "llama-2-7b": {
        "rome": {"layer": 5, "lr": 0.5, "steps": 25, "clamp": 4.0, "omega": 1e-3, "beta": 0.0625},
        "memit": {"layer": (4, 5, 6, 7, 8), "lr": 0.1, "steps": 25, "clamp": 0.75, "weight": 15_000.0},  # (unverified)
        "ft": {"layer": 21},  # (unverified)
        "ft_l": {"layer": 0, "epsilon": 5e-4},  # (unverified)
    },
    "smollm2-135m": {
        # 40 steps: with 20 KELE stops before it has converged, and editors are compared at convergence.
        "rome": {"layer": 5, "lr": 0.5, "steps": 40, "clamp": 4.0, "contexts": ((5, 3), (10, 2)), "ridge": 1e-3},
        "memit": {"layer": (3, 4, 5, 6, 7), "contexts": ((10, 5),), "ridge": 1e-3, "weight": 1_000.0},
        "ft": {"layer": 5},
        "ft_l": {"layer": 5, "epsilon": 2e-3},
    },
    "world": {
        "rome": {
            "layer": 0, "lr": 0.1, "steps": 120, "stop": 0.15, "clamp": 20.0, "beta": 0.0, "omega": 0.0, "ridge": 1e-4,
            "contexts": _WORLD_CONTEXTS,
        },
        "kele": {"alpha": 0.1},
        # With MEMIT's clamp of 0.75 and layers 0 to 2 the clamp keeps half of the edits from succeeding.
        "memit": {
            "layer": (0, 1), "lr": 0.1, "steps": 120, "stop": 0.15, "clamp": 1.5, "beta": 0.0, "omega": 0.0,
            "ridge": 1e-4, "weight": 0.05, "contexts": _WORLD_CONTEXTS,
        },
        "pmet": {"clamp": 20.0},  # relative to the MLP's output, which is smaller than the stream
        "alphaedit": {"threshold": 1e-2, "penalty": 1e-3},
        "ft": {"layer": 0, "lr": 5e-4, "steps": 25},
        "ft_l": {"layer": 0, "lr": 5e-4, "steps": 25, "epsilon": 2e-3},
    },
}  # fmt: skip

_GENERAL: dict[str, dict[str, Any]] = {
    "rome": {"contexts": _PAPER_CONTEXTS},
    "memit": {"contexts": _MEMIT_CONTEXTS},
}

# (model type, layers, width)
_SHAPES = {
    ("gpt2", 48, 1600): "gpt2-xl",
    ("gptj", 28, 4096): "gpt-j-6b",
    ("llama", 32, 4096): "llama-2-7b",
    ("llama", 30, 576): "smollm2-135m",
    ("gpt2", 5, 64): "world",
}


def preset_of(model: Any) -> str | None:
    """The preset made for a model of this shape, or None."""
    config = model.config
    return _SHAPES.get((config.model_type, config.num_hidden_layers, config.hidden_size))


def settings(model: Any, preset: str | None, chain: Sequence[str]) -> Mapping[str, Any]:
    """The preset's settings for an editor: those of ``chain`` merged, later names win.

    Args:
        preset: a name, ``auto`` (by the model's shape) or None (no preset).

    Raises:
        ValueError: for an unknown preset.
    """
    if preset not in (None, "auto", *PRESETS):
        raise ValueError(f"preset={preset} is unknown; choose auto, {', '.join(PRESETS)}")
    name = preset_of(model) if preset == "auto" else preset
    merged: dict[str, Any] = {}
    for table in (_GENERAL, PRESETS.get(name or "", {})):
        for link in chain:
            merged |= table.get(link, {})
    merged.setdefault("layer", _default_layer(model, chain[0] if chain else ""))
    return merged


def _default_layer(model: Any, editor: str) -> int | tuple[int, ...]:
    """About a sixth of the way up, as in GPT-J, LLaMA and SmolLM2; MEMIT: up to five layers that end there."""
    layer = max(0, round(model.config.num_hidden_layers / 6))
    return tuple(range(max(0, layer - 4), layer + 1)) if editor == "memit" else layer
