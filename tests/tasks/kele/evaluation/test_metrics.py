"""Numbers of a table: closed forms, published values, and models that always say the same."""

import math
from typing import Any

import pytest

from decathlon.tasks.kele.evaluation import protocol as evaluation
from decathlon.tasks.kele.evaluation.metrics import (
    aggregate,
    begins_with,
    case_metrics,
    half_width,
    harmonic_mean,
    matches,
    ngram_entropy,
    normalise,
    partial_ratio,
    quartiles,
)


@pytest.mark.parametrize(("parts", "score"), [((100, 96.4, 75.4), 89.2), ((99.9, 99.1, 78.9), 91.5), ((50, 0, 80), 0)])
def test_score_is_the_harmonic_mean_of_the_rome_table(parts: tuple[float, ...], score: float) -> None:
    assert harmonic_mean(parts) == pytest.approx(score, abs=0.1)


def test_half_width_is_that_of_a_share() -> None:
    values = [1.0] * 30 + [0.0] * 70
    assert half_width(values) == pytest.approx(1.96 * math.sqrt(0.3 * 0.7 / 99), rel=1e-12)
    assert half_width([0.4]) == 0


def test_matching() -> None:
    assert normalise("  Washington,  D.C. ") == normalise("washington, d.c")
    assert matches(" the U.S.", ["United States", "The U.S."]) and not matches("Paris, France", ["Paris"])
    assert begins_with("Paris, France", ["Paris"]) and not begins_with("Parisian", ["Paris"])
    assert not matches("", ["Paris"]) and not begins_with("", ["Paris"])


def test_partial_ratio() -> None:
    assert partial_ratio("Paris", "I think it is Paris, of course") == 100
    assert partial_ratio("Lagos", "Paris") < 70
    assert partial_ratio("", "") == 100 and partial_ratio("", "x") == 0
    assert 70 <= partial_ratio("Kolinda Grabar-Kitarović", "it is kolinda grabar-kitarovic today") < 100


def test_ngram_entropy_of_known_texts() -> None:
    assert ngram_entropy(["a"] * 10) == 0
    distinct = list(range(9))  # eight bi-grams, seven tri-grams, all different
    assert ngram_entropy(distinct) == pytest.approx((2 / 3 * 3 + 4 / 3 * math.log2(7)) / 2)


def probe(old: float, new: float, top: str = "new") -> dict[str, Any]:
    return {
        "prompt": "p", "old": "o", "new": "n", "logp_old": math.log(old), "logp_new": math.log(new),
        "greedy_old": top == "old", "greedy_new": top == "new",
    }  # fmt: skip


RESIDUE = {"rs_logit": 2.0, "rs_centred": 3.0, "rs_prob": 0.25, "rank_old": 4.0}


def row(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "id": "1",
        "hops": 2,
        "edits": [probe(0.2, 0.6) | RESIDUE],
        "paraphrases": [probe(0.2, 0.6), probe(0.6, 0.1, "old")],
        "neighbours": [probe(0.7, 0.1, "old"), probe(0.3, 0.2, "neither"), probe(0.1, 0.5), probe(0.5, 0.1, "old")],
        "same_subject": [{"greedy": True}, {"greedy": False}],
        "questions": [
            {"said_new": True, "said_old": False, "prefix_new": True, "likelier_new": True},
            {"said_new": False, "said_old": True, "prefix_new": False, "likelier_new": True},
            {"said_new": False, "said_old": False, "prefix_new": True, "likelier_new": False},
        ],
        "seconds": 4.0,
        "bytes": 100,
    }
    base |= changes
    base["metrics"] = case_metrics(base)
    return base


def test_numbers_of_one_case() -> None:
    m = row()["metrics"]
    assert (m["es"], m["ps"], m["ns"], m["ss"]) == (1, 0.5, 0.75, 0.5)
    assert (m["es_acc"], m["ps_acc"], m["ns_acc"]) == (1, 0.5, 0.5)
    assert m["em"] == pytest.approx(0.4) and m["pm"] == pytest.approx((0.4 - 0.5) / 2)
    assert m["nm"] == pytest.approx((0.6 + 0.1 - 0.4 + 0.4) / 4)
    assert m["mh"] == pytest.approx(1 / 3) and m["mh_any"] == 1
    assert m["rev"] == pytest.approx(1 / 3) and m["rev_any"] == 1
    assert m["mhp"] == pytest.approx(2 / 3) and m["mh_prefix"] == pytest.approx(2 / 3)
    assert m["rs_prob"] == 0.25 and m["rank_old"] == 4


def test_means_over_cases_by_hops_and_edits() -> None:
    wrong = [{"said_new": False, "said_old": True, "prefix_new": False, "likelier_new": False}]
    two = [probe(0.2, 0.6) | RESIDUE, probe(0.6, 0.2, "old") | RESIDUE | {"rank_old": 1.0}]
    out = aggregate([row(), row(id="2", hops=3, edits=two, questions=wrong)])
    assert out["cases"] == 2 and out["edits"] == 3
    assert out["edit_wise"] == pytest.approx(2 / 3) and out["instance_wise"] == 0.5
    assert out["es"] == pytest.approx(0.75)  # a mean over cases, as its interval is
    assert out["mh_any"] == 0.5 and out["mh_any_hops2"] == 1 and out["mh_any_hops3"] == 0
    assert out["mh_any_edits1"] == 1 and out["mh_any_edits2"] == 0
    assert out["rev"] == pytest.approx((1 / 3 + 1) / 2)
    assert out["seconds"] == pytest.approx(8 / 3) and out["bytes"] == pytest.approx(200 / 3)
    assert out["score"] == pytest.approx(harmonic_mean([0.75, 0.5, 0.75]))
    assert out["rank_old_median"] == 4


