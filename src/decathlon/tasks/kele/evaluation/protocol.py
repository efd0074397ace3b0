"""Asks one model everything that a case is judged by, in a few batched calls, and writes down what it said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from decathlon.errors import ConfigError
from decathlon.language import Bos, Scores, continuation_ids, generate, next_logits, score
from decathlon.tasks.kele.cases import Case, Probe, edit_probe
from decathlon.tasks.kele.edit import Edit, object_text
from decathlon.tasks.kele.evaluation.answers import evaluate_answers
from decathlon.tasks.kele.evaluation.metrics import case_metrics, judged, ngram_entropy, partial_ratio

Prompting = Literal["none", "few_shot", "cot"]
MODES = ("generate", "prob", "fuzzy")
PROB_PROMPT = "{} The answer to this question, most simply, is"
FUZZY_RATIO, FUZZY_TOKENS = 70, 60


def checked_bos(bos: str | bool) -> Bos:
    """The option ``bos``; YAML reads off as false.

    Raises:
        ConfigError: for anything else.
    """
    if bos is False or bos == "off":
        return "off"
    if bos == "auto":
        return "auto"
    raise ConfigError(f"bos={bos} is neither auto nor off")


@dataclass(frozen=True)
class Protocol:
    """How multi-hop questions are asked.

    Args:
        mode: ``generate`` (greedy answers are compared with the accepted ones: MQuAKE's rule), ``prob`` (the new
            answer is likelier than the old one, mean log-probability per token) and ``fuzzy`` (partial ratio of at
            least 70 with 60 generated tokens), or several joined by ``+``. The last two are the rules of GLAME's code.
        prompting: ``few_shot`` and ``cot`` put MQuAKE's demonstrations before a question and generate after
            ``A:`` or ``Thoughts:``; ``none``: the question is a text to go on with.
        demonstrations: the text of the demonstrations.
        max_new_tokens: of a generated answer (a chain of thought gets five times as many).
        fluency_tokens: so many tokens are generated about the subject for the n-gram entropy; 0: none.
        answerer: the ``answers`` of a method that has its own way of answering and changes no weight: questions are
            put to it, with its own prompts, and nothing is asked of the weights.
    """

    mode: str = "generate"
    prompting: Prompting = "few_shot"
    demonstrations: str = ""
    max_new_tokens: int = 20
    fluency_tokens: int = 0
    bos: Bos = "auto"
    answerer: Callable[[Sequence[str]], Sequence[tuple[str, str]]] | None = None
    modes: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        modes = frozenset(self.mode.split("+"))
        if not modes <= set(MODES):
            raise ValueError(f"multihop_mode={self.mode} is none of {', '.join(MODES)}, or several joined by +")
        if self.prompting not in ("none", "few_shot", "cot"):
            raise ValueError(f"prompting={self.prompting} is none of none, few_shot, cot")
        if self.max_new_tokens < 1 or self.fluency_tokens < 0:
            raise ValueError("max_new_tokens must be at least 1 and fluency_tokens at least 0")
        object.__setattr__(self, "modes", modes)

    def prompt(self, question: str) -> str:
        """What the model is given for a question that it answers by generation."""
        if self.prompting == "few_shot":
            return f"{self.demonstrations.rstrip()}\nQ: {question} A:"
        if self.prompting == "cot":
            return f"{self.demonstrations.rstrip()}\n\nQuestion: {question}\nThoughts:"
        return question

    def answers(self, model: Any, tokenizer: Any, questions: Sequence[str]) -> list[str]:
        """The model's greedy answers, cut out of what it generates."""
        tokens = self.max_new_tokens * (5 if self.prompting == "cot" else 1)
        stop = {"few_shot": ["\n", "Q:"], "cot": ["\n\n", "Question:"], "none": None}[self.prompting]
        prompts = [self.prompt(question) for question in questions]
        texts = generate(model, tokenizer, prompts, tokens, stop, bos=self.bos)
        if self.prompting == "cot":
            texts = [text.partition("Answer:")[2].strip().partition("\n")[0] for text in texts]
        return [text.strip() for text in texts]


