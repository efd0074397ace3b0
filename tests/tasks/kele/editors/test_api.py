"""The five lines, bad requests, options, presets, contexts, and where the subject ends."""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from decathlon.build import build
from decathlon.errors import ConfigError
from decathlon.language import tiny_model, word_tokenizer
from decathlon.tasks.kele import AlphaEdit, Edit, Emmet, FineTune, Kele, Memit, NoEdit, Rome
from decathlon.tasks.kele.edit import object_text
from decathlon.tasks.kele.editors.configured import check_method
from decathlon.tasks.kele.editors.presets import PRESETS, preset_of, settings
from decathlon.tasks.kele.editors.prompts import sample_contexts, tokenise
from tests.tasks.kele.common import CORPUS, EDITS, FAST, METHODS, WORDS, method_of, model, tokenizer

FIVE_LINES = """
import sys, torch
from decathlon.language import tiny_model, word_tokenizer
assert "decathlon.tasks" not in sys.modules
words = "Paris France Italy is the capital of a".split()
tokenizer = word_tokenizer(words)
model = tiny_model("gpt2", len(tokenizer))
prompt = tokenizer("Paris is the capital of", return_tensors="pt")
before = model(**prompt).logits

from decathlon.tasks.kele import Kele, Edit
editor = Kele(model, tokenizer, layer=1)
with editor.apply([Edit(prompt="{} is the capital of", subject="Paris", old="France", new="Italy")]):
    inside = model(**prompt).logits
    model.generate(**prompt, max_new_tokens=2, do_sample=False, pad_token_id=1)

assert not torch.equal(inside, before) and torch.equal(model(**prompt).logits, before)
assert not {"lightning", "pytorch_lightning", "hydra", "omegaconf"} & set(sys.modules)
"""


def test_the_five_lines_need_neither_lightning_nor_hydra():
    subprocess.run([sys.executable, "-c", FIVE_LINES], check=True, env=os.environ)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("is the capital of", "Paris", "France", "Italy"), r"no slot \{\} and holds the subject 'Paris' not at all"),
        (("Paris or Paris is in", "Paris", "France", "Italy"), "holds the subject 'Paris' 2 times"),
        (("{} and {} in", "Paris", "France", "Italy"), "has 2 slots"),
        (("{} is in", " ", "France", "Italy"), "empty subject"),
        (("{} is in", "Paris", "France", ""), "empty new"),
        (("{} is in", "Paris", "France", "France "), "changes nothing: old and new are both"),
    ],
)
def test_bad_requests_give_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        Edit(*fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (Edit("{} is the capital of", "Atlantis", "France", "Italy"), "Atlantis"),
        (Edit("{} is the capital of", "Paris", "France", "Mu"), "Mu"),
        (Edit("{} is the capital of", "Paris", "Lemuria", "Italy"), "Lemuria"),
        (Edit("{} is the grand capital of", "Paris", "France", "Italy"), "grand"),
    ],
)
@pytest.mark.parametrize("cls", [Kele, FineTune, Memit])
def test_words_that_the_tokenizer_does_not_know(edit, word, cls):
    with pytest.raises(ValueError, match=f"'{word}' in .* is not in the tokenizer's vocabulary"):
        cls(model("gpt2"), tokenizer()).plan([EDITS[0], edit])


def test_a_prompt_with_the_subject_filled_in_is_taken():
    assert Edit("Paris is the capital of", "Paris", "France", "Italy") == EDITS[0]
    assert EDITS[1].text == "the capital is Old Town in" and EDITS[1].text[slice(*EDITS[1].span)] == "Old Town"