@pytest.mark.parametrize("value", [None, math.nan, -math.inf])
def test_a_case_with_a_number_that_is_not_finite_has_failed(value: float | None) -> None:
    sound = row()
    for group, change in (
        ("edits", {"logp_new": value}),
        ("edits", {"rs_prob": value}),
        ("neighbours", {"logp_old": value}),
    ):
        bad = row(id="2", **{group: [probe(0.2, 0.6) | RESIDUE | change]})
        m = bad["metrics"]
        for name in ("es", "ps", "ns", "es_acc", "instance_wise", "ss", "mh", "mh_any", "mhp", "mh_prefix"):
            assert m[name] == 0
        assert m["rev"] == pytest.approx(1 / 3)  # of the texts, as ever
        assert not {"em", "pm", "nm", "rs_prob", "rank_old"} & m.keys()
        out = aggregate([sound, bad])
        assert all(math.isfinite(number) for number in out.values())
        assert out["failed"] == 1 and out["es"] == 0.5 and out["edit_wise"] == 0.5 and out["ns"] == 0.375
        assert out["em"] == sound["metrics"]["em"] and out["rs_prob"] == 0.25 and out["rank_old_median"] == 4
        alone = aggregate([bad])
        assert alone["score"] == 0 and "em" not in alone and "rank_old_median" not in alone
    assert "failed" not in aggregate([sound])


def test_without_cases_there_is_no_table() -> None:
    with pytest.raises(ValueError, match="no case was evaluated"):
        aggregate([])


def test_quartiles_sort_by_residue() -> None:
    rows = [{"metrics": {"rs_prob": x / 10, "rev": float(x > 5)}} for x in (9, 1, 8, 2, 7, 3, 6, 4)]
    assert quartiles(rows, "rs_prob", "rev") == [0, 0, 1, 1]
    assert quartiles(rows[:2], "rs_prob", "rev") == [0, 1]
    assert quartiles([], "rs_prob", "rev") == [] == quartiles(rows, "rs_prob", "mh")


@pytest.mark.parametrize(("said", "mh", "rev"), [("new", 1, 0), ("old", 0, 1), ("other", 0, 0)])
def test_a_model_that_always_says_the_same(monkeypatch: pytest.MonkeyPatch, said: str, mh: int, rev: int) -> None:
    import torch

    from decathlon.language import Scores
    from decathlon.tasks.kele.cases import Case, Question
    from decathlon.tasks.kele.edit import Edit

    case = Case(
        "1",
        (Edit(prompt="{} is in", subject="Rome", old="Italy", new="Spain"),),
        questions=tuple(Question(f"q{i}", ("Madrid", "Villa"), ("Roma", "Urbs")) for i in range(3)),
        hops=2,
    )
    words = {"new": " villa\n", "old": " URBS.", "other": " Oslo"}[said]
    likely = {"new": " Madrid", "old": " Roma", "other": None}[said]

    def score(model: Any, tokenizer: Any, prompts: list[str], answers: list[str], bos: str) -> Scores:
        mean = torch.tensor([0.0 if answer == likely else -1.0 for answer in answers])
        return Scores(mean, mean, torch.ones(len(answers)), mean == 0)

    monkeypatch.setattr(evaluation, "score", score)
    monkeypatch.setattr(evaluation, "generate", lambda model, tokenizer, prompts, *rest, **more: [words] * len(prompts))
    monkeypatch.setattr(evaluation, "residual", lambda *args: [dict(RESIDUE)])
    protocol = evaluation.Protocol("generate+prob+fuzzy", "few_shot", "Q: a A: b")
    row = evaluation.evaluate(None, None, case, protocol)
    assert row["metrics"]["mh"] == row["metrics"]["mh_any"] == mh
    assert row["metrics"]["rev"] == row["metrics"]["rev_any"] == rev
    assert row["metrics"]["mhp"] == mh
    assert row["metrics"]["mh_fuzzy"] == mh


def test_prompts_of_the_protocols() -> None:
    few = evaluation.Protocol(demonstrations="Q: a A: b\n")
    assert few.prompt("Where?") == "Q: a A: b\nQ: Where? A:"
    cot = evaluation.Protocol(prompting="cot", demonstrations="Question: a\nThoughts: t\nAnswer: b")
    assert cot.prompt("Where?").endswith("Answer: b\n\nQuestion: Where?\nThoughts:")
    assert evaluation.Protocol(prompting="none").prompt("the capital of") == "the capital of"


def test_a_chain_of_thought_is_read_after_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" It is far.\nAnswer: Oslo\nmore", " I do not know"]
    monkeypatch.setattr(evaluation, "generate", lambda *args, **more: texts)
    assert evaluation.Protocol(prompting="cot").answers(None, None, ["a", "b"]) == ["Oslo", ""]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "guess"}, "multihop_mode=guess is none of generate, prob, fuzzy"),
        ({"prompting": "chat"}, "prompting=chat is none of"),
        ({"max_new_tokens": 0}, "at least 1"),
    ],
)
def test_bad_protocols(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation.Protocol(**options)
