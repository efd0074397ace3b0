"""The ablation without injection: gamma, the weight of the injection loss."""

import pytest
import torch

from decathlon.errors import ConfigError
from decathlon.tasks.kele import Edit, Kele
from decathlon.tasks.kele.editors.configured import check_method
from decathlon.tasks.kele.editors.recall import Objective
from decathlon.tasks.kele.evaluation.protocol import residual
from tests.tasks.kele.common import EDITS, FAMILIES, FAST, method_of, model, tokenizer

LAYER = 1


def best_known(net, edits):
    """The edits with their old object replaced by what the model says, so that there is something to erase."""
    words = tokenizer()
    out = []
    for edit in edits:
        ids = torch.tensor([words(edit.text)["input_ids"]])
        old = words.decode([int(net(ids).logits[0, -1].argmax())])
        out.append(Edit(edit.prompt, edit.subject, old, next(w for w in ("Italy", "Spain") if w != old)))
    return out


def erase(net, edits, **options):
    return Kele(net, tokenizer(), LAYER, gamma=0, stop=1e-4, **({**FAST, "steps": 40, "bos": "off"} | options))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_injection_the_old_object_sinks(family):
    net = model(family)
    edits = best_known(net, EDITS)
    before = residual(net, tokenizer(), edits, "off")
    # The plain prompt is what is read, so its own key is mapped, not the mean over contexts.
    editor = erase(net, edits, depth=10, beta=0.0, key_mode="rome")
    for edit, update, was in zip(edits, editor.plan(edits), before):
        with editor.applied(update):
            (now,) = residual(net, tokenizer(), [edit], "off")
        assert was["rank_old"] == 1 and now["rank_old"] > 1 and now["rs_prob"] < was["rs_prob"]
        note = update.notes[0]
        assert note["injection"] > 0  # reported, and not part of the loss
        assert note["loss"] == pytest.approx(note["erasure"], abs=1e-9)
        assert note["loss"] < 1e-4 or note["steps"] == 39  # it stops when nothing is left to erase, not before


def test_without_injection_the_new_object_does_not_matter():
    net = model("gpt2")
    edits = best_known(net, EDITS)
    others = [Edit(edit.prompt, edit.subject, edit.old, "Europe city") for edit in edits]
    editor = erase(net, edits)
    for one, two in zip(editor.plan(edits), editor.plan(others)):
        (name,) = one.deltas
        change = one.deltas[name].dense()
        assert float(change.abs().max()) > 0
        torch.testing.assert_close(change, two.deltas[name].dense(), rtol=1e-6, atol=1e-10)
    full = Kele(net, tokenizer(), LAYER, **FAST)
    assert not torch.equal(*(full.plan(which)[0].deltas[name].dense() for which in (edits[:1], others[:1])))


def test_weight_one_is_the_default_to_the_last_bit():
    net = model("llama", "float32")
    for one, same in zip(*(Kele(net, tokenizer(), LAYER, **FAST, **g).plan(EDITS) for g in ({}, {"gamma": 1}))):
        (name,) = one.deltas
        assert torch.equal(one.deltas[name].dense(), same.deltas[name].dense())


def test_negative_weights_are_refused_and_the_config_has_none():
    with pytest.raises(ValueError, match="gamma=-1 must not be negative"):
        Objective(gamma=-1)
    method = method_of("kele_erase")
    check_method(method)
    with pytest.raises(ConfigError, match=r"method=kele_erase: gamma=-0.5 must not be negative"):
        check_method(method | {"gamma": -0.5})
