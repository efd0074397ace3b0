"""The language model of a job: a pretrained one, or the tiny decoder that has read about the catalogue's genres.

The tiny decoder stands for a pretrained language model: it has read what people say about films with such words in
their titles, and about films of a genre that they liked before. It is trained once, on people and titles drawn for it
alone. It has seen none of the catalogue's people, rows or labels, and nothing of styles, of the films' own qualities
and of strictness is in its texts.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from decathlon import language
from decathlon.language.tokens import pad
from decathlon.progress import track
from decathlon.randomness import numpy_generator
from decathlon.schedules import schedule
from decathlon.storage import cached_state
from decathlon.tasks.cora.prompts import KINDS, Template, answers, tokenised
from decathlon.tasks.cora.sources.catalogue import GENRES, likings, titles_of, tone

log = logging.getLogger(__name__)
CATALOGUE = "catalogue"
SPECIAL = ("<pad>", "<unk>", "<bos>")


def catalogue_tokenizer() -> Any:
    """A tokenizer of words, signs and single digits, with a BOS token before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])
    templates = [Template(kind, newline=newline) for kind in KINDS for newline in ("literal", "real")]
    texts = [template.text(["a"], "b", "c", "d") for template in templates]
    texts += [Template("text").text([], "b"), "Yes No", " ".join("0123456789")]
    texts += [title for genre in GENRES for title in titles_of(genre)]
    # Signs that stand side by side are one token, and how they meet depends on what is between them.
    texts += ['"a", "b".', '"a" "b"?', '"a"?', '"."', '",']
    words = [word for text in texts for word, _ in splitter.pre_tokenize_str(text)]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<bos>")


@dataclass(frozen=True)
class DecoderTraining:
    """The tiny decoder's shape and training."""

    seed: int = 0
    layers: int = 3
    width: int = 64
    heads: int = 4
    inner: int = 128
    steps: int = 300
    batch_size: int = 16
    lr: float = 3e-3
    warmup: int = 50
    history: int = 5
    questions: int = 5  # that each person is asked: one in a whole prompt, the others in its last sentence alone
    sureness: float = 2.0  # how strongly an opinion decides an answer

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "inner", "steps", "batch_size", "history", "questions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} of the decoder's training must be at least 1")


def examples(config: DecoderTraining, step: int) -> list[tuple[list[str], list[str], list[bool]]]:
    """People drawn for one step: titles that each has liked, titles that each is asked about, and the answers."""
    random = numpy_generator("cora decoder", config.seed, step)
    genres = list(GENRES)
    names = [titles_of(genre) for genre in genres]
    liking = likings(config.batch_size, random)
    found = []
    for person in range(config.batch_size):
        odds = np.exp(2.0 * liking[person])
        shown = random.choice(len(genres), random.integers(1, config.history + 1), p=odds / odds.sum())
        asked = random.integers(len(genres), size=config.questions)
        pick = [[str(random.choice(names[genre])) for genre in some] for some in (shown, asked)]
        opinion = liking[person, asked] + np.array([tone(title) for title in pick[1]])
        chance = 1 / (1 + np.exp(-config.sureness * opinion))
        found.append((pick[0], pick[1], (random.random(config.questions) < chance).tolist()))
    return found