class _Pairs:
    """Collects (prompt, answer) pairs, scores them in one call, and hands the scores out again."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.answers: list[str] = []
        self.scores: Scores | None = None

    def add(self, prompt: str, answer: str) -> int:
        self.prompts.append(prompt)
        self.answers.append(object_text(prompt, answer))
        return len(self.prompts) - 1

    def run(self, model: Any, tokenizer: Any, bos: Bos) -> None:
        self.scores = score(model, tokenizer, self.prompts, self.answers, bos=bos)

    def logp(self, index: int) -> float:
        assert self.scores is not None
        return float(self.scores.mean[index])

    def greedy(self, index: int) -> bool:
        assert self.scores is not None
        return bool(self.scores.greedy[index])


def evaluate(model: Any, tokenizer: Any, case: Case, protocol: Protocol) -> dict[str, Any]:
    """The row of one case: every prompt with what the model (edited or not) makes of it, and its ``metrics``.

    Log-probabilities are means per token, in nats. See ``metrics.case_metrics`` for the numbers.
    """
    if protocol.answerer is not None:
        return evaluate_answers(case, protocol.answerer)
    pairs = _Pairs()
    groups = {
        "edits": [edit_probe(edit) for edit in case.edits],
        "paraphrases": list(case.paraphrases),
        "neighbours": list(case.neighbours),
    }
    probed = {name: [_ask(pairs, probe) for probe in probes] for name, probes in groups.items()}
    facts = [(fact, pairs.add(fact.prompt, fact.answer)) for fact in case.same_subject]
    asked = []
    if "prob" in protocol.modes:
        for question in case.questions:
            text = question.text if protocol.prompting == "none" else PROB_PROMPT.format(question.text)
            old = pairs.add(text, question.old[0]) if question.old else None
            asked.append((pairs.add(text, question.new[0]), old))
    pairs.run(model, tokenizer, protocol.bos)

    row: dict[str, Any] = {"id": case.id, "hops": case.hops}
    for name, probes in groups.items():
        row[name] = [_scored(pairs, probe, *where) for probe, where in zip(probes, probed[name])]
    known = [edit for edit in case.edits if edit.old]
    if known:
        entries = [entry for entry, edit in zip(row["edits"], case.edits) if edit.old]
        for entry, residue in zip(entries, residual(model, tokenizer, known, protocol.bos)):
            entry |= residue
    row["same_subject"] = [
        {"prompt": fact.prompt, "answer": fact.answer, "greedy": pairs.greedy(index)} for fact, index in facts
    ]
    row["questions"] = _questions(model, tokenizer, case, protocol)
    for entry, (new, old) in zip(row["questions"], asked):
        entry["logp_new"] = pairs.logp(new)
        if old is not None:
            entry["logp_old"] = pairs.logp(old)
            entry["likelier_new"] = entry["logp_new"] > entry["logp_old"]
    if protocol.fluency_tokens:
        subjects = [edit.subject for edit in case.edits]
        texts = generate(model, tokenizer, subjects, protocol.fluency_tokens, bos=protocol.bos)
        row["fluency"] = sum(ngram_entropy(text.split()) for text in texts) / len(texts)
    row["metrics"] = case_metrics(row)
    return row


def _ask(pairs: _Pairs, probe: Probe) -> tuple[int | None, int]:
    """Where the scores of the old answer, if there is one, and of the new one will be."""
    old = pairs.add(probe.prompt, probe.old) if probe.old else None
    return old, pairs.add(probe.prompt, probe.new)


def _scored(pairs: _Pairs, probe: Probe, old: int | None, new: int) -> dict[str, Any]:
    """A probe with what the model makes of it; without an old answer nothing is said of one."""
    entry: dict[str, Any] = {"prompt": probe.prompt, "old": probe.old, "new": probe.new}
    if old is not None:
        entry |= {"logp_old": pairs.logp(old)}
    entry |= {"logp_new": pairs.logp(new)}
    if old is not None:
        entry |= {"greedy_old": pairs.greedy(old)}
    return entry | {"greedy_new": pairs.greedy(new)}


def _questions(model: Any, tokenizer: Any, case: Case, protocol: Protocol) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [
        {"text": question.text, "new": question.new[0], "old": question.old[0] if question.old else ""}
        for question in case.questions
    ]
    if not entries:
        return entries
    if "generate" in protocol.modes:
        said = protocol.answers(model, tokenizer, [question.text for question in case.questions])
        for entry, question, text in zip(entries, case.questions, said):
            entry |= judged(text, question.new, question.old)
    if "fuzzy" in protocol.modes:
        prompts = [PROB_PROMPT.format(question.text) for question in case.questions]
        for entry, question, text in zip(
            entries, case.questions, generate(model, tokenizer, prompts, FUZZY_TOKENS, bos=protocol.bos)
        ):
            entry["fuzzy_new"] = any(partial_ratio(answer, text) >= FUZZY_RATIO for answer in question.new)
    return entries


def residual(model: Any, tokenizer: Any, edits: Sequence[Edit], bos: Bos = "auto") -> list[dict[str, float]]:
    """How strongly the old answer of each edit is still there: the paper's Retain Score, three ways, and its rank.

    Read where the first token of the old answer is predicted; if old and new answer begin alike, where they first
    differ, with the common beginning in place. ``rs_logit``: the logit D[o]; ``rs_centred``: minus the mean logit, so
    that models compare; ``rs_prob``: softmax(D)[o]; ``rank_old``: 1 + how many tokens have a larger logit. Logits that
    are not finite have no rank: NaN.
    """
    prompts, tokens = [], []
    for edit in edits:
        old, new = (continuation_ids(tokenizer, object_text(edit.text, text)) for text in (edit.old, edit.new))
        shared = 0
        while shared < min(len(old), len(new)) and old[shared] == new[shared]:
            shared += 1
        if shared == min(len(old), len(new)):
            shared = 0
        prompts.append(edit.text + tokenizer.decode(old[:shared]))
        tokens.append(old[shared])
    logits: Tensor = next_logits(model, tokenizer, prompts, bos=bos)
    old_logits = logits[torch.arange(len(tokens)), torch.tensor(tokens)]
    ranks = (1 + (logits > old_logits[:, None]).sum(-1)).double()
    ranks[~logits.isfinite().all(-1)] = torch.nan
    centred = old_logits - logits.mean(-1)
    probabilities = torch.softmax(logits.double(), -1)[torch.arange(len(tokens)), torch.tensor(tokens)]
    return [
        {"rs_logit": float(d), "rs_centred": float(c), "rs_prob": float(p), "rank_old": float(r)}
        for d, c, p, r in zip(old_logits, centred, probabilities, ranks)
    ]
