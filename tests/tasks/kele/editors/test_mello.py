"""MeLLo: the conversation played from a script, the memory, what is evaluated, and a run on a tiny random LLaMA."""

import json
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from decathlon.errors import ConfigError, DataError
from decathlon.language import tiny_model, word_tokenizer
from decathlon.rows import read_rows
from decathlon.runner.catalog import CONFIGS
from decathlon.runner.compose import compose_config
from decathlon.runner.execute import construct
from decathlon.runner.job import Job
from decathlon.tasks.kele import Edit, Mello
from decathlon.tasks.kele.cases import Case, Question
from decathlon.tasks.kele.data.datamodule import EditCases
from decathlon.tasks.kele.editors import mello as mello_file
from decathlon.tasks.kele.editors.mello_dialogue import DEMONSTRATIONS, Dialogue, converse, sentence
from decathlon.tasks.kele.editors.mello_memory import Encoder, Memory, OwnStates
from decathlon.tasks.kele.evaluation.metrics import aggregate
from decathlon.tasks.kele.evaluation.protocol import Protocol, evaluate
from decathlon.tasks.kele.module import EditEvaluation
from tests.tasks.kele.common import metrics_of

METHOD = yaml.safe_load((CONFIGS / "methods/kele/mello.yaml").read_text())
ANN = Edit("{} is a citizen of", "Ann", "France", "Italy")
ITALY = Edit("The capital of {} is", "Italy", "Rome", "Milan")
BOB = Edit("{} is a citizen of", "Bob", "Spain", "Peru")
_TEXT = "Ann Bob Italy Spain Peru is a citizen of The capital Which What city country ."
WORDS = sorted(_TEXT.split())

# What the model says after the last lines of a text: two hops, an answer at once, and a model that never ends.
SCRIPT = {
    "Question: Capital of the country of Ann?\nSubquestion:": " Which country is Ann a citizen of?\nTentative answer: "
    "France\n",
    "Retrieved fact: Ann is a citizen of Italy.\nContradiction:": " yes",
    "Answer: Italy\n": "Subquestion: What is the capital of Italy?\nTentative answer: Rome\n",
    "Tentative answer: Rome\nRetrieved fact: The capital of Italy is Milan.\nContradiction:": " Yes, it",
    "Answer: Milan\n": "Final answer: Milan\n\nQuestion: Who",
    "Question: Which country is Bob a citizen of?\nSubquestion:": " Which country is Bob a citizen of?\n"
    "Tentative answer: Peru\n",
    "Retrieved fact: Bob is a citizen of Peru.\nContradiction:": " no",
    "Answer: Peru\n": "Final answer: Peru",
    "Question: And then?\nSubquestion:": " What is the capital of Italy?\nTentative answer: Turin\n",
    "Tentative answer: Turin\nRetrieved fact: The capital of Italy is Milan.\nContradiction:": " no",
    "Answer: Turin\n": "Subquestion: What is the capital of Italy?\nTentative answer: Turin\n",
    "Question: Off the form?\nSubquestion:": " I cannot tell.",
}