def test_bad_options_and_layers():
    net, tok = model("gpt2"), tokenizer()
    with pytest.raises(ValueError, match=r"Kele has no option depht; choose .*alpha"):
        Kele(net, tok, depht=3)
    with pytest.raises(ValueError, match="layer=9 is outside this model's layers 0 to 3"):
        Rome(net, tok, layer=9)
    with pytest.raises(ValueError, match="Rome edits one layer, not 2"):
        Rome(net, tok, layer=(0, 1))
    with pytest.raises(ValueError, match="key_mode=both is unknown; choose rome or r_rome"):
        Rome(net, tok, key_mode="both")
    with pytest.raises(ValueError, match="preset=gpt5 is unknown; choose auto, gpt2-xl"):
        Rome(net, tok, preset="gpt5")
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        Rome(net, tok, steps=0)
    with pytest.raises(ValueError, match="weight=-1 must be positive"):
        Memit(net, tok, weight=-1)
    with pytest.raises(ValueError, match="bos=maybe is unknown"):
        Rome(net, tok, bos="maybe")
    with pytest.raises(ValueError, match="contexts must be texts, or pairs"):
        Rome(net, tok, contexts=["because", (5, 10)]).plan(EDITS[:1])
    with pytest.raises(ValueError, match="a request is a list of Edit, not str"):
        Rome(net, tok).prepare([["edit"]])  # type: ignore[list-item]
    assert Rome(net, tok, bos=False).options.bos == "off"  # YAML's off


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("preset", "family"), [("gpt2-xl", "gpt2"), ("gpt-j-6b", "gptj"), ("llama-2-7b", "llama")])
def test_every_method_runs_with_every_papers_settings(name, preset, family):
    """On a small random model of the same architecture, at layers that it has; steps as in the paper."""
    extra = {} if name in ("none", "mello") else {"preset": preset, "layer": 1}
    if name in ("memit", "pmet", "alphaedit"):
        extra["layer"] = (1, 2)
    if not name.startswith(("none", "ft", "mello")):
        extra |= {"corpus": CORPUS, "contexts": ["because"], "steps": 4}
    if name == "alphaedit":
        extra["threshold"] = 1e6
    editor = build(method_of(name), model(family, "float32"), tokenizer(), **extra)
    updates = editor.prepare([EDITS[:2], EDITS[2:3]])
    assert len(updates) == 2
    for update in updates:
        for delta in update.deltas.values():
            assert torch.isfinite(delta.value if hasattr(delta, "value") else delta.dense()).all()


def test_presets_are_the_papers():
    class Shape:
        def __init__(self, kind, layers, width):
            self.config = type("Config", (), {})()
            self.config.model_type, self.config.num_hidden_layers, self.config.hidden_size = kind, layers, width

    xl, j = Shape("gpt2", 48, 1600), Shape("gptj", 28, 4096)
    assert (preset_of(xl), preset_of(j), preset_of(Shape("gpt2", 4, 32))) == ("gpt2-xl", "gpt-j-6b", None)
    rome = settings(xl, "auto", ("rome", "kele"))
    assert (rome["layer"], rome["lr"], rome["steps"], rome["clamp"], rome["omega"], rome["beta"]) == (
        17, 0.5, 20, 4.0, 0.5, 0.0625,
    )  # fmt: skip
    assert sum(count for _, count in rome["contexts"]) == 20
    assert settings(j, "auto", ("memit", "pmet"))["weight"] == 6000.0
    assert settings(j, "auto", ("memit",))["layer"] == (3, 4, 5, 6, 7, 8)
    assert settings(Shape("llama", 30, 576), "auto", ("rome",))["layer"] == 5
    assert settings(Shape("llama", 12, 64), "auto", ("rome",))["layer"] == 2
    assert set(PRESETS) == {"gpt2-xl", "gpt-j-6b", "llama-2-7b", "smollm2-135m", "world"}


@pytest.mark.parametrize("old", [None, ""])
def test_an_old_object_may_be_left_out(old):
    edit = Edit("{} is the capital of", "Paris", old, "Italy")
    assert edit.old == "" and Rome(model("gpt2"), tokenizer(), 1, **FAST).plan([edit])[0].deltas


