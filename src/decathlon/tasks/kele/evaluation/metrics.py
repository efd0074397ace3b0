"""From evaluated cases to the numbers of a table. Pure Python: no model, no files."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any

Row = Mapping[str, Any]
_NUMBERS = ("logp_old", "logp_new", "rs_logit", "rs_centred", "rs_prob", "rank_old")


def normalise(text: str) -> str:
    """An answer in the form in which answers are compared: case, spaces and a final full stop do not count."""
    return " ".join(text.casefold().split()).rstrip(".").strip()


def matches(generated: str, answers: Iterable[str]) -> bool:
    """Whether a generated answer is one of ``answers`` (MQuAKE's rule: equality with the answer or an alias)."""
    said = normalise(generated)
    return any(said == normalise(answer) for answer in answers)


def begins_with(generated: str, answers: Iterable[str]) -> bool:
    """Whether a generated answer is or begins with one of ``answers`` (whole words)."""
    said = normalise(generated)
    for answer in map(normalise, answers):
        if answer and said.startswith(answer) and not said[len(answer) : len(answer) + 1].isalnum():
            return True
    return False


def judged(said: str, new: Iterable[str], old: Iterable[str]) -> dict[str, Any]:
    """A generated answer with the comparisons that count: ``new`` and ``old`` are the accepted answers.

    Without an old answer nothing is said of one.
    """
    new, old = list(new), list(old)
    entry: dict[str, Any] = {"said": said, "said_new": matches(said, new)}
    if old:
        entry["said_old"] = matches(said, old)
    return {**entry, "prefix_new": begins_with(said, new)}


def recalled(edit: Mapping[str, Any]) -> bool | None:
    """Whether an evaluated edit is recalled: token by token after its prompt, or in answer to its question.

    None if neither was asked.
    """
    return edit.get("greedy_new", edit.get("said_new"))


def broken(row: Row) -> bool:
    """Whether an edit ruined the model: some log-probability or residue of the case is not finite (null in a file)."""
    for group in ("edits", "paraphrases", "neighbours", "questions"):
        for entry in row.get(group) or []:
            for name in _NUMBERS:
                if name in entry and (entry[name] is None or not math.isfinite(entry[name])):
                    return True
    return False


def partial_ratio(needle: str, text: str) -> float:
    """How well the shorter of two strings fits somewhere in the longer one, from 0 to 100."""
    short, long = sorted((normalise(needle), normalise(text)), key=len)
    if not short:
        return 100.0 if not long else 0.0
    blocks = SequenceMatcher(None, long, short, autojunk=False).get_matching_blocks()
    windows = [long[max(0, block.a - block.b) :][: len(short)] for block in blocks]
    return 100 * max(SequenceMatcher(None, window, short, autojunk=False).ratio() for window in windows)


def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean; 0 if any value is 0. The score S of the ROME paper is that of ES, PS and NS."""
    if min(values) <= 0:
        return 0.0
    return len(values) / sum(1 / value for value in values)


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean over cases: 1.96 standard errors; 0 for a single case."""
    return 1.96 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def ngram_entropy(tokens: Sequence[Any]) -> float:
    """Fluency (ROME paper): weighted mean of the bi-gram (2/3) and tri-gram (4/3) entropies of a text, in bits."""
    total = 0.0
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        size = sum(counts.values())
        total += weight * -sum(c / size * math.log2(c / size) for c in counts.values())
    return total / 2


def quartiles(rows: Sequence[Row], by: str, what: str) -> list[float]:
    """Mean of ``what`` in the four quarters of the cases sorted by ``by``, ascending; fewer cases: fewer numbers.

    The motivation figure: by = ``rs_prob``, what = ``rev`` (share of questions answered as before the edit).
    """
    pairs = sorted((row["metrics"][by], row["metrics"][what]) for row in rows if {by, what} <= row["metrics"].keys())
    count = min(4, len(pairs))
    bounds = [round(i * len(pairs) / count) for i in range(count + 1)] if count else [0]
    return [fmean(value for _, value in pairs[a:b]) for a, b in pairwise(bounds)]


def case_metrics(row: Row) -> dict[str, float]:
    """The numbers of one evaluated case, each a mean over its prompts.

    ``es``/``ps``: P(new) > P(old) on the edited and on paraphrased prompts; ``em``/``pm``: by how much; ``es_acc``/
    ``ps_acc``: every token of the new answer is the arg-max. ``ns``, ``nm``, ``ns_acc``: the same for the old answer
    about neighbours. ``instance_wise``: all edits of the case are recalled. ``ss``: other facts about the subject
    still hold. ``mh`` and ``mh_any``: share of the questions answered with the new answer, and whether any is;
    ``mh_prefix``: begins with it; ``rev``, ``rev_any``: the same for the old answer; ``mhp``, ``mhp_any``: P(new) >
    P(old) for questions. ``rs_*``: residual old knowledge, ``rank_old``: rank of the old answer (1 = top).

    What was not asked is absent: a method that changes no weight has no probabilities and no residue of its own.

    A case that is ``broken`` has failed as a whole, whatever its texts say: every share of successes among these is 0.
    Of ``rev``, which is no success, the texts decide. Magnitudes (``em``, ``pm``, ``nm``) and residue are absent.
    """
    out: dict[str, float] = {}
    failed = broken(row)
    for group, success, magnitude, accuracy, sign in (
        ("edits", "es", "em", "es_acc", 1),
        ("paraphrases", "ps", "pm", "ps_acc", 1),
        ("neighbours", "ns", "nm", "ns_acc", -1),
    ):
        probes = [probe for probe in row.get(group) or [] if "logp_new" in probe]
        both = [probe for probe in probes if "logp_old" in probe]
        if probes and failed:
            out |= {success: 0.0, accuracy: 0.0} if both else {accuracy: 0.0}
        elif probes and not both:
            out[accuracy] = fmean(probe["greedy_new"] for probe in probes)  # an old answer is not known
        elif probes:
            gains = [sign * (math.exp(probe["logp_new"]) - math.exp(probe["logp_old"])) for probe in both]
            # Log-probabilities decide: two tiny probabilities may be equal as floats.
            wins = [sign * (probe["logp_new"] - probe["logp_old"]) > 0 for probe in both]
            out |= {success: fmean(wins), magnitude: fmean(gains)}
            out[accuracy] = fmean(probe["greedy_new" if sign > 0 else "greedy_old"] for probe in probes)
    edits = row["edits"]
    found = [recalled(edit) for edit in edits]
    if None not in found:
        out["instance_wise"] = float(all(found) and not failed)
    for name in ("rs_logit", "rs_centred", "rs_prob", "rank_old"):
        if not failed and all(name in edit for edit in edits):
            out[name] = fmean(edit[name] for edit in edits)
    if row.get("same_subject"):
        out["ss"] = 0.0 if failed else fmean(fact["greedy"] for fact in row["same_subject"])
    questions = row.get("questions") or []
    for key, mean, any_of in (
        ("said_new", "mh", "mh_any"),
        ("said_old", "rev", "rev_any"),
        ("prefix_new", "mh_prefix", "mh_prefix_any"),
        ("likelier_new", "mhp", "mhp_any"),
        ("fuzzy_new", "mh_fuzzy", "mh_fuzzy_any"),
    ):
        answers = [question[key] for question in questions if key in question]
        if answers and failed and key != "said_old":
            out |= {mean: 0.0, any_of: 0.0}
        elif answers:
            out |= {mean: fmean(answers), any_of: float(any(answers))}
    if "fluency" in row:
        out["fluency"] = row["fluency"]
    return out


def aggregate(rows: Sequence[Row]) -> dict[str, float]:
    """Means over cases, with 95 % half-widths (``*_ci``), per number of hops (``*_hops2``) and edits (``*_edits1``).

    ``edit_wise`` is the share of all edited facts recalled, ``score`` the harmonic mean of ES, PS and NS,
    ``rank_old_median`` the median of the ranks. ``seconds`` and ``bytes`` are per edit. ``failed`` is the number of
    ``broken`` cases, and absent if there is none; they count in every share and in no magnitude, residue or rank.

    Raises:
        ValueError: without rows.
    """
    if not rows:
        raise ValueError("no case was evaluated")
    out: dict[str, float] = {"cases": float(len(rows)), "edits": float(sum(len(row["edits"]) for row in rows))}
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    for name in names:
        values = [row["metrics"][name] for row in rows if name in row["metrics"]]
        out[name] = fmean(values)
        out[f"{name}_ci"] = half_width(values)
    for name in {"mh", "mh_any", "mhp", "mhp_any", "rev", "mh_prefix_any", "mh_fuzzy_any"} & names.keys():
        for label, size in (("hops", lambda row: row["hops"]), ("edits", lambda row: len(row["edits"]))):
            sizes = sorted({size(row) for row in rows})
            for value in sizes if len(sizes) > 1 else []:
                group = [row["metrics"][name] for row in rows if size(row) == value and name in row["metrics"]]
                if group:
                    out[f"{name}_{label}{value}"] = fmean(group)
    failed = [broken(row) for row in rows]
    if any(failed):
        out["failed"] = float(sum(failed))
    edits = [(edit, bad) for row, bad in zip(rows, failed) for edit in row["edits"]]
    found = [float(hit and not bad) for hit, bad in ((recalled(edit), bad) for edit, bad in edits) if hit is not None]
    if found:
        out["edit_wise"] = fmean(found)
    ranks = [edit["rank_old"] for edit, bad in edits if "rank_old" in edit and not bad]
    if ranks:
        out["rank_old_median"] = float(median(ranks))
    if {"es", "ps", "ns"} <= out.keys():
        out["score"] = harmonic_mean([out["es"], out["ps"], out["ns"]])
    for name in ("seconds", "bytes"):
        out[name] = sum(row[name] for row in rows) / out["edits"]
    return dict(sorted(out.items()))
