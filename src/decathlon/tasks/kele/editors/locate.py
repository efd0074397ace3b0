"""What the locate-and-edit editors share: contexts, key statistics, and recall vectors of many edits at once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from decathlon.language.decoder import decoder_of
from decathlon.language.forward import device_of
from decathlon.language.tokens import batches
from decathlon.tasks.kele.edit import Edit, unspaced
from decathlon.tasks.kele.editors.base import LayerEditor, Options, log
from decathlon.tasks.kele.editors.observe import Observed, Patches, observe
from decathlon.tasks.kele.editors.prompts import Prompted, sample_contexts, tokenise
from decathlon.tasks.kele.editors.recall import Inject, Losses, Objective, Problem, Recall, optimise, places_of, rows_of
from decathlon.tasks.kele.editors.statistics import Moments, Text
from decathlon.tasks.kele.update import unedited

_MEMORY = 2**30
_CALLS = 20_000_000
_OF_MOMENTS = ("samples", "length", "ridge", "identity")


@dataclass(frozen=True)
class LocateOptions(Options):
    """Options of the editors that find recall vectors. See ``recall.Objective`` for the first group.

    Args:
        lr, steps, stop, clamp, gamma, alpha, depth, beta, kl, omega: the objective and its optimiser.
        contexts: texts put before the prompt besides the empty one, or pairs (length, count) of texts that the model
            writes itself, once.
        samples, length, ridge: key statistics, see ``statistics.Moments``. identity: C = I instead.
        max_tokens: tokens in one forward pass with gradients; None: as many as fit into about 1 GiB.
    """

    lr: float = 0.5
    steps: int = 20
    stop: float = 0.05
    clamp: float = 4.0
    gamma: float = 1.0
    alpha: float = 0.0
    depth: int = 20
    beta: float = 0.0625
    kl: str = "forward"
    omega: float = 0.5
    contexts: Any = ((5, 10), (10, 10))
    samples: int | None = 100_000
    length: int = 512
    ridge: float | None = None
    identity: bool = False
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.objective  # which checks its part

    @property
    def objective(self) -> Objective:
        """The part that ``recall`` needs."""
        return Objective(**{field.name: getattr(self, field.name) for field in fields(Objective)})


@dataclass
class Found:
    """What was found for some edits: recall vectors and, at the subject, the keys and values of the edited layer.

    plain_key, plain_value: behind the empty context, (edits, inner) and (edits, width). key: mean over contexts.
    """

    recall: Recall
    key: Tensor
    plain_key: Tensor
    plain_value: Tensor
    plain_output: Tensor


class LocateEditor(LayerEditor):
    """An editor that finds what the edited layer must say at the subject's last token.

    Args:
        corpus: texts for the key statistics, iterable several times; None: texts that the model writes itself.
        cache: folder for key statistics and contexts, which belong to the unedited model; None: in memory only.
        moments: statistics to share with another editor of the same model, in place of a corpus.
    """

    options_class: ClassVar[type[Options]] = LocateOptions

    def __init__(
        self, model: Any, tokenizer: Any, layer: int | Sequence[int] | None = None, *,
        corpus: Iterable[Text] | None = None, cache: str | Path | None = None, preset: str | None = "auto",
        moments: Moments | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, tokenizer, layer, preset=preset, **options)
        self.cache = Path(cache) if cache is not None else None
        if moments is not None:
            for name, value in {"corpus": corpus, **{name: options.get(name) for name in _OF_MOMENTS}}.items():
                if value is not None:
                    raise ValueError(f"moments={type(moments).__name__} are there already: {name} would not be used")
        self.objective: Objective = self.options.objective
        opts = self.options
        self.moments = moments or Moments(
            model, tokenizer, corpus, cache=self.cache, samples=opts.samples, length=opts.length, bos=opts.bos,
            ridge=opts.ridge, identity=opts.identity, seed=opts.seed,
        )  # fmt: skip
        self._contexts: list[str] | None = None

    @property
    def contexts(self) -> list[str]:
        """The texts put before prompts; the first is empty. Sampled once, from the unedited model."""
        if self._contexts is None:
            given = list(self.options.contexts)
            if all(isinstance(text, str) for text in given):
                self._contexts = [
                    "",
                    *(text if text[-1].isspace() or unspaced(text) else text + " " for text in given if text),
                ]
            elif all(not isinstance(pair, str) and len(pair) == 2 for pair in given):
                plan = [(int(length), int(count)) for length, count in given]
                with unedited(self.model):
                    self._contexts = sample_contexts(self.model, self.tokenizer, plan, self.options.seed, self.cache)
            else:
                raise ValueError("contexts must be texts, or pairs (length, count); not both")
        return self._contexts

    def tokenised(self, edits: Sequence[Edit]) -> list[Prompted]:
        """Token rows of edits; a bad one raises a one-line ValueError."""
        return tokenise(self.tokenizer, edits, self.contexts, self.options.bos)

    def find(
        self,
        edits: Sequence[Prompted],
        layer: int,
        norms: Callable[[Observed], Tensor],
        inject: Inject,
        patches: Patches | None = None,
    ) -> Found:
        """Recall vectors at ``layer``, found in batches of edits that are about equally long.

        Args:
            norms: the norms ||v|| that clamp and penalty refer to, (rows, parts), of all rows; those of an edit's first
                row (the plain prompt) are used.
            inject: see ``recall.Problem``.
            patches: for each edit, changes of weights that are in place (earlier edits of the same request).
        """
        essence = self.objective.beta > 0
        device = device_of(self.model)
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        parts: list[tuple[list[int], Found]] = []
        for batch in self._batches(edits, layer):
            chosen = [edits[index] for index in batch]
            rows: list[list[int]] = []
            subjects: list[int] = []
            owners: list[int] = []
            for index, edit in enumerate(chosen):
                more, where = rows_of(edit, essence)
                rows, subjects, owners = rows + more, subjects + where, owners + [index] * len(more)
            row_patches = [patches[batch[owner]] for owner in owners] if patches is not None else None
            observed = observe(self.model, layer, rows, subjects, row_patches)
            places = places_of(chosen, essence, device, dtype)
            widths = torch.tensor([len(edit.prompts) + essence for edit in chosen], device=device)
            plain = widths.cumsum(0) - widths
            problem = Problem(
                self.model, layer, observed, places, self.objective, norms(observed)[plain].to(dtype), inject
            )
            recall = optimise(problem, chosen)
            keys = observed.keys[:, 0].to(dtype)
            mean = torch.stack([keys[int(p) : int(p) + len(edit.prompts)].mean(0) for p, edit in zip(plain, chosen)])
            values, outputs = observed.values[plain, 0].to(dtype), observed.hidden[plain, 0].to(dtype)
            parts.append((batch, Found(recall, mean, keys[plain], values, outputs)))
        return _merge(parts)

    def _batches(self, edits: Sequence[Prompted], layer: int) -> Iterator[list[int]]:
        config = self.model.config
        decoder = decoder_of(self.model)
        above = decoder.layers - layer - 1
        inner = decoder.projection("down", layer).inputs
        size = 4 * (above * (10 * config.hidden_size + 4 * inner) + 2 * config.vocab_size)
        budget = self.options.max_tokens or max(256, _MEMORY // size)
        lengths = []
        for edit in edits:
            rows, subjects = rows_of(edit, self.objective.beta > 0)
            lengths.append(len(rows) * max(len(row) - where for row, where in zip(rows, subjects)))
        # How many columns it takes until a block's arithmetic costs more than calling its operations.
        few = _CALLS // (config.hidden_size * (4 * config.hidden_size + 2 * inner))
        yield from batches(lengths, budget, waste=0.3, few=few)

    def notes(self, edits: Sequence[Prompted], found: Found) -> list[dict[str, Any]]:
        """One mapping per edit: steps, final losses, norms, and whether erasure was impossible."""
        out = []
        losses: Losses = found.recall.losses
        for index, edit in enumerate(edits):
            note: dict[str, Any] = {
                "steps": int(found.recall.steps[index]),
                "loss": float(losses.total[index]),
                "injection": float(losses.injection[index]),
                "erasure": float(losses.erasure[index]),
                "norm": float(torch.linalg.vector_norm(found.recall.vectors[index, 0])),
                "norm_value": float(torch.linalg.vector_norm(found.plain_value[index])),
            }
            if self.objective.alpha > 0 and edit.shared is None:
                reason = "one begins with the other" if edit.old else "no old object is given"
                note["erasure_off"] = reason
                log.warning("no erasure for %r, %r -> %r: %s", edit.edit.text, edit.edit.old, edit.edit.new, reason)
            if self.objective.gamma > 0:  # otherwise the new object is not asked for
                note["p_new"] = math.exp(-note["injection"])
            out.append(note)
        return out


def _merge(parts: Sequence[tuple[list[int], Found]]) -> Found:
    order = torch.tensor([index for batch, _ in parts for index in batch]).argsort()
    found = [part for _, part in parts]

    def joined(get: Callable[[Found], Tensor]) -> Tensor:
        tensors = torch.cat([get(part) for part in found])
        return tensors[order.to(tensors.device)]

    losses = Losses(
        *(
            joined(lambda part, name=name: getattr(part.recall.losses, name))  # type: ignore[misc]
            for name in ("total", "injection", "erasure", "divergence")
        )
    )
    recall = Recall(joined(lambda part: part.recall.vectors), losses, joined(lambda part: part.recall.steps))
    return Found(
        recall,
        joined(lambda part: part.key),
        joined(lambda part: part.plain_key),
        joined(lambda part: part.plain_value),
        joined(lambda part: part.plain_output),
    )
