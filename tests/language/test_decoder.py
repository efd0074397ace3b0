"""The adapter finds q, k, v, o, gate, up and down in every family, and refuses what it would get wrong."""

import pytest
import torch

from decathlon.language import decoder_of, generate, next_logits, score, tap, tiny_model, word_tokenizer
from decathlon.language.decoder import FAMILIES, KINDS, check_positions
from decathlon.language.masks import windows

WORDS = ["the", "capital", "of", "france", "italy", "is", "paris", "rome", "in", "europe", "a", "b", "c", "d", "e", "f"]
LAYER = 1


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param, len(WORDS) + 2).double()


def seen(model, names):
    with tap(model, names, keep=("input", "output")) as taps:
        model(torch.arange(6)[None])
    return taps


def test_every_linear_map_is_where_the_adapter_says(model):
    """Each map's weight times the module's input is its part of the module's output."""
    decoder = decoder_of(model)
    assert set(KINDS) - set(decoder.kinds) <= {"gate"}
    for kind in decoder.kinds:
        place = decoder.projection(kind, LAYER)
        taps = seen(model, [place.name])
        module = model.get_submodule(place.name)
        bias = torch.zeros(1) if module.bias is None else place.of(module.bias)
        x = taps.inputs[place.name]
        weight = decoder.weight(kind, LAYER)
        assert weight.shape == (place.outputs, place.inputs)
        torch.testing.assert_close(x @ weight.T + bias, place.of(taps.outputs[place.name]))


def test_q_k_and_v_are_not_exchanged(model):
    """Attention computed from the three maps by hand, at position 0, where it is v, and nothing rotates."""
    decoder = decoder_of(model)
    q, k, v, o = (decoder.projection(kind, LAYER) for kind in ("q", "k", "v", "o"))
    taps = seen(model, list({q.name, k.name, v.name, o.name}))
    value = v.of(taps.outputs[v.name])[0, 0]
    heads = model.config.num_attention_heads
    size = q.outputs // heads
    shared = heads // (v.outputs // size)  # heads that read the same keys and values
    expected = value.view(-1, size).repeat_interleave(shared, dim=0).reshape(-1)
    torch.testing.assert_close(taps.inputs[o.name][0, 0], expected)
    # A change of all keys by one vector moves all scores of a query alike: softmax does not see it. One of q's does.
    # Only where no rotation comes in between: in families that leave the upper half of each head alone.
    if model.config.model_type in ("gpt2", "gptj", "gpt_neox"):
        for kind, same in (("k", True), ("q", False)):
            place = decoder.projection(kind, LAYER)
            shift = torch.full((heads, size), 0.7, dtype=torch.float64)
            shift[:, : size // 2] = 0
            shift = shift.reshape(-1)
            handle = model.get_submodule(place.name).register_forward_hook(
                lambda _, __, output, place=place, shift=shift: place.added(output, shift)
            )
            after = seen(model, [o.name]).inputs[o.name]
            handle.remove()
            assert torch.allclose(after, taps.inputs[o.name]) == same


def test_gate_is_the_one_that_is_activated(model):
    decoder = decoder_of(model)
    if "gate" not in decoder.kinds:
        with pytest.raises(ValueError, match="block has no gate; choose q, k"):
            decoder.name("gate")
        return
    gate, up, down = (decoder.projection(kind, LAYER) for kind in ("gate", "up", "down"))
    taps = seen(model, list({gate.name, up.name, down.name}))
    activated = torch.nn.functional.silu(gate.of(taps.outputs[gate.name]))
    torch.testing.assert_close(activated * up.of(taps.outputs[up.name]), taps.inputs[down.name])


def test_scores_and_generation_are_those_of_the_model(model):
    tokenizer = word_tokenizer(WORDS)
    prompts = ["the capital of france is", "a b", "the capital of italy"]
    logits = next_logits(model, tokenizer, prompts)
    for row, prompt in zip(logits, prompts):
        torch.testing.assert_close(row, model(torch.tensor([tokenizer(prompt).input_ids])).logits[0, -1])
    assert len(generate(model, tokenizer, prompts, 3)) == 3
    assert torch.isfinite(score(model, tokenizer, prompts, ["paris", "rome in", "c"]).total).all()


@pytest.mark.parametrize("family", ["mistral", "phi3", "qwen2", "qwen3"])
def test_sliding_windows_are_those_of_the_model(family):
    """Prompts longer than the window, in batches, trees, and token by token: logits of whole passes, one by one."""
    model = tiny_model(family, len(WORDS) + 2, window=5).double()
    assert 5 in windows(model) and (None in windows(model)) == family.startswith("qwen")
    tokenizer = word_tokenizer(WORDS)
    prompts = ["the capital of france is paris in europe a b c d", "the capital of france is paris in europe", "a b"]
    for row, prompt in zip(next_logits(model, tokenizer, prompts), prompts):
        torch.testing.assert_close(row, model(torch.tensor([tokenizer(prompt).input_ids])).logits[0, -1])
    for prompt, text in zip(prompts, generate(model, tokenizer, prompts, 6)):
        ids = torch.tensor([tokenizer(prompt).input_ids])
        for _ in range(6):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        assert text == tokenizer.decode(ids[0, len(tokenizer(prompt).input_ids) :], skip_special_tokens=True)
    free = tiny_model(family, len(WORDS) + 2).double()
    free.load_state_dict(model.state_dict())
    assert not torch.allclose(next_logits(free, tokenizer, prompts[:1]), next_logits(model, tokenizer, prompts[:1]))


def test_what_it_does_not_know_is_refused_in_one_line():
    class Shaped:
        def __init__(self, kind):
            self.config = type("Config", (), {"model_type": kind, "num_hidden_layers": 2})()

    for kind in ("olmo2", "gemma2", "gemma3_text"):
        with pytest.raises(ValueError, match=f"'{kind}' is not supported: its norms follow attention and MLP"):
            decoder_of(Shaped(kind))
    with pytest.raises(ValueError, match="model type 'bert' is not supported; choose one of gpt2"):
        decoder_of(Shaped("bert"))
    wrapped = torch.nn.Module()
    wrapped.config = tiny_model("llama", 20).config
    with pytest.raises(ValueError, match=r"this llama model has no module model\.layers\.0: pass the plain"):
        decoder_of(wrapped)
    quantised = tiny_model("llama", 20)
    quantised.model.layers[0].mlp.down_proj.weight.data = torch.zeros(32, 96, dtype=torch.int8)
    with pytest.raises(ValueError, match="load the model without quantisation"):
        decoder_of(quantised).check_editable()


def test_a_text_beyond_the_positions_is_one_line():
    tokenizer = word_tokenizer(WORDS)
    model = tiny_model("gpt2", len(WORDS) + 2, positions=8)
    for call in (
        lambda: score(model, tokenizer, ["a b c d e f a b"], ["c d"]),
        lambda: next_logits(model, tokenizer, ["a b c d e f a b c"]),
        lambda: generate(model, tokenizer, ["a b c d e f"], 5),
    ):
        with pytest.raises(ValueError, match=r"a text of \d+ tokens is longer than this model's 8 positions"):
            call()
    assert len(generate(model, tokenizer, ["a b c d e f"], 3)) == 1  # the last token is not read again
    check_positions(tiny_model("llama", 20, positions=8), 100)  # rotary positions have no end