def _as_tokens(
    tokenizer: Any, template: Template, config: DecoderTraining, step: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of one step's texts, ids, lengths and answers: whole prompts, and the last sentence of prompts alone."""
    yes, no = answers(tokenizer)
    people = examples(config, step)
    whole = tokenised(tokenizer, template, [(liked, asked[0]) for liked, asked, _ in people])
    asked_alone = [template.text([], title) for _, asked, _ in people for title in asked[1:]]
    short = language.encode(tokenizer, [text[text.index(" titled ") :] for text in asked_alone])
    found = []
    for texts, said in ((whole, [s[0] for *_, s in people]), (short, [one for *_, s in people for one in s[1:]])):
        if texts:
            ids, mask = pad(texts)
            found.append((ids, mask.sum(1), torch.tensor([yes if one else no for one in said])))
    return found


def _model(config: DecoderTraining, vocabulary: int) -> Any:
    return language.new_llama(
        vocabulary, width=config.width, layers=config.layers, heads=config.heads, inner=config.inner, positions=256,
        tied=True, std=0.1, seed=config.seed,
    )  # fmt: skip


def train(config: DecoderTraining) -> dict[str, Any]:
    """Train on the answers to prompts. Returns the model's state and its losses."""
    tokenizer = catalogue_tokenizer()
    model = _model(config, len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
    rate = schedule("cosine", max(config.steps, config.warmup + 1), config.warmup, end=0.05)
    template, losses = Template("text", history=config.history), []
    for step in track(range(config.steps), "training the catalogue's decoder"):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate(step)
        loss = torch.zeros(())
        for ids, lengths, said in _as_tokens(tokenizer, template, config, step):
            loss = loss + F.cross_entropy(model.lm_head(last_hidden(model, ids, lengths)), said)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()) / 2)
        if step % 100 == 99:
            log.info("the catalogue's decoder: step %d, loss %.3f", step + 1, float(np.mean(losses[-50:])))
    return {"model": model.state_dict(), "losses": losses}


def load_model(
    name: str, root: str | Path, dtype: str = "float32", training: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """The frozen model of a job in eval mode, and its tokenizer.

    Args:
        name: ``catalogue`` (the tiny decoder, trained now if it was not yet), or what ``decathlon.language`` loads.
        training: options of :class:`DecoderTraining`, of the tiny decoder alone.
    """
    if name != CATALOGUE:
        if training:
            raise ValueError(f"training options belong to model={CATALOGUE}, not to model={name}")
        return language.load(name, root, dtype)
    config = DecoderTraining(**(training or {}))
    tokenizer = catalogue_tokenizer()
    key = {
        "config": asdict(config), "vocabulary": tokenizer.get_vocab(), "torch": torch.__version__,
        "words": GENRES, "tones": [tone(title) for genre in GENRES for title in titles_of(genre)],
        "prompt": Template("text", history=config.history).text(["a"], "b"),
        "version": 6,
    }  # fmt: skip
    state = cached_state(root, "cora-decoder", key, lambda: train(config))
    return of_state(training, state["model"])


def of_state(training: dict[str, Any] | None, state: dict[str, Any]) -> tuple[Any, Any]:
    """The catalogue's decoder from its ``state_dict``, and its tokenizer.

    Args:
        training: options of :class:`DecoderTraining`.
    """
    tokenizer = catalogue_tokenizer()
    model = _model(DecoderTraining(**(training or {})), len(tokenizer))
    model.load_state_dict(state)
    return model.requires_grad_(False).eval(), tokenizer


def last_hidden(llm: Any, ids: Tensor, lengths: Tensor, embeds: Tensor | None = None) -> Tensor:
    """The state after the final norm at the last real token of each row, (rows, width).

    Args:
        ids: (rows, columns), padded on the right: no real token sees what is padded. lengths: (rows,).
        embeds: instead of the embeddings of ``ids``, (rows, columns, width).
    """
    given = {"input_ids": ids} if embeds is None else {"inputs_embeds": embeds}
    hidden = llm.base_model(**given, use_cache=False).last_hidden_state
    return hidden[torch.arange(len(ids), device=hidden.device), lengths.to(hidden.device) - 1]


def answer_logits(llm: Any, last: Tensor, tokens: tuple[int, int]) -> Tensor:
    """Logits of the answers Yes and No alone, (rows, 2) in float32: two rows of the output embeddings."""
    head = llm.get_output_embeddings()
    chosen = torch.tensor(tokens, device=last.device)
    bias = getattr(head, "bias", None)
    return F.linear(last.float(), head.weight[chosen].float(), None if bias is None else bias[chosen].float())
