"""Parameter groups: which weights of a model are projected."""

import re
from typing import Any

from torch import Tensor, nn

from decathlon.tasks.osd.optimizers.parameters import check_rank

ATTENTION_AND_MLP = (
    r"attn|attention|mlp|ffn|feed_?forward|densereludense|\.intermediate\.dense|layer\.\d+\.output\.dense"
)


def hidden_matrices(model: nn.Module, match: str = ATTENTION_AND_MLP) -> dict[str, Tensor]:
    """The trainable weight matrices of linear maps whose module's name matches, by name; each once.

    Args:
        model: any module. Linear maps are ``nn.Linear``, what derives from it, and transformers' ``Conv1D`` (GPT-2).
        match: regular expression that is searched in the names of modules, whatever the case.

    Raises:
        ValueError: one line, if there is none or the expression is not valid.
    """
    try:
        pattern = re.compile(match, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"match={match} is no regular expression ({error})") from None
    heads = _tied(model)
    found: dict[str, Tensor] = {}
    linear = [(name, module) for name, module in model.named_modules() if _is_linear(module)]
    for name, module in linear:
        weight = module.weight
        known = any(weight is other for other in found.values())
        if pattern.search(name) and weight.requires_grad and weight.ndim == 2 and id(weight) not in heads and not known:
            found[f"{name}.weight"] = weight
    if not found:
        some = ", ".join(name for name, module in linear if module.weight.requires_grad) or "none"
        raise ValueError(f"no trainable linear map's name matches {match!r}; there are: {some[:200]}")
    return found


def low_rank_groups(
    model: nn.Module, rank: int = 128, match: str = ATTENTION_AND_MLP, **options: Any
) -> list[dict[str, Any]]:
    """Two parameter groups: the linear maps of attention and MLP, of rank ``rank``, and all the rest at full rank.

    Frozen parameters are in neither. For any model of transformers, or any module with names to match.

    Args:
        model: the model. rank: k, clipped to the smaller side of each matrix.
        match: which modules are projected (see ``hidden_matrices``).
        options: further options of the projected group, for example ``scale=0.25``.

    Raises:
        ValueError: one line, if nothing matches or the rank is not a positive whole number.
    """
    hidden = hidden_matrices(model, match)
    mine = {id(weight) for weight in hidden.values()}
    rest = [(name, p) for name, p in model.named_parameters() if p.requires_grad and id(p) not in mine]
    groups = [{"params": list(hidden.items()), "rank": check_rank(rank), **options}]
    return groups + ([{"params": rest}] if rest else [])


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _tied(model: nn.Module) -> set[int]:
    """The weights that are also an embedding's: an output head of the same weight is no matrix to project."""
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