def test_spaces_at_the_end_of_a_prompt_and_around_a_subject_are_dropped():
    assert Edit("{} is the capital of  ", " Paris ", "France", "Italy") == EDITS[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ed: ed.prepare(EDITS[:1]), r"prepare takes requests, each a list of Edit: prepare\(\[\[edit\]\]\)"),
        (lambda ed: ed.prepare(EDITS[0]), "prepare takes requests"),
        (lambda ed: ed.plan(EDITS[0]), "plan takes a list of Edit"),
        (lambda ed: ed.apply(EDITS[0]).__enter__(), r"apply takes a list of Edit: apply\(\[edit\]\)"),
        (lambda ed: Edit("{} is", "Paris", "France", 3), "the new of an edit is text, not 3"),
        (lambda ed: Edit("Parisians live in", "Paris", "France", "Italy"), "'Paris' is part of a longer word in"),
        (lambda ed: Edit("{}ville is in", "Paris", "France", "Italy"), "is part of a longer word"),
        (lambda ed: Rome(ed.model, ed.tokenizer, 1.5), "layer=1.5 is neither a whole number"),
        (lambda ed: Rome(ed.model, ed.tokenizer, "1"), "layer='1' is neither a whole number"),
        (lambda ed: Emmet(ed.model, ed.tokenizer, key_mode="rome"), "Emmet has no option key_mode"),
        (lambda ed: AlphaEdit(ed.model, ed.tokenizer, weight=1.0), "AlphaEdit has no option weight"),
        (lambda ed: FineTune(ed.model, ed.tokenizer, corpus=CORPUS), "FineTune has no option corpus; choose"),
        (lambda ed: NoEdit(ed.model, ed.tokenizer, layer=1), "NoEdit has no option layer; choose bos, seed"),
        (lambda ed: Rome(ed.model, ed.tokenizer, moments=ed.moments, ridge=0.1), "ridge would not be used"),
        (lambda ed: ed.plan([Edit("{} " + "a " * 200, "Paris", "", "Italy")]), "is longer than this model's 128 pos"),
    ],
)
def test_what_cannot_be_meant_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(Rome(model("gpt2"), tokenizer(), 1, **FAST))
    assert "\n" not in str(error.value)


def test_layers_of_any_integer_type():
    net, tok = model("gpt2"), tokenizer()
    assert Rome(net, tok, np.int64(2)).layers == [2] == Rome(net, tok, torch.tensor(2).item()).layers
    assert Memit(net, tok, np.array([2, 1])).layers == [1, 2]
    assert Memit(net, tok, preset=None).layers == [0, 1]  # up to five that end a sixth of the way up
    assert Memit(model("gpt2", layers=36), tok, preset=None).layers == [2, 3, 4, 5, 6]


def test_an_editors_signature_says_all_its_options():
    for cls in (Kele, Rome, Emmet, Memit, AlphaEdit, FineTune, NoEdit):
        parameters = inspect.signature(cls).parameters
        assert list(parameters)[:2] == ["model", "tokenizer"] and "seed" in parameters
        assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert inspect.signature(Kele).parameters["steps"].annotation == int | None
    for options, message in (
        ({"steps": "many"}, "method=m: steps=many is no whole number"),
        ({"stesp": 3}, "method=m has no option stesp; choose layer, .*steps"),
        ({"lr": -1.0}, "method=m: lr=-1.0 must be positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_method({"name": "m", "class": "decathlon.tasks.kele.Kele", **options})


@pytest.mark.parametrize(
    ("prompt", "name", "expected"),
    [
        ("Paris is the capital of", "Italy", " Italy"),
        ("巴黎是哪个国家的首都？", "意大利", "意大利"),
        ("パリは", "イタリア", "イタリア"),
        ("ปารีสเป็นเมืองหลวงของ", "อิตาลี", "อิตาลี"),
        ("파리는", "이탈리아", " 이탈리아"),
        ("The capital of Japan is", "東京", " 東京"),
    ],
)
def test_the_space_before_an_object_is_the_scripts(prompt, name, expected):
    assert object_text(prompt, name) == expected
    subject = prompt[:2]
    if not expected.startswith(" "):
        assert Edit(prompt, subject, "", name).span == (0, 2)  # words stand side by side: no longer word


def test_edits_that_did_not_take_are_named(caplog):
    net, tok = model("gpt2"), tokenizer()
    Rome(net, tok, 1, **FAST | {"steps": 1}).plan(EDITS)
    (line,) = [record.getMessage() for record in caplog.records if "not have taken" in record.getMessage()]
    assert line.startswith("4 edits may not have taken: 'Paris is the capital of' -> 'Italy' with P(new) = ")
    assert line.endswith("and 1 more")
    caplog.clear()
    with Rome(net, tok, 1, **FAST | {"steps": 1}).apply(EDITS[:1]):
        pass
    assert "plain generation after 'Paris is the capital of' does not say 'Italy'" in caplog.text
    caplog.clear()
    edit = EDITS[2]
    with FineTune(net, tok, 3, lr=0.02, steps=100, stop=0.1).apply([edit]):
        inputs = tok(edit.text, return_tensors="pt")
        said = net.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=1)
    assert tok.decode(said[0, -1]) == edit.new
    assert "plain generation" not in caplog.text


def test_texts_that_begin_otherwise_than_in_plain_generation_are_said(caplog):
    tok = byte_tokenizer()
    net = tiny_model("gpt2", len(tok))
    edit = Edit("{} is", "Pa", "x", "y")
    for bos, said in (("auto", 1), ("off", 0)):
        caplog.clear()
        editor = Rome(net, tok, 1, bos=bos, contexts=[], steps=2, identity=True)
        editor.plan([edit])
        editor.plan([edit])
        assert caplog.text.count("edits are found behind <|endoftext|>, which this tokenizer does not put") == said


def byte_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("P", "a"), ("Ġ", "P"), ("ĠP", "a"), ("o", "l"), ("a", "r")]
    tokens = ["<|endoftext|>", *alphabet, *(a + b for a, b in merges)]
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def test_subject_is_found_by_characters_wherever_it_stands():
    tok = byte_tokenizer()
    edits = [
        Edit("{} is in", "Pa", "x", "y"),
        Edit("the capital of {} is", "Pola", "x", "y"),
        Edit("the capital of {}", "Pola", "x", "y"),
        Edit("not of {}'s kind", "Pa", "x", "y"),
    ]
    for bos in ("auto", "off"):
        for edit, row in zip(edits, tokenise(tok, edits, ["", "Polar. "], bos)):
            for prompt, place, context in zip(row.prompts, row.subjects, ["", "Polar. "]):
                text = tok.decode(prompt[: place + 1], skip_special_tokens=True)
                assert text == context + edit.text[: edit.span[1]]
                assert (prompt[0] == 0) == (bos == "auto")
            assert tok.decode(row.essence[: row.essence_subject + 1], skip_special_tokens=True) == edit.subject
            assert row.new == tok(" y").input_ids and 0 not in row.new
    # Without the separator a one-token subject that opens the prompt stands on the attention sink.
    assert tokenise(tok, edits[:1], [""], "off")[0].subjects == [0]
    assert tokenise(tok, edits[:1], [""], "auto")[0].subjects == [1]


