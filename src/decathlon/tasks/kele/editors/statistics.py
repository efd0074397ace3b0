"""Second moments C = E[k k^T] of MLP keys over a corpus: streamed, resumable, kept on disk by the model's weights."""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decathlon.files import atomic
from decathlon.language.decoder import decoder_of, position_limit
from decathlon.language.fingerprint import fingerprint, tokenizer_fingerprint
from decathlon.language.forward import device_of, hidden_states
from decathlon.language.generation import sample
from decathlon.language.taps import run, tap
from decathlon.language.tokens import Bos, batches, encode, pad, start_ids
from decathlon.locks import locked
from decathlon.storage import digest, load_state
from decathlon.tasks.kele.update import unedited

Text = str | Sequence[int]
log = logging.getLogger(__name__)

_GROUP = 256  # texts sorted by length at a time
_SAVE_SECONDS = 60.0
_TELL_SECONDS = 30.0
_TEXTS, _LENGTH = 64, 192  # that a model writes itself
_ENOUGH = 10  # tokens per entry of a key, below which C gets a ridge


def corpus_digest(corpus: Iterable[Text], limit: int | None) -> str:
    """Hexadecimal digest (16 characters) of the first ``limit`` texts, in order; a row of ids is no text."""
    content = hashlib.sha256()
    for text in islice(corpus, limit):
        content.update(digest(text if isinstance(text, str) else list(text)).encode())
    return content.hexdigest()[:16]


