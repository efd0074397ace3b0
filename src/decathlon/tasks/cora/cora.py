"""CoRA: a frozen language model with low-rank weights that a user and an item generate (arXiv 2408.10645, method).

For one pair with collaborative vectors e_u, e_i, one matrix A of norm 1 is generated, (d_in, r), and every adapted map
``y = x W`` becomes ``y = x W + (alpha / r) x A P`` with a trained P, (r, d_out), of its own that starts at zero. All
maps with inputs of one width share A. Nothing of the size of W is made.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decathlon.language.decoder import Decoder, Kind, decoder_of, matrix
from decathlon.language.forward import device_of
from decathlon.language.increments import Increment, Switch, incremented
from decathlon.tasks.cora.generators import make_generator

MODULES: tuple[Kind, ...] = ("q", "k", "v", "o")


class CoRA(nn.Module):
    """Generated low-rank weights for a decoder of transformers, which is frozen and otherwise left as it is.

    Args:
        llm: a causal language model of a family that ``decathlon.language`` knows. Its parameters get
            ``requires_grad=False``; it is not among this module's own, and keeps its mode, dtype and device.
        user_dim, item_dim: sizes of the collaborative vectors.
        rank, alpha: r and alpha; alpha is 2 r if not given, as in the paper.
        blocks: how many of the top blocks are adapted, or a list of blocks, counted from 0; None: all.
        modules: which linear maps of a block: of q, k, v, o, gate, up, down.
        dropout: share of a map's input that the increment does not see, while the *language model* is in training mode.
        generator: ``qformer`` (the paper's), ``mlp`` or ``linear``.
        options: of the generator, for example ``queries=4, layers=8``.

    Raises:
        ValueError, ConfigError: one line, for an unknown family, a rank below 1, blocks or maps that the model lacks.
    """

    def __init__(
        self, llm: Any, user_dim: int, item_dim: int, rank: int = 16, alpha: float | None = None,
        blocks: int | Sequence[int] | None = None, modules: Sequence[Kind] = MODULES, dropout: float = 0.0,
        generator: str = "qformer", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        decoder = decoder_of(llm)
        check_sizes(user_dim, item_dim, rank, dropout)
        self.user_dim, self.item_dim, self.rank = int(user_dim), int(item_dim), int(rank)
        self.scale = (2.0 * rank if alpha is None else float(alpha)) / rank
        self.dropout = float(dropout)
        self.blocks = adapted_blocks(decoder, blocks)
        self.modules_adapted = adapted_modules(decoder, modules)
        self.generator = make_generator(generator, self.user_dim, self.item_dim, **options)
        places = {(kind, block): decoder.projection(kind, block) for block in self.blocks for kind in modules}
        self.widths = {place: found.inputs for place, found in places.items()}
        features: int = self.generator.width
        self.heads = nn.ModuleDict(
            {str(one): nn.Linear(features, one * self.rank) for one in sorted(set(self.widths.values()))}
        )
        self.outputs = nn.ParameterDict(
            {_key(place): nn.Parameter(torch.zeros(self.rank, found.outputs)) for place, found in places.items()}
        )
        llm.requires_grad_(False)
        self._llm = (llm,)  # in a tuple: not one of this module's own
        self._switch: Switch | None = None
        self.to(device_of(llm))

    @property
    def llm(self) -> Any:
        """The language model."""
        return self._llm[0]

    @property
    def first_block(self) -> int:
        """The lowest adapted block: what enters it does not depend on the pair."""
        return min(self.blocks)

    def weights(self, user_vectors: Tensor, item_vectors: Tensor) -> dict[int, Tensor]:
        """A by the width of the maps' inputs, (B, width, rank) each, of Frobenius norm 1 for every pair.

        Raises:
            ValueError: one line, for vectors of other sizes than this module's, or not finite.
        """
        c = self.pairs(user_vectors, item_vectors)
        features = self.generator(c)
        found = {}
        for width, head in self.heads.items():
            flat = F.normalize(head(features), dim=-1, eps=1e-12)
            found[int(width)] = flat.view(len(c), int(width), self.rank)
        return found

    def pairs(self, user_vectors: Tensor, item_vectors: Tensor) -> Tensor:
        """c = [e_u, e_i], (B, user_dim + item_dim), in this module's dtype and on its device."""
        own = next(self.heads.parameters())
        parts = []
        for name, given, size in (
            ("user_vectors", user_vectors, self.user_dim), ("item_vectors", item_vectors, self.item_dim),
        ):  # fmt: skip
            vectors = torch.as_tensor(given).to(own.device, own.dtype)
            if vectors.dim() != 2 or vectors.shape[1] != size:
                raise ValueError(f"{name} of shape {tuple(vectors.shape)} must be (pairs, {size})")
            odd = ~vectors.isfinite().all(dim=1)
            if odd.any():
                raise ValueError(f"{name}: row {int(odd.nonzero()[0])} is not finite")
            parts.append(vectors)
        if len(parts[0]) != len(parts[1]):
            raise ValueError(f"{len(parts[0])} user vectors but {len(parts[1])} item vectors: one of each per pair")
        return torch.cat(parts, dim=1)

    def increments(self, weights: dict[int, Tensor]) -> dict[tuple[Kind, int], Increment]:
        """The increments of all adapted maps for the matrices of :meth:`weights`."""
        return {
            place: Increment(weights[width], self.outputs[_key(place)], self.scale, self.dropout)
            for place, width in self.widths.items()
        }

    @contextmanager
    def personalised(self, user_vectors: Tensor, item_vectors: Tensor) -> Iterator[Switch]:
        """The language model with the weights of one pair per row of its batch, while the context is open.

        Args:
            user_vectors, item_vectors: (B, user_dim) and (B, item_dim), for batches of B rows.

        Yields:
            a switch; with ``switch.on = False`` the model is its own, bit for bit.

        Raises:
            ValueError: one line, for vectors that do not fit, or if a context is open already.
        """
        if self._switch is not None:
            raise ValueError("the language model is personalised already: leave that context first")
        changes = self.increments(self.weights(user_vectors, item_vectors))
        with incremented(self.llm, changes) as switch:
            self._switch = switch
            try:
                yield switch
            finally:
                self._switch = None

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The language model as it was, bit for bit, inside of an open :meth:`personalised`."""
        switch = self._switch
        before = switch.on if switch else True
        if switch:
            switch.on = False
        try:
            yield
        finally:
            if switch:
                switch.on = before

    @torch.no_grad()
    def merged(self, user_vector: Tensor, item_vector: Tensor) -> Any:
        """A copy of the language model with the weights of one pair written into its matrices.

        ``W + (alpha / r) (A P)^T``, in float32, then in the model's dtype. The generator is used in eval mode.

        Args:
            user_vector, item_vector: (user_dim,) and (item_dim,).
        """
        if self._switch is not None:
            raise ValueError("the language model is personalised: leave that context before merging")
        training = self.generator.training
        self.generator.eval()
        try:
            user, item = torch.as_tensor(user_vector), torch.as_tensor(item_vector)
            weights = self.weights(user.reshape(1, -1), item.reshape(1, -1))
        finally:
            self.generator.train(training)
        model = copy.deepcopy(self.llm)
        decoder = decoder_of(model)
        for place, increment in self.increments(weights).items():
            found = decoder.projection(*place)
            weight = matrix(decoder.module(*place))
            change = increment.scale * (increment.first[0] @ increment.second).T
            rows = slice(None) if found.rows is None else found.rows.to(weight.device)
            wide = torch.promote_types(weight.dtype, torch.float32)
            weight[rows] = (weight[rows].to(wide) + change.to(weight.device, wide)).to(weight.dtype)
        return model


def _key(place: tuple[Kind, int]) -> str:
    kind, block = place
    return f"{kind}_{block}"


def check_sizes(user_dim: int, item_dim: int, rank: int, dropout: float) -> None:
    """Raise a one-line ValueError for a size below 1 or a dropout that is no share."""
    for name, size in {"user_dim": user_dim, "item_dim": item_dim, "rank": rank}.items():
        if int(size) != size or size < 1:
            raise ValueError(f"{name}={size} must be a whole number of at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be from 0 to below 1")


def adapted_blocks(decoder: Decoder, blocks: int | Sequence[int] | None) -> list[int]:
    """The numbers of the adapted blocks: all (None), the top ones (a number), or those of a list.

    Raises:
        ValueError: one line, for blocks that the model does not have, or none at all.
    """
    if blocks is None:
        return list(range(decoder.layers))
    if isinstance(blocks, int):
        if not 1 <= blocks <= decoder.layers:
            raise ValueError(f"blocks={blocks} must be from 1 to this model's {decoder.layers}")
        return list(range(decoder.layers - blocks, decoder.layers))
    chosen = sorted({int(block) for block in blocks})
    if not chosen or chosen[0] < 0 or chosen[-1] >= decoder.layers:
        raise ValueError(f"blocks={list(blocks)} must be among this model's blocks 0 to {decoder.layers - 1}")
    return chosen


def adapted_modules(decoder: Decoder, modules: Sequence[Kind]) -> tuple[Kind, ...]:
    """``modules``, if the model's blocks have them all.

    Raises:
        ValueError: one line, for one that they do not have, one that is named twice, or none at all.
    """
    if isinstance(modules, str):
        raise ValueError(f"modules={modules} must be a list, of {', '.join(decoder.kinds)}")
    for module in modules:
        if module not in decoder.kinds:
            raise ValueError(f"modules: a {decoder.kind} block has no {module}; choose {', '.join(decoder.kinds)}")
    if not modules or len(set(modules)) < len(modules):
        raise ValueError(f"modules={list(modules)} must name at least one map, and none twice")
    return tuple(modules)
