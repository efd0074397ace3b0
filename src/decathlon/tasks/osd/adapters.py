"""Low rank in the weights instead of the optimizer: LoRA, ReLoRA, and matrices that are products from the start."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.randomness import generator
from decathlon.tasks.osd.groups import ATTENTION_AND_MLP, hidden_matrices
from decathlon.tasks.osd.optimizers.parameters import check_rank


class LoraLinear(nn.Module):
    """``(W + alpha / k B A) x``: W frozen, A Kaiming-uniform, B zero, dropout on what A sees (Hu et al. 2021)."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float, key: tuple[object, ...]) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        rank = min(rank, outputs, inputs)
        self.linear, self.factor, self.key = linear, alpha / rank, key
        self.dropout = nn.Dropout(dropout)
        like: dict[str, Any] = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        self.A = nn.Parameter(torch.empty(rank, inputs, **like))
        self.B = nn.Parameter(torch.zeros(outputs, rank, **like))
        linear.weight.requires_grad_(False)
        self.begin(0)

    @torch.no_grad()
    def begin(self, restart: int) -> None:
        """New A, zero B: the map is what W is."""
        bound = 1 / math.sqrt(self.A.shape[1])
        if not self.A.is_meta:
            drawn = torch.rand(self.A.shape, generator=generator("lora", *self.key, restart))
            self.A.copy_((2 * drawn - 1) * bound)
            self.B.zero_()

    @torch.no_grad()
    def merge(self) -> None:
        """Put the product into W."""
        self.linear.weight.addmm_(self.B, self.A, alpha=self.factor)

    def plain(self) -> nn.Linear:
        """The linear map W with the product in it; this one is of no use any more."""
        self.merge()
        return self.linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.factor * (self.dropout(x) @ self.A.T @ self.B.T)


class LowRankLinear(nn.Module):
    """``B A x``, both trained from random numbers whose product has the standard deviation of W's start, 0.02."""

    def __init__(self, linear: nn.Linear, rank: int, key: tuple[object, ...]) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        rank = min(rank, outputs, inputs)
        like: dict[str, Any] = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        self.A, self.B = (nn.Parameter(torch.empty(shape, **like)) for shape in ((rank, inputs), (outputs, rank)))
        std = math.sqrt(0.02 / math.sqrt(rank))
        with torch.no_grad():
            for name, factor in (("A", self.A), ("B", self.B)):
                if not factor.is_meta:
                    factor.copy_(std * torch.randn(factor.shape, generator=generator("low rank", *key, name)))

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """The linear map that does the same."""
        weight = self.B @ self.A
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
        linear.weight.copy_(weight)
        return linear

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.A.T @ self.B.T


class Adapter:
    """Replaces the linear maps of attention and MLP.

    Args:
        rank: k. match: which modules (see ``low_rank_groups``).
    """

    def __init__(self, rank: int, match: str = ATTENTION_AND_MLP) -> None:
        self.rank, self.match = check_rank(rank), match

    def replace(self, linear: nn.Linear, key: tuple[object, ...]) -> nn.Module:
        """What stands in a linear map's place; ``key``: of its random numbers."""
        raise NotImplementedError

    def install(self, model: nn.Module, seed: int) -> dict[str, Tensor]:
        """Replace the maps; the trained factors by name."""
        factors: dict[str, Tensor] = {}
        for place, name in enumerate(hidden_matrices(model, self.match)):
            name = name.removesuffix(".weight")
            parent, _, child = name.rpartition(".")
            linear = model.get_submodule(name)
            if not isinstance(linear, nn.Linear):
                raise ValueError(f"{name} is a {type(linear).__name__}: only nn.Linear can be replaced")
            new = self.replace(linear, (seed, place))
            setattr(model.get_submodule(parent), child, new)
            factors |= {f"{name}.{factor}": getattr(new, factor) for factor in ("A", "B")}
        return factors

    def lr_factor(self, step: int) -> float:
        """A factor of the learning rate beside its schedule, at a step from 0."""
        return 1.0

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
        """Called when ``done`` steps have been made."""


class Lora(Adapter):
    """LoRA of every such map, as in GaLore's comparison: alpha 32, dropout 0.05."""

    def __init__(
        self, rank: int, alpha: float = 32.0, dropout: float = 0.05, match: str = ATTENTION_AND_MLP
    ) -> None:  # fmt: skip
        super().__init__(rank, match)
        if not 0 < alpha < math.inf or not 0 <= dropout < 1:
            raise ValueError(f"alpha={alpha} must be positive and dropout={dropout} from 0 to below 1")
        self.alpha, self.dropout = float(alpha), float(dropout)

    def replace(self, linear: nn.Linear, key: tuple[object, ...]) -> nn.Module:
        return LoraLinear(linear, self.rank, self.alpha, self.dropout, key)


class ReLora(Lora):
    """LoRA that is merged into W at every ``restart``-th step and begun anew (Lialin et al. 2023; reconstructed).

    Of the factors' moments 99 % are set to zero at random, and the learning rate warms up again.

    Args:
        restart: steps between two merges. rewarm: steps of the warm-up after one. kept: share of the moments that stay.
    """

    def __init__(
        self, rank: int, restart: int, rewarm: int = 10, kept: float = 0.01, alpha: float = 32.0, dropout: float = 0.05,
        match: str = ATTENTION_AND_MLP,
    ) -> None:  # fmt: skip
        super().__init__(rank, alpha, dropout, match)
        if restart < 1 or not 0 <= rewarm < restart or not 0 <= kept <= 1:
            raise ValueError(
                f"restart={restart}, rewarm={rewarm}, kept={kept}: 0 <= rewarm < restart, kept from 0 to 1"
            )
        self.restart, self.rewarm, self.kept = int(restart), int(rewarm), float(kept)

    def lr_factor(self, step: int) -> float:
        since = step % self.restart
        return 1.0 if step < self.restart or since >= self.rewarm else (since + 1) / (self.rewarm + 1)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
        if done % self.restart:
            return
        for module in model.modules():
            if isinstance(module, LoraLinear):
                module.merge()
                module.begin(done)
                for name, factor in (("A", module.A), ("B", module.B)):
                    for what, value in optimizer.state.get(factor, {}).items():
                        if isinstance(value, Tensor) and value.is_floating_point():
                            drawn = torch.rand(value.shape, generator=generator("prune", *module.key, name, what, done))
                            value.mul_((drawn < self.kept).to(value))


class LowRank(Adapter):
    """Every such map a product of two trained factors from the start."""

    def replace(self, linear: nn.Linear, key: tuple[object, ...]) -> nn.Module:
        return LowRankLinear(linear, self.rank, key)


def merged(model: nn.Module) -> nn.Module:
    """A copy of a model in which plain linear maps stand in the places of adapted ones."""
    found = copy.deepcopy(model)
    for name, module in list(found.named_modules()):
        if isinstance(module, (LoraLinear, LowRankLinear)):
            parent, _, child = name.rpartition(".")
            setattr(found.get_submodule(parent), child, module.plain())
    return found