def accumulate(
    model: Any,
    tokenizer: Any,
    layers: Sequence[int],
    corpus: Iterable[Text],
    *,
    limit: int | None = None,
    length: int = 512,
    bos: Bos = "auto",
    max_tokens: int = 4096,
    state: dict[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Sum k k^T over every token of every text, in float64, for several layers in one pass.

    Texts are read in groups of 256 and batched by length, so nothing of the corpus stays in memory and little is
    padded; the forward pass ends at the uppermost layer. Each text is computed on its own: the sums are those of a
    loop over texts, up to rounding.

    Args:
        limit: number of texts. length: tokens of a text that are used, separator included, as far as the model has
            positions for them.
        state: go on from here; the texts that it has seen are skipped.

    Yields:
        after each group the same mapping: ``texts``, ``tokens`` and ``sums`` (layer -> (inner, inner)).
    """
    decoder = decoder_of(model)
    names = decoder.names("down", layers)
    if state is None:
        width = {layer: decoder.projection("down", layer).inputs for layer in layers}
        state = {
            "texts": 0,
            "tokens": 0,
            "sums": {
                layer: torch.zeros(n, n, dtype=torch.float64, device=device_of(model)) for layer, n in width.items()
            },
        }
    length = min(length, position_limit(model) or length)
    texts = islice(corpus, state["texts"], limit)
    while group := list(islice(texts, _GROUP)):
        rows = [list(text) for text in group if not isinstance(text, str)]
        rows += encode(tokenizer, [text for text in group if isinstance(text, str) and text.strip()], bos)
        rows = [row[:length] for row in rows if row]
        for batch in batches([len(row) for row in rows], max_tokens):
            _add(model, layers, names, [rows[index] for index in batch], state)
        state["texts"] += len(group)
        yield state


@torch.no_grad()
def _add(model: Any, layers: Sequence[int], names: list[str], rows: list[list[int]], state: dict[str, Any]) -> None:
    device = device_of(model)
    ids, mask = (part.to(device) for part in pad(rows))
    positions = torch.arange(ids.shape[1], device=device).expand(ids.shape)
    with tap(model, names, keep=("input",), stop=True) as taps:
        run(hidden_states, model, ids, mask, positions)
    real = mask.bool()
    for layer, name in zip(layers, names):
        keys = taps.inputs[name][real]
        keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
        state["sums"][layer] += (keys.T @ keys).double()
    state["tokens"] += int(mask.sum())


class Moments:
    """Key statistics of one model over one corpus, by layer; each is computed once and kept on disk.

    They belong to the unedited model: edits that are in place are taken out while they are computed.

    Args:
        corpus: texts (or rows of token ids) that can be iterated over several times; None: the model writes its own,
            see ``self_corpus``. A one-shot iterator is read once and nothing is kept on disk.
        cache: folder to keep them in; None: in memory only.
        samples: number of texts. length: tokens of each that are used.
        ridge: this share of the mean diagonal is added to the diagonal; None: 1e-3 if there are fewer than ten
            tokens per entry of a key, else 0.
        identity: C = I instead of statistics.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        corpus: Iterable[Text] | None = None,
        *,
        cache: str | Path | None = None,
        samples: int | None = 100_000,
        length: int = 512,
        bos: Bos = "auto",
        ridge: float | None = None,
        identity: bool = False,
        seed: int = 0,
    ) -> None:
        if samples is not None and samples < 1:
            raise ValueError(f"samples={samples} must be at least 1")
        if ridge is not None and ridge < 0:
            raise ValueError(f"ridge={ridge} must not be negative")
        self.model, self.tokenizer, self.corpus = model, tokenizer, corpus
        self.cache = Path(cache) if cache is not None else None
        self.samples, self.length, self.bos, self.ridge = samples, length, bos, ridge
        self.identity, self.seed = identity, seed
        self._moments: dict[int, Tensor] = {}
        self._factors: dict[int, Tensor] = {}
        self._added: dict[int, float] = {}

    def compute(self, layers: Sequence[int]) -> None:
        """Have the statistics of ``layers`` ready: from memory, from disk, or by one pass over the corpus."""
        with unedited(self.model):
            self._compute(layers)

    def _compute(self, layers: Sequence[int]) -> None:
        missing = [layer for layer in dict.fromkeys(layers) if layer not in self._moments]
        if not missing:
            return
        if self.identity:
            for layer in missing:
                width = decoder_of(self.model).projection("down", layer).inputs
                self._moments[layer] = torch.eye(width, dtype=torch.float64)
            return
        if self.corpus is None:
            log.warning(
                "no corpus was given: the model writes %d texts of %d tokens for its key statistics, once; "
                "corpus=... takes texts of yours", _TEXTS, _LENGTH,
            )  # fmt: skip
            self.corpus = self_corpus(self.model, self.tokenizer, seed=self.seed)
        if self.cache is None or iter(self.corpus) is self.corpus:
            state = self._run(missing, None)
            self._take(missing, state)
            return
        texts = corpus_digest(self.corpus, self.samples)
        key = digest(fingerprint(self.model), tokenizer_fingerprint(self.tokenizer), texts, self.length, self.bos)
        paths = {layer: self.cache / f"moment-{key}-layer{layer}.pt" for layer in missing}
        with locked(self.cache / f"moment-{key}.lock"):
            absent = [layer for layer in missing if not paths[layer].exists()]
            if absent:
                part = self.cache / f"moment-{key}-{'-'.join(map(str, absent))}.part.pt"
                state = self._run(absent, part)
                for layer in absent:
                    _save(
                        {"tokens": state["tokens"], "moment": state["sums"][layer].cpu() / state["tokens"]},
                        paths[layer],
                    )
                part.unlink(missing_ok=True)
        for layer in missing:
            saved = load_state(paths[layer])
            self._moments[layer] = self._ridged(layer, saved["moment"], saved["tokens"])

    def _run(self, layers: list[int], part: Path | None) -> dict[str, Any]:
        assert self.corpus is not None
        state: dict[str, Any] | None = None
        found = None
        if part is not None and part.exists():
            found = _on(device_of(self.model), load_state(part))
        saved = told = time.monotonic()
        for state in accumulate(
            self.model, self.tokenizer, layers, self.corpus,
            limit=self.samples, length=self.length, bos=self.bos, state=found,
        ):  # fmt: skip
            if part is not None and time.monotonic() - saved > _SAVE_SECONDS:
                _save(state, part)
                saved = time.monotonic()
            if time.monotonic() - told > _TELL_SECONDS:
                of = f" of {self.samples}" if self.samples else ""
                log.warning("key statistics: %d%s texts, %d tokens so far", state["texts"], of, state["tokens"])
                told = time.monotonic()
        if state is None or not state["tokens"]:
            raise ValueError("the corpus for the key statistics has no texts")
        return state

    def _take(self, layers: list[int], state: dict[str, Any]) -> None:
        for layer in layers:
            moment = state["sums"][layer].cpu() / state["tokens"]
            self._moments[layer] = self._ridged(layer, moment, state["tokens"])

    def _ridged(self, layer: int, moment: Tensor, tokens: int) -> Tensor:
        ridge = self.ridge
        if ridge is None:
            ridge = 0.0 if tokens >= _ENOUGH * len(moment) else 1e-3
        self._added[layer] = float(ridge * moment.diagonal().mean())
        return moment + ridge * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)

    def set(self, layer: int, moment: Tensor) -> None:
        """Use this matrix as C of ``layer``, as it is."""
        self._moments[layer] = moment.double()
        self._factors.pop(layer, None)
        self._added.pop(layer, None)

    def moment(self, layer: int) -> Tensor:
        """C of ``layer``, ridge included, (inner, inner), float64, on the CPU."""
        self.compute([layer])
        return self._moments[layer]

    def added(self, layer: int) -> float:
        """What the ridge has added to the diagonal of C of ``layer``."""
        self.compute([layer])
        return self._added.get(layer, 0.0)

    def solve(self, layer: int, keys: Tensor) -> Tensor:
        """C^-1 k for each row of ``keys`` (count, inner), float64.

        Raises:
            ValueError: if C is singular.
        """
        if layer not in self._factors:
            factor, info = torch.linalg.cholesky_ex(self.moment(layer))
            if int(info):
                raise ValueError(f"the key statistics of layer {layer} are singular; use more texts or ridge=1e-3")
            self._factors[layer] = factor
        return torch.cholesky_solve(keys.double().cpu().T, self._factors[layer]).T


def _on(device: torch.device, state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "sums": {layer: total.to(device) for layer, total in state["sums"].items()}}


def _save(value: dict[str, Any], path: Path) -> None:
    with atomic(path) as temporary:
        torch.save(value, temporary)


def self_corpus(
    model: Any, tokenizer: Any, *, texts: int = _TEXTS, length: int = _LENGTH, seed: int = 0
) -> list[list[int]]:
    """Token rows that the model writes itself, drawn from its whole distribution: statistics without any data.

    A stand-in for a real corpus, good enough for a first try and reproducible; results on real text differ a little.
    """
    first = start_ids(tokenizer)
    generator = torch.Generator().manual_seed(seed)
    room = getattr(model.config, "max_position_embeddings", length + 8)
    length = min(length, room - len(first) - 1)
    starts = [first or [word] for word in torch.randint(0, len(tokenizer), (texts,), generator=generator).tolist()]
    made = sample(model, starts, length, top_k=model.config.vocab_size, seed=seed)
    return [[*start, *ids] for start, ids in zip(starts, made)]
