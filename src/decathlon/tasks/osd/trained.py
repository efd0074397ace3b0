"""A pretrained language model for one's own texts: its logits, how well it predicts a text, what it writes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from decathlon import trained
from decathlon.errors import DataError
from decathlon.language import byte_tokenizer, sample
from decathlon.language.tokenised import bytes_of, encoded
from decathlon.language.tokens import batches, pad
from decathlon.tasks.osd.adapters import merged
from decathlon.tasks.osd.models import make_model
from decathlon.tasks.osd.recipes import Recipe

TOKENIZER = "tokenizer"
_TOKENS = 8192  # of a batch


class Trained:
    """What a job of task=osd has trained.

    Args:
        model: the language model, with its adapters if the method has some. tokenizer: None for bytes.
        length: tokens of the sequences that it was trained on.

    Attributes:
        model: of transformers, in evaluation mode. tokenizer: of transformers, for bytes too.
    """

    def __init__(self, model: Any, tokenizer: Any, length: int) -> None:
        self.model, self.length = model.eval(), length
        self.tokenizer = byte_tokenizer(()) if tokenizer is None else tokenizer
        self._own = tokenizer

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """(B, T, vocabulary) of the tokens after each of (B, T) int64."""
        found: Tensor = self.model(input_ids=tokens).logits
        return found

    def losses(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Of each text: nats of its tokens but the first, how many tokens these are, and how many bytes; (n,) float64.

        A text longer than ``length`` is read in pieces that have one token in common, so that each token is predicted
        once, from those before it in its piece.
        """
        ids = [encoded(self._own, text).tolist() for text in texts]
        step = self.length - 1
        pieces = [(k, row[at : at + self.length]) for k, row in enumerate(ids) for at in range(0, len(row) - 1, step)]
        nats = torch.zeros(len(texts), dtype=torch.float64)
        for group in batches([len(piece) for _, piece in pieces], _TOKENS):
            tokens, mask = pad([pieces[place][1] for place in group])  # what is padded comes after what counts
            logits = self.logits(tokens)[:, :-1].float()
            each = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
            each = each.view(len(group), -1).where(mask[:, 1:] == 1, 0.0)
            nats.index_add_(0, torch.tensor([pieces[place][0] for place in group]), each.double().sum(1))
        counts = torch.tensor([max(len(row) - 1, 0) for row in ids], dtype=torch.float64)
        size = torch.tensor([bytes_of(self._own, row[1:]) for row in ids], dtype=torch.float64)
        return nats, counts, size

    def perplexity(self, texts: Sequence[str]) -> Tensor:
        """(n,) float64: exp of the mean over a text's tokens but the first; nan for a text of fewer than two tokens."""
        nats, counts, _ = self.losses(texts)
        return (nats / counts).exp()

    def bits_per_byte(self, texts: Sequence[str]) -> Tensor:
        """(n,) float64, of the bytes of all tokens but the first; nan for a text of fewer than two tokens."""
        nats, _, size = self.losses(texts)
        return nats / size / math.log(2)

    def generate(self, prompt: str, tokens: int = 100, top_k: int = 1, seed: int = 0) -> str:
        """How the model goes on.

        Args:
            tokens: how many new ones; fewer if the text ends before.
            top_k: 1: the likeliest token each time; else one of so many likeliest is drawn, by ``seed``.

        Raises:
            ValueError: in one line, the prompt has no tokens, or the text is longer than the model's positions.
        """
        start = encoded(self._own, prompt).tolist()
        if not start:
            raise ValueError("the prompt has no tokens")
        (new,) = sample(self.model, [start], tokens, top_k=top_k, seed=seed)
        end = self.tokenizer.eos_token_id
        return str(self.tokenizer.decode(new[: new.index(end)] if end in new else new))

    def save(self, folder: str | Path) -> None:
        """Model and tokenizer as a folder that ``transformers`` loads; adapters are multiplied out into the weights."""
        plain: Any = merged(self.model)
        plain.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def predict_rows(self, rows: list[trained.Row]) -> list[dict[str, Any] | str]:
        """Of rows with a column ``text``: ``bits_per_byte`` and ``perplexity``."""
        if rows and "text" not in rows[0]:
            raise DataError(f"the table has no column text; its columns: {', '.join(rows[0])}")
        nats, counts, size = self.losses([row["text"] for row in rows])
        found: list[dict[str, Any] | str] = []
        for loss, count, length in zip(nats.tolist(), counts.tolist(), size.tolist()):
            if not count or not length:
                found.append("the text has fewer than two tokens: there is nothing to predict")
            elif not math.isfinite(loss):
                found.append("the model says nothing finite: its training diverged")
            else:
                mean = loss / count
                perplexity = math.exp(mean) if mean < 700 else math.inf
                found.append({"bits_per_byte": loss / length / math.log(2), "perplexity": perplexity})
        return found


def keep(folder: Path, model: Any, vocabulary: int, tokenizer: Any) -> None:
    """Write weights and tokenizer for ``load``."""
    trained.save(folder, {"vocabulary": vocabulary, "weights": dict(model.state_dict())})
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / TOKENIZER)


def load(folder: Path, config: Mapping[str, Any]) -> Trained:
    """What ``LanguageModelling.export`` has written."""
    state, module = trained.state_of(folder), config["module"]
    model = make_model(str(module["size"]), state["vocabulary"], positions=int(module["length"]))
    Recipe(module["method"], module["lr"], module["scale"], module["rank"], module["match"]).install(model, 0)
    weights = state["weights"]
    model.to(next(iter(weights.values())).dtype)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{folder} does not fit this version ({str(error).splitlines()[0]})") from error
    model.requires_grad_(False)
    tokenizer = None
    if (folder / TOKENIZER).is_dir():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER)
    return Trained(model, tokenizer, int(module["length"]))
