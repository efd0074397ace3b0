"""Where the parts of a decoder block are: module names of the GPT-2, GPT-J and LLaMA families."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Module names of one family, relative to the causal language model. ``{}`` is the layer.

    attributes:
        block: a decoder block. norm: the norm after the last block.
        attention, mlp: the two branches of a block. down: the MLP's last matrix, whose input is the MLP's key and
            whose output its value. mlp_norm: the norm before the MLP.
        parallel: attention and MLP read the same input and are added (GPT-J), instead of one after the other.
    """

    block: str
    norm: str
    attention: str
    mlp: str
    down: str
    mlp_norm: str
    parallel: bool = False

    def names(self, kind: str, layers: list[int]) -> list[str]:
        """Names of ``kind`` (``block``, ``attention``, ``mlp``, ``down``) in each of ``layers``."""
        return [getattr(self, kind).format(layer) for layer in layers]


_GPT2 = Layout(
    block="transformer.h.{}",
    norm="transformer.ln_f",
    attention="transformer.h.{}.attn",
    mlp="transformer.h.{}.mlp",
    down="transformer.h.{}.mlp.c_proj",
    mlp_norm="transformer.h.{}.ln_2",
)
_GPTJ = Layout(
    block="transformer.h.{}",
    norm="transformer.ln_f",
    attention="transformer.h.{}.attn",
    mlp="transformer.h.{}.mlp",
    down="transformer.h.{}.mlp.fc_out",
    mlp_norm="transformer.h.{}.ln_1",
    parallel=True,
)
_LLAMA = Layout(
    block="model.layers.{}",
    norm="model.norm",
    attention="model.layers.{}.self_attn",
    mlp="model.layers.{}.mlp",
    down="model.layers.{}.mlp.down_proj",
    mlp_norm="model.layers.{}.post_attention_layernorm",
)
LAYOUTS = {"gpt2": _GPT2, "gptj": _GPTJ, "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA}


def layout_of(model: Any) -> Layout:
    """The layout of a model's family.

    Raises:
        ValueError: for a family that is not in the table.
    """
    kind = model.config.model_type
    if kind not in LAYOUTS:
        raise ValueError(f"model type {kind!r} is not supported; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[kind]


def layer_count(model: Any) -> int:
    """Number of decoder blocks."""
    return int(model.config.num_hidden_layers)


def check_layer(model: Any, layer: int) -> int:
    """``layer`` if the model has it, else a one-line ValueError."""
    if not 0 <= layer < layer_count(model):
        raise ValueError(f"layer={layer} is outside this model's layers 0 to {layer_count(model) - 1}")
    return layer


def is_transposed(module: torch.nn.Module) -> bool:
    """Whether a linear module keeps its weight as (in, out): GPT-2's ``Conv1D`` does, ``nn.Linear`` has (out, in)."""
    return type(module).__name__ == "Conv1D"


def matrix(module: Any) -> Tensor:
    """The weight of a linear module as an (out, in) view."""
    return module.weight.T if is_transposed(module) else module.weight