class Model:
    """Plays ``SCRIPT`` and notes how many texts it was given in each call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, model: Any, tokenizer: Any, prompts: list[str], tokens: int, stop: list[str], bos: str) -> Any:
        self.calls.append(len(prompts))
        return [self.say(prompt, stop) for prompt in prompts]

    def say(self, prompt: str, stop: list[str]) -> str:
        assert prompt.startswith(DEMONSTRATIONS.rstrip() + "\n\nQuestion: ")
        (said,) = [said for end, said in SCRIPT.items() if prompt.endswith(end)]
        cuts = [said.find(mark) for mark in stop if mark in said]
        return said[: min(cuts)] if cuts else said


def bag(texts: Any) -> torch.Tensor:
    """Counts of the words: the text with most words in common is the closest."""
    found = [re.findall(r"\w+", text) for text in texts]
    return torch.tensor([[float(words.count(word)) for word in WORDS] for words in found])


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(mello_file, "generate", model)
    return model


def editor(**options: Any) -> Mello:
    made = Mello(tiny_model("llama", len(WORDS) + 2), word_tokenizer(WORDS), **options)
    made.embed = bag
    return made


def test_facts_replace_what_they_contradict(played: Model) -> None:
    made = editor()
    with made.apply([ANN, ITALY, BOB]):
        ((answer, text),) = made.answers(["Capital of the country of Ann?"])
    assert answer == "Milan"
    assert text.splitlines() == [
        "Question: Capital of the country of Ann?",
        "Subquestion: Which country is Ann a citizen of?",
        "Tentative answer: France",
        "Retrieved fact: Ann is a citizen of Italy.",  # of three facts the right one
        "Contradiction: yes",
        "Answer: Italy",
        "Subquestion: What is the capital of Italy?",
        "Tentative answer: Rome",
        "Retrieved fact: The capital of Italy is Milan.",
        "Contradiction: yes",
        "Answer: Milan",
        "Final answer: Milan",
    ]


def test_questions_at_different_hops_advance_together(played: Model) -> None:
    made = editor(max_hops=3)
    questions = ["Capital of the country of Ann?", "Which country is Bob a citizen of?", "And then?", "Off the form?"]
    with made.apply([ANN, ITALY, BOB]):
        together = made.answers(questions)
        # Steps of all four, verdicts of three; Bob's ends with its second step, Ann's with her third.
        assert played.calls == [4, 3, 3, 2, 2, 1, 1]
        assert [made.answers([question])[0] for question in questions] == together
    # An agreeing fact changes nothing; a conversation without end or form has no answer.
    assert [answer for answer, _ in together] == ["Milan", "Peru", "", ""]
    assert "Contradiction: no\nAnswer: Peru\nFinal answer: Peru" in together[1][1]
    assert together[2][1].count("Answer: Turin") == 3 and together[3][1].endswith("I cannot tell.")


def test_without_facts_the_tentative_answers_stand(played: Model) -> None:
    made = editor()
    ((answer, text),) = made.answers(["Which country is Bob a citizen of?"])  # nothing applied
    assert answer == "Peru" and "Retrieved" not in text and "Contradiction" not in text
    with made.apply([]):
        assert made.answers(["Which country is Bob a citizen of?"]) == [(answer, text)]
    assert made.answers([]) == []


@pytest.mark.parametrize(
    "said", ["", " Who?", " Who?\nFinal answer: x", "\nTentative answer: y", " \nTentative answer:"]
)
def test_a_step_needs_a_subquestion_and_an_answer(said: str) -> None:
    talk = Dialogue("q")
    talk.step(said)
    assert not talk.open and talk.answer == ""
    (talk,) = converse(["q"], lambda texts, stop, tokens: [said] * len(texts), lambda asked: [None], 2, 9)
    assert talk.answer == "" and talk.text == "Question: q\nSubquestion:" + said


HOP = r"Subquestion: .+\nTentative answer: (.+)\nRetrieved fact: (.+)\.\nContradiction: (yes|no)\nAnswer: (.+)\n"


def test_the_demonstrations_have_the_form_of_the_conversation(played: Model) -> None:
    _, *shown = DEMONSTRATIONS.rstrip().split("\n\n")
    assert len(shown) == 4
    made = editor()
    with made.apply([ANN, ITALY, BOB]):
        shown += [text for _, text in made.answers(["Capital of the country of Ann?"])]
    for text in shown:
        assert re.fullmatch(rf"Question: .+\n({HOP})+Final answer: .+", text)
        for tentative, fact, verdict, answer in re.findall(HOP, text):
            assert fact.endswith(answer) if verdict == "yes" else answer == tentative
            assert (verdict == "no") == (answer == tentative)
        assert text.endswith(f"Answer: {answer}\nFinal answer: {answer}")


def test_whose_facts_are_in_the_memory(played: Model) -> None:
    other = Edit(ANN.prompt, "Ann", "France", "Peru")  # another case changes the same fact otherwise
    for memory, found in (("case", {ANN}), ("all", {ANN, ITALY, BOB})):
        made = editor(memory=memory)
        made.remember([other, ITALY, BOB])
        mine, nothing = made.prepare([[ANN], []])
        with made.applied(mine):
            assert set(made._open.edits) == found
            with made.applied(nothing):
                assert set(made._open.edits) == (set() if memory == "case" else {other, ITALY, BOB})
            assert set(made._open.edits) == found
        assert made._open.edits == ()
        assert mine.nbytes == len(sentence(ANN)) + 4 * len(WORDS) and nothing.nbytes == 0
        assert mine.notes == [{"fact": "Ann is a citizen of Italy."}] and mine.seconds > 0 and not mine.deltas
    with pytest.raises(ValueError, match="the memory is empty"):
        Memory().nearest(bag(["Ann"]))


def test_no_weight_changes(played: Model) -> None:
    made = editor()
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    with pytest.raises(RuntimeError), made.apply([ANN, ITALY]):
        made.answers(["Capital of the country of Ann?"])
        assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
        raise RuntimeError
    assert made._open.edits == ()
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())


def test_embeddings_do_not_depend_on_the_batch_and_leave_the_separator_out(tmp_path: Path) -> None:
    net, tok = tiny_model("gpt2", len(WORDS) + 3), word_tokenizer([*WORDS, "<|endoftext|>"])
    texts = ["Ann is a citizen of Italy .", "Bob", "The capital of Peru is a city"]
    own = OwnStates(net, tok)
    made = own(texts)
    assert made.shape == (3, 32) and own([]).shape == (0, 0)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(3))
    for text, vector in zip(texts, made):
        torch.testing.assert_close(own([text])[0], vector, rtol=1e-5, atol=1e-6)
        ids = torch.tensor([tok("<|endoftext|> " + text)["input_ids"]])
        mean = net.base_model(ids).last_hidden_state[0, 1:].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), rtol=1e-5, atol=1e-6)
    # An encoder is pooled over all of its tokens and not normalised.
    net.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    got = Encoder(str(tmp_path))(texts)
    for text, vector in zip(texts, got):
        hidden = net.base_model(torch.tensor([tok(text)["input_ids"]])).last_hidden_state[0]
        torch.testing.assert_close(vector, hidden.mean(0), rtol=1e-5, atol=1e-6)
    assert Mello(net, tok, encoder=str(tmp_path)).embed(["Bob"]).shape == (1, 32)
    with pytest.raises(DataError, match=r"the encoder .*absent is neither a folder with a model nor") as error:
        Encoder(str(tmp_path / "absent"))
    assert "\n" not in str(error.value)


def test_conversations_that_outgrow_learned_positions_end() -> None:
    net = tiny_model("gpt2", len(WORDS) + 2)  # 128 positions: less than the demonstrations
    assert Mello(net, word_tokenizer(WORDS)).answers(["Bob?"]) == [("", "Question: Bob?\nSubquestion:")]


def case() -> Case:
    questions = ("Capital of the country of Ann?", "Off the form?")
    return Case(
        "1",
        (ANN, BOB),
        questions=tuple(Question(text, ("milan", "Milano"), ("Paris",)) for text in questions),
        hops=2,
        edit_questions=(
            Question("And then?", ("Italy",), ("France",)),
            Question("Which country is Bob a citizen of?", ("Republic of Peru", "Peru"), ("Spain",)),
        ),
    )


def test_metrics_are_those_of_the_answers_and_no_others(played: Model) -> None:
    made = editor()
    protocol = Protocol("generate+prob+fuzzy", answerer=made.answers)
    with made.apply([ANN, ITALY, BOB]):
        row = evaluate(None, None, case(), protocol)  # the weights are not asked
    assert played.calls[0] == 4  # edits and questions side by side
    expected = {"mh": 0.5, "mh_any": 1, "mh_prefix": 0.5, "mh_prefix_any": 1, "rev": 0, "rev_any": 0}
    assert row["metrics"] == expected | {"instance_wise": 0}
    assert [edit["said"] for edit in row["edits"]] == ["", "Peru"]
    assert row["questions"][0]["conversation"].endswith("Final answer: Milan")
    numbers = aggregate([row | {"seconds": 1.0, "bytes": 8}])
    assert numbers["edit_wise"] == 0.5 and numbers["mh"] == 0.5
    assert not any(name.startswith(("es", "em", "rs_", "rank_", "mhp", "mh_fuzzy", "score")) for name in numbers)
    bare = Case("2", (ANN,), questions=case().questions, hops=2)
    with made.apply([ANN, ITALY]):
        row = evaluate(None, None, bare, protocol) | {"seconds": 1.0, "bytes": 8}
    assert row["metrics"] == expected and "edit_wise" not in aggregate([row])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "batch"}, "memory=batch is unknown; choose case or all"),
        ({"max_hops": 0}, "max_hops=0 must be at least 1"),
        ({"tokens": 0}, "tokens=0 must be at least 1"),
        ({"lr": 1}, "Mello has no option lr; choose "),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        editor(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [],
            "method=mello asks by prompts, which model=world does not follow; choose a dataset with a pretrained model",
        ),
        (["dataset=mquake_smol", "method.memory=batch"], "method=mello: memory=batch is unknown"),
        (["dataset=mquake_smol", "multihop_mode=prob"], "method=mello generates its answers: multihop_mode must"),
    ],
)
def test_what_a_user_may_type(overrides: list[str], message: str, tmp_path: Path) -> None:
    cfg = compose_config(["task=kele", "method=mello", *overrides, f"data_dir={tmp_path}", f"results_dir={tmp_path}"])
    with pytest.raises(ConfigError, match=message) as error:
        construct(Job.of(cfg).config)
    assert "\n" not in str(error.value)


def record(index: int) -> dict[str, Any]:
    rewrite = {"prompt": "{} is a citizen of", "subject": "Ann", "question": "Which country is Ann a citizen of ?"}
    old, new = ("Spain", "Peru"), ("Italy", "Milan")
    chains = [
        [
            {"question": rewrite["question"], "answer": country, "answer_alias": [f"{country} of old"]},
            {"question": f"Capital of {country} ?", "answer": city, "answer_alias": []},
        ]
        for country, city in (old, new)
    ]
    return {
        "case_id": index,
        "requested_rewrite": [rewrite | {"target_true": {"str": old[0]}, "target_new": {"str": new[0]}}],
        "questions": [f"{word} capital of the country of Ann ?" for word in ("Which", "What", "Name")],
        "answer": old[1], "answer_alias": [], "new_answer": new[1], "new_answer_alias": [],
        "single_hops": chains[0], "new_single_hops": chains[1],
        "orig": {"triples": [["Q1", "P27", "Q2"], ["Q2", "P36", "Q3"]]},
    }  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "MQuAKE-T.json").write_text(json.dumps([record(1), record(2)]))
    tokenizer = word_tokenizer(sorted({*WORDS, *DEMONSTRATIONS.split()}))
    tiny_model("llama", len(tokenizer), positions=1024).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    return folder


def run(root: Path, folder: Path, **options: Any) -> dict[str, float]:
    data = EditCases(str(root), {"name": "t", "source": "mquake", "version": "t"}, str(root / "llama"), batch_size=1)
    module = EditEvaluation(str(root), METHOD | options, str(root / "llama"), prompting="none", corpus="absent.txt")
    return metrics_of(module, data, folder)


@pytest.mark.parametrize("memory", ["case", "all"])
def test_a_run_on_a_tiny_random_llama(root: Path, tmp_path: Path, memory: str) -> None:
    metrics = run(root, tmp_path / "job", memory=memory, encoder=str(root / "llama"), tokens=6, max_hops=2)
    assert metrics["test/cases"] == 2 and metrics["test/bytes"] > 0 and metrics["test/seconds"] > 0
    for name in ("mh", "mh_any", "rev", "edit_wise", "instance_wise"):
        assert metrics[f"test/{name}"] == 0  # a random model keeps no form
    assert not any(name.startswith(("test/es", "test/rs_", "test/rank")) for name in metrics)
    rows = read_rows(tmp_path / "job")
    assert all(question["conversation"].startswith("Question: ") for row in rows for question in row["questions"])
    assert rows[0]["notes"] == [{"fact": "Ann is a citizen of Italy."}]
    assert all(len(row["questions"]) == 3 and row["edits"][0]["said"] == "" for row in rows)


def test_a_run_that_is_played(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(model: Any, tokenizer: Any, prompts: list[str], tokens: int, stop: list[str], bos: str) -> list[str]:
        ends = {
            "Subquestion:": " Where is Ann from?\nTentative answer: Spain\n",
            "Contradiction:": " yes",
            "Answer: Italy\n": "Final answer: Italy of old.",
        }
        return [next(said for end, said in ends.items() if prompt.endswith(end)) for prompt in prompts]

    monkeypatch.setattr(mello_file, "generate", say)
    metrics = run(root, tmp_path / "job")
    assert metrics["test/edit_wise"] == metrics["test/instance_wise"] == 1 and metrics["test/mh"] == 0


def test_a_dataset_without_questions_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "counterfact.json").write_text(
        json.dumps([{"case_id": 1, "prompt": "Ann is a citizen of", "subject": "Ann", "target_new": "Italy",
                     "ground_truth": "Spain", "rephrase_prompt": "Ann is of", "locality_prompt": "Bob is of",
                     "locality_ground_truth": "Spain"}])
    )  # fmt: skip
    data = EditCases(str(root), {"name": "cf", "source": "counterfact"}, str(root / "llama"))
    module = EditEvaluation(str(root), METHOD, str(root / "llama"), prompting="none")
    trainer = L.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ConfigError, match="method=mello answers questions, and this dataset has none"):
        trainer.test(module, data, verbose=False)
