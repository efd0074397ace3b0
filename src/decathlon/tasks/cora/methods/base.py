"""What a method is: options (cheap, checked in the constructor), and the adapter that they make of a language model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.language.decoder import Kind, decoder_of
from decathlon.language.increments import Increment, incremented
from decathlon.tasks.cora.cora import adapted_blocks, adapted_modules
from decathlon.tasks.cora.log import Log


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    attributes:
        prompt: the kind of its prompts. parts: prefixes of the names of the parameters that it trains.
        share: of all training steps. lr: factor of the learning rate.
    """

    prompt: str
    parts: tuple[str, ...] = ("",)
    share: float = 1.0
    lr: float = 1.0


@dataclass(frozen=True)
class Sizes:
    """What an adapter must know of the data: numbers of users and items, and the size of the collaborative vectors."""

    users: int
    items: int
    user_dim: int = 0
    item_dim: int = 0


@dataclass(frozen=True)
class Batch:
    """Rows as the language model gets them, on its device.

    attributes:
        rows: positions in the log, (B,). ids: (B, T), padded on the right, slots negative. lengths: (B,).
        users, items: (B,). vectors: collaborative vectors, (B, user_dim) and (B, item_dim), or None.
        hidden: what enters the first adapted block, (B, T, width), or None: the whole model is run.
        labels: (B,) float.
    """

    rows: Tensor
    ids: Tensor
    lengths: Tensor
    users: Tensor
    items: Tensor
    labels: Tensor
    vectors: tuple[Tensor, Tensor] | None = None
    hidden: Tensor | None = None


class Adapter(nn.Module):
    """What is trained beside a frozen language model.

    attributes:
        first: the lowest block that it changes; what enters it for a text prompt is the frozen model's. None: none.
    """

    first: int | None = None

    @contextmanager
    def applied(self, batch: Batch) -> Iterator[None]:
        """The language model as it is for a batch, while the context is open."""
        yield

    @contextmanager
    def without_pair(self) -> Iterator[None]:
        """The language model as the method leaves it for texts that are about no user and no item."""
        yield

    def embeds(self, batch: Batch, embeds: Tensor) -> Tensor:
        """Embeddings of the batch's tokens, (B, T, width), with those of the slots put in."""
        return embeds


class Method:
    """Options of a method. Every subclass says what it needs.

    attributes:
        stages: of the training, the last of which is tested. Empty: nothing is trained.
        collaborative: name of the collaborative model that it reads, or "".
        slots: tokens per slot of its prompts. codes: its prompts hold the collaborative vectors as text.
        permuted: it gets the collaborative vectors of other rows.
    """

    stages: tuple[Stage, ...] = ()
    collaborative: str = ""
    slots: int = 0
    codes: str = ""
    permuted: bool = False
    uses_llm: bool = True

    def adapter(self, llm: Any, sizes: Sizes) -> Adapter:
        """The adapter of a language model.

        Raises:
            ValueError, ConfigError: one line, for what the model cannot have.
        """
        raise NotImplementedError

    def scores(self, log: Log, train: Tensor, rows: Tensor, model: Any) -> Tensor:
        """Scores of rows by a method without a language model.

        Args:
            train: the training rows that the others see too. model: the frozen collaborative model, or None.
        """
        raise NotImplementedError


class StaticLoRA(nn.Module):
    """Ordinary LoRA (arXiv 2106.09685) on a decoder: y = x W + (alpha / r) x A B for every row alike.

    A is Kaiming-uniform with a = sqrt(5), B is zero.
    """

    def __init__(
        self, llm: Any, rank: int, alpha: float, blocks: int | Sequence[int] | None, modules: Sequence[Kind],
        dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        decoder = decoder_of(llm)
        self.blocks = adapted_blocks(decoder, blocks)
        self.scale, self.dropout = alpha / rank, dropout
        self.places = [(kind, block) for block in self.blocks for kind in adapted_modules(decoder, modules)]
        self.first, self.second = nn.ParameterDict(), nn.ParameterDict()
        for kind, block in self.places:
            found = decoder.projection(kind, block)
            first = nn.Parameter(torch.empty(rank, found.inputs))
            nn.init.kaiming_uniform_(first, a=math.sqrt(5))
            self.first[f"{kind}_{block}"] = nn.Parameter(first.detach().T.contiguous())
            self.second[f"{kind}_{block}"] = nn.Parameter(torch.zeros(rank, found.outputs))
        llm.requires_grad_(False)
        self._llm = (llm,)

    def increments(self) -> Mapping[tuple[Kind, int], Increment]:
        """The increments of all adapted maps."""
        return {
            (kind, block): Increment(
                self.first[f"{kind}_{block}"], self.second[f"{kind}_{block}"], self.scale, self.dropout
            )
            for kind, block in self.places
        }

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The language model with LoRA while the context is open."""
        with incremented(self._llm[0], self.increments()):
            yield


def check_rank(rank: int, alpha: float | None, dropout: float) -> None:
    """Raise a one-line ValueError for a rank below 1, an alpha that is not positive, a dropout that is no share."""
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    if alpha is not None and alpha <= 0:
        raise ValueError(f"alpha={alpha} must be positive")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be from 0 to below 1")
