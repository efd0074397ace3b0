"""One view of every supported decoder: where its blocks, norms and linear maps are, fused ones included.

Supported: GPT-2, GPT-J, GPT-NeoX (Pythia), LLaMA, Mistral, Qwen2, Qwen3 and Phi-3, as transformers builds them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["q", "k", "v", "o", "gate", "up", "down"]
KINDS: tuple[Kind, ...] = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class Family:
    """Module names of one family, relative to the causal language model. ``{}`` is the layer.

    attributes:
        block: a decoder block. norm: the norm after the last block.
        attention, mlp: the two branches of a block. mlp_norm: the norm before the MLP.
        q, k, v, o: the linear maps of the attention. gate, up, down: those of the MLP; ``gate`` is empty where the MLP
            has none. The input of ``down`` is the MLP's key and its output the MLP's value.
        parallel: attention and MLP read the same input and are added, instead of one after the other.
    """

    block: str
    norm: str
    attention: str
    mlp: str
    mlp_norm: str
    q: str
    k: str
    v: str
    o: str
    gate: str
    up: str
    down: str
    parallel: bool = False


def _llama(fused: bool = False) -> Family:
    """LLaMA's names; ``fused``: Phi-3's, whose q, k, v and whose gate, up are one matrix each."""
    attention, mlp = "model.layers.{}.self_attn", "model.layers.{}.mlp"
    q, k, v = ("qkv_proj",) * 3 if fused else ("q_proj", "k_proj", "v_proj")
    gate, up = ("gate_up_proj",) * 2 if fused else ("gate_proj", "up_proj")
    return Family(
        block="model.layers.{}",
        norm="model.norm",
        attention=attention,
        mlp=mlp,
        mlp_norm="model.layers.{}.post_attention_layernorm",
        q=f"{attention}.{q}",
        k=f"{attention}.{k}",
        v=f"{attention}.{v}",
        o=f"{attention}.o_proj",
        gate=f"{mlp}.{gate}",
        up=f"{mlp}.{up}",
        down=f"{mlp}.down_proj",
    )


FAMILIES = {
    "gpt2": Family(
        block="transformer.h.{}",
        norm="transformer.ln_f",
        attention="transformer.h.{}.attn",
        mlp="transformer.h.{}.mlp",
        mlp_norm="transformer.h.{}.ln_2",
        q="transformer.h.{}.attn.c_attn",
        k="transformer.h.{}.attn.c_attn",
        v="transformer.h.{}.attn.c_attn",
        o="transformer.h.{}.attn.c_proj",
        gate="",
        up="transformer.h.{}.mlp.c_fc",
        down="transformer.h.{}.mlp.c_proj",
    ),
    "gptj": Family(
        block="transformer.h.{}",
        norm="transformer.ln_f",
        attention="transformer.h.{}.attn",
        mlp="transformer.h.{}.mlp",
        mlp_norm="transformer.h.{}.ln_1",
        q="transformer.h.{}.attn.q_proj",
        k="transformer.h.{}.attn.k_proj",
        v="transformer.h.{}.attn.v_proj",
        o="transformer.h.{}.attn.out_proj",
        gate="",
        up="transformer.h.{}.mlp.fc_in",
        down="transformer.h.{}.mlp.fc_out",
        parallel=True,
    ),
    "gpt_neox": Family(
        block="gpt_neox.layers.{}",
        norm="gpt_neox.final_layer_norm",
        attention="gpt_neox.layers.{}.attention",
        mlp="gpt_neox.layers.{}.mlp",
        mlp_norm="gpt_neox.layers.{}.post_attention_layernorm",
        q="gpt_neox.layers.{}.attention.query_key_value",
        k="gpt_neox.layers.{}.attention.query_key_value",
        v="gpt_neox.layers.{}.attention.query_key_value",
        o="gpt_neox.layers.{}.attention.dense",
        gate="",
        up="gpt_neox.layers.{}.mlp.dense_h_to_4h",
        down="gpt_neox.layers.{}.mlp.dense_4h_to_h",
        parallel=True,  # unless config.use_parallel_residual is off
    ),
    "llama": _llama(),
    "mistral": _llama(),
    "qwen2": _llama(),
    "qwen3": _llama(),
    "phi3": _llama(fused=True),
}
# Their norms come after attention and MLP: what is added to the MLP's last matrix is rescaled before it counts.
NORM_AFTER = {"olmo2", "olmo3", "gemma2", "gemma3", "gemma3_text", "gemma3n_text", "glm4", "exaone4"}


def check_family(model: Any) -> str:
    """The model's type if it is one of ``FAMILIES``.

    Raises:
        ValueError: one line; it says why for families whose norms follow the MLP.
    """
    kind = str(model.config.model_type)
    if kind in NORM_AFTER:
        raise ValueError(
            f"model type {kind!r} is not supported: its norms follow attention and MLP, so a change of a matrix does "
            f"not reach the residual stream as it is; choose one of {', '.join(FAMILIES)}"
        )
    if kind not in FAMILIES:
        raise ValueError(f"model type {kind!r} is not supported; choose one of {', '.join(FAMILIES)}")
    return kind


@dataclass(frozen=True)
class Projection:
    """One linear map of a block: a module, or some of the outputs of a fused one.

    attributes:
        name: of the module. inputs, outputs: its widths as this map.
        rows: which outputs of the module are this map's, in order, (outputs,); None: all.
    """

    name: str
    inputs: int
    outputs: int
    rows: Tensor | None

    def of(self, output: Tensor) -> Tensor:
        """This map's part of the module's output, (..., outputs)."""
        return output if self.rows is None else output[..., self.rows.to(output.device)]

    def added(self, output: Tensor, change: Tensor) -> Tensor:
        """The module's output, a new tensor, with ``change`` (..., outputs) added to this map's part of it."""
        if self.rows is None:
            return output + change
        change = change.expand(*output.shape[:-1], self.outputs)
        return output.index_add(-1, self.rows.to(output.device), change)


class Decoder:
    """The parts of one causal language model by their names in ``Family``.

    Raises:
        ValueError: one line, for an unsupported family, or a model that lacks a module of its family (wrapped in
            adapters, say).
    """

    def __init__(self, model: Any) -> None:
        self.model, self.kind = model, check_family(model)
        self.family = FAMILIES[self.kind]
        self.layers = layer_count(model)
        self.parallel = self.family.parallel and getattr(model.config, "use_parallel_residual", True)
        for kind in ("block", "norm", "attention", "mlp", "mlp_norm", *self.kinds):
            self.module(kind, 0)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The linear maps that a block has."""
        return tuple(kind for kind in KINDS if getattr(self.family, kind))

    def name(self, kind: str, layer: int = 0) -> str:
        """Name of a module: ``block``, ``attention``, ``mlp``, ``mlp_norm`` or a ``Kind`` of a layer, or ``norm``."""
        pattern = getattr(self.family, kind, "")
        if not pattern:
            raise ValueError(f"a {self.kind} block has no {kind}; choose {', '.join(self.kinds)}")
        return pattern.format(layer)

    def names(self, kind: str, layers: Sequence[int]) -> list[str]:
        """``name`` in each of ``layers``."""
        return [self.name(kind, layer) for layer in layers]

    def module(self, kind: str, layer: int = 0) -> Any:
        """The module of ``name``."""
        name = self.name(kind, layer)
        try:
            return self.model.get_submodule(name)
        except AttributeError as error:
            raise ValueError(
                f"this {self.kind} model has no module {name}: pass the plain transformers model, without adapters"
            ) from error

    def projection(self, kind: Kind, layer: int) -> Projection:
        """Where the linear map ``kind`` of a layer is."""
        name = self.name(kind, layer)
        outputs, inputs = matrix(self.module(kind, layer)).shape
        rows = self._rows(kind, outputs)
        return Projection(name, inputs, outputs if rows is None else len(rows), rows)

    def _rows(self, kind: Kind, outputs: int) -> Tensor | None:
        config = self.model.config
        if self.kind == "phi3" and kind in ("gate", "up"):
            half = outputs // 2
            return torch.arange(half) + (half if kind == "up" else 0)
        if kind not in ("q", "k", "v") or self.kind not in ("gpt2", "gpt_neox", "phi3"):
            return None
        place = "qkv".index(kind)
        if self.kind == "gpt_neox":  # q, k and v of a head side by side
            size = outputs // config.num_attention_heads // 3
            heads = torch.arange(config.num_attention_heads)[:, None] * 3 * size
            return (heads + place * size + torch.arange(size)).reshape(-1)
        if self.kind == "gpt2":
            return torch.arange(outputs // 3) + place * (outputs // 3)
        size = outputs // (config.num_attention_heads + 2 * config.num_key_value_heads)
        counts = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
        return torch.arange(counts[place] * size) + sum(counts[:place]) * size

    def weight(self, kind: Kind, layer: int) -> Tensor:
        """The weight of a linear map, (outputs, inputs); a view unless q, k and v are fused."""
        whole = matrix(self.module(kind, layer))
        rows = self._rows(kind, len(whole))
        return whole if rows is None else whole[rows.to(whole.device)]

    def check_editable(self) -> None:
        """Raise a one-line ValueError unless the matrices ``down`` hold plain floating-point numbers."""
        module = self.module("down")
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
            raise ValueError(
                f"{self.name('down')} is a {type(module).__name__} without a plain matrix of floating-point numbers: "
                "load the model without quantisation"
            )


def decoder_of(model: Any) -> Decoder:
    """The decoder of a causal language model; see ``Decoder``."""
    return Decoder(model)


def layer_count(model: Any) -> int:
    """Number of decoder blocks."""
    return int(model.config.num_hidden_layers)


def check_layer(model: Any, layer: int) -> int:
    """``layer`` if the model has it, else a one-line ValueError."""
    if not 0 <= layer < layer_count(model):
        raise ValueError(f"layer={layer} is outside this model's layers 0 to {layer_count(model) - 1}")
    return layer


def position_limit(model: Any) -> int | None:
    """How many positions the model has a table for; None: positions are rotations, and there is no end."""
    return int(model.config.n_positions) if model.config.model_type in ("gpt2", "gptj") else None


def check_positions(model: Any, longest: int) -> None:
    """Raise a one-line ValueError if a text of ``longest`` tokens has more of them than the model has positions."""
    limit = position_limit(model)
    if limit is not None and longest > limit:
        raise ValueError(f"a text of {longest} tokens is longer than this model's {limit} positions")


def is_transposed(module: torch.nn.Module) -> bool:
    """Whether a linear module keeps its weight as (in, out): GPT-2's ``Conv1D`` does, ``nn.Linear`` has (out, in)."""
    return type(module).__name__ == "Conv1D"


def matrix(module: Any) -> Tensor:
    """The weight of a linear module as an (out, in) view."""
    return module.weight.T if is_transposed(module) else module.weight
