"""Methods that put vectors in the place of tokens: CoLLM, PersonPrompt, Prompt4NR."""

from typing import Any

import torch
from torch import Tensor, nn

from decathlon.tasks.cora.methods.base import Adapter, Batch, Sizes, Stage, StaticLoRA
from decathlon.tasks.cora.methods.weights import LoRAAdapter, TALLRecMethod
from decathlon.tasks.cora.prompts import ITEM, USER


class SoftAdapter(LoRAAdapter):
    """Static LoRA, and tokens for the slots of the prompt.

    Args:
        tokens: makes the vectors of the slots: a module that maps a batch to (B, slots, width) for users and items.
    """

    def __init__(self, lora: StaticLoRA, tokens: "Tokens") -> None:
        super().__init__(lora)
        self.tokens = tokens

    def embeds(self, batch: Batch, embeds: Tensor) -> Tensor:
        made = self.tokens(batch)
        for mark, vectors in zip((USER, ITEM), made):
            places = batch.ids == mark
            if not places.any():
                continue  # the slot was cut off with the beginning of a long prompt, or this stage has none
            order = (places.cumsum(1) - 1).clamp_min(0)
            rows = torch.arange(len(embeds), device=embeds.device)[:, None].expand_as(order)
            taken = vectors[rows, order.clamp(max=vectors.shape[1] - 1)]
            embeds = torch.where(places[..., None], taken.to(embeds.dtype), embeds)
        return embeds


class Tokens(nn.Module):
    """Vectors of slots: (B, slots, width) for the user's and for the item's."""

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Mapped(Tokens):
    """CoLLM's: one map of the user's and one of the item's collaborative vector, Linear, ReLU, Linear."""

    def __init__(self, user_dim: int, item_dim: int, width: int, factor: int) -> None:
        super().__init__()
        self.user, self.item = (
            nn.Sequential(nn.Linear(size, factor * size), nn.ReLU(), nn.Linear(factor * size, width))
            for size in (user_dim, item_dim)
        )

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.vectors is not None
        return self.user(batch.vectors[0])[:, None], self.item(batch.vectors[1])[:, None]


class Own(Tokens):
    """PersonPrompt's: a vector of its own for every user and every item."""

    def __init__(self, users: int, items: int, width: int, std: float) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, width), nn.Embedding(items, width)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=std)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.user(batch.users)[:, None], self.item(batch.items)[:, None]


class Same(Tokens):
    """Prompt4NR's: vectors that are the same for all users, and for all items."""

    def __init__(self, slots: int, width: int, std: float) -> None:
        super().__init__()
        self.user = nn.Parameter(torch.randn(slots, width) * std)
        self.item = nn.Parameter(torch.randn(slots, width) * std)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        count = len(batch.ids)
        return self.user.expand(count, -1, -1), self.item.expand(count, -1, -1)


def _width_and_spread(llm: Any) -> tuple[int, float]:
    table = llm.get_input_embeddings().weight
    return table.shape[1], float(table.detach().float().std())


class CoLLMMethod(TALLRecMethod):
    """CoLLM (arXiv 2310.19488): LoRA on the text first; then, frozen, maps of the collaborative vectors into tokens.

    Args:
        collaborative: where the vectors come from. first: share of the steps of the first stage.
        factor: how many times wider the hidden layer of the maps is. lr: factor of the rate in the second stage.
    """

    slots = 1

    def __init__(
        self, collaborative: str = "mf", first: float = 0.5, factor: int = 10, lr: float = 1.0, **options: Any
    ) -> None:
        super().__init__(**options)
        if not 0 < first < 1:
            raise ValueError(f"first={first} must be a share of the steps between 0 and 1")
        if factor < 1:
            raise ValueError(f"factor={factor} must be at least 1")
        self.collaborative, self.factor = collaborative, factor
        self.stages = (
            Stage("text", ("lora",), share=first), Stage("identity", ("tokens",), share=1 - first, lr=lr),
        )  # fmt: skip

    def _tokens(self, llm: Any, sizes: Sizes) -> Tokens:
        return Mapped(sizes.user_dim, sizes.item_dim, _width_and_spread(llm)[0], self.factor)

    def adapter(self, llm: Any, sizes: Sizes) -> Adapter:
        return SoftAdapter(StaticLoRA(llm, **self.given), self._tokens(llm, sizes))


class PersonPromptMethod(CoLLMMethod):
    """Every user and item has a token of its own, learnt behind the same first stage."""

    def __init__(self, first: float = 0.5, lr: float = 10.0, **options: Any) -> None:
        super().__init__(first=first, lr=lr, **options)
        self.collaborative = ""

    def _tokens(self, llm: Any, sizes: Sizes) -> Tokens:
        return Own(sizes.users, sizes.items, *_width_and_spread(llm))


class Prompt4NRMethod(TALLRecMethod):
    """Three learnt tokens for all users and three for all items, together with LoRA."""

    stages: tuple[Stage, ...] = (Stage("soft"),)
    slots = 3

    def adapter(self, llm: Any, sizes: Sizes) -> Adapter:
        return SoftAdapter(StaticLoRA(llm, **self.given), Same(self.slots, *_width_and_spread(llm)))