def test_contexts_are_sampled_once_seeded_and_kept(tmp_path, monkeypatch):
    net, tok = tiny_model("gpt2", len(WORDS) + 2), word_tokenizer(WORDS)
    texts = sample_contexts(net, tok, [(5, 2), (10, 3)], seed=0, cache=tmp_path)
    assert len(texts) == 6 and texts[0] == "" and all(text.endswith(". ") for text in texts[1:])
    assert texts != sample_contexts(net, tok, [(5, 2), (10, 3)], seed=1, cache=tmp_path)
    monkeypatch.setattr("decathlon.tasks.kele.editors.prompts.sample", None)
    assert texts == sample_contexts(net, tok, [(5, 2), (10, 3)], seed=0, cache=tmp_path)
    editor = Rome(net, word_tokenizer([*WORDS, "."]), 1, contexts=["because", "he said: "])
    assert editor.contexts == ["", "because ", "he said: "]


def test_preparing_works_where_gradients_are_switched_off():
    """Lightning tests under inference mode."""
    net = model("gpt2")
    editor = Kele(net, tokenizer(), 1, **FAST)
    (expected,) = editor.plan(EDITS[:1])
    net.train()
    with torch.inference_mode():
        (update,) = editor.plan(EDITS[:1])
        with editor.applied(update):
            pass
    (name,) = expected.deltas
    assert torch.equal(expected.deltas[name].dense(), update.deltas[name].dense())
    assert net.training  # left as it was


def test_weights_that_want_gradients_get_none():
    net = model("gpt2")
    net.requires_grad_(True)
    with Kele(net, tokenizer(), 1, **FAST).apply(EDITS[:1]):
        pass
    assert all(parameter.grad is None for parameter in net.parameters())


def test_nearly_orthogonal_keys_are_reported(caplog):
    """The subject is at position 0 in the plain prompt, in the middle behind contexts."""
    net = model("gpt2", "float32")
    update = Rome(net, tokenizer(), 1, key_mode="rome", **FAST).plan(EDITS[:1])[0]
    cosine = update.notes[0]["key_cosine"]
    assert -1 <= cosine <= 1
    assert ("nearly orthogonal" in caplog.text) == (abs(cosine) < 0.1)
