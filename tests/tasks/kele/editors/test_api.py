"""The five lines, bad requests, options, presets, contexts, and where the subject ends."""

import os
import subprocess
import sys

import pytest
import torch
import yaml

from decathlon.build import build
from decathlon.language import tiny_model, word_tokenizer
from decathlon.runner.catalog import CONFIGS
from decathlon.tasks.kele import Edit, FineTune, Kele, Memit, Rome
from decathlon.tasks.kele.editors.presets import PRESETS, preset_of, settings
from decathlon.tasks.kele.editors.prompts import sample_contexts, tokenise
from tests.tasks.kele.common import CORPUS, EDITS, FAST, WORDS, model, tokenizer

METHODS = sorted((CONFIGS / "methods/kele").glob("*.yaml"))

FIVE_LINES = """
import sys, torch
from decathlon.language import tiny_model, word_tokenizer
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
    with pytest.raises(ValueError, match="Kele has no option depht; choose alpha"):
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


@pytest.mark.parametrize("path", METHODS, ids=[path.stem for path in METHODS])
@pytest.mark.parametrize(("preset", "family"), [("gpt2-xl", "gpt2"), ("gpt-j-6b", "gptj"), ("llama-2-7b", "llama")])
def test_every_method_runs_with_every_papers_settings(path, preset, family):
    """On a small random model of the same architecture, at layers that it has; steps as in the paper."""
    spec = {k: (v if v != "${k}" else 20) for k, v in yaml.safe_load(path.read_text()).items()}
    extra = {"preset": preset, "layer": (1, 2) if path.stem in ("memit", "pmet", "alphaedit") else 1}
    if not path.stem.startswith(("none", "ft", "mello")):
        extra |= {"corpus": CORPUS, "contexts": ["because"], "steps": 4}
    if path.stem == "alphaedit":
        extra["threshold"] = 1e6
    editor = build(spec, model(family, "float32"), tokenizer(), **extra)
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
    # Trap 6: without the separator a one-token subject that opens the prompt stands on the attention sink.
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
    """Trap 1: subject at position 0 in the plain prompt, in the middle behind contexts."""
    net = model("gpt2", "float32")
    update = Rome(net, tokenizer(), 1, key_mode="rome", **FAST).plan(EDITS[:1])[0]
    cosine = update.notes[0]["key_cosine"]
    assert -1 <= cosine <= 1
    assert ("nearly orthogonal" in caplog.text) == (abs(cosine) < 0.1)
