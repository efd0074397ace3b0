"""Key statistics: equal to a loop over texts, cached under the weights, resumed after an interruption."""

import pytest
import torch

from decathlon.language import decoder_of, encode, run, tap, word_tokenizer
from decathlon.language.decoder import matrix
from decathlon.tasks.kele import Moments, Rome
from decathlon.tasks.kele.editors import statistics as module
from decathlon.tasks.kele.editors.statistics import accumulate, corpus_digest, self_corpus
from tests.tasks.kele.common import CORPUS, EDITS, FAMILIES, FAST, WORDS, model, tokenizer


def by_loop(net, tok, layer, corpus, length):
    name = decoder_of(net).name("down", layer)
    total, tokens = 0.0, 0
    for row in encode(tok, corpus):
        with tap(net, [name], keep=("input",)) as taps:
            run(net, torch.tensor([row[:length]]))
        keys = taps.inputs[name][0].double()
        total, tokens = total + keys.T @ keys, tokens + len(keys)
    return total / tokens, tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [512, 5])
def test_moments_are_those_of_a_loop_over_texts(family, length):
    net, tok = model(family), tokenizer()
    moments = Moments(net, tok, CORPUS, length=length, ridge=0.0)
    moments.compute([0, 2])
    for layer in (0, 2):
        expected, _ = by_loop(net, tok, layer, CORPUS, length)
        torch.testing.assert_close(moments.moment(layer), expected)
    torch.testing.assert_close(
        Moments(net, tok, CORPUS, samples=7, ridge=0.0).moment(1), by_loop(net, tok, 1, CORPUS[:7], 512)[0]
    )


def test_the_corpus_is_streamed_and_the_pass_ends_at_the_layer(monkeypatch):
    net, tok = model("gpt2"), tokenizer()
    taken = 0

    def stream():
        nonlocal taken
        for text in CORPUS:
            taken += 1
            yield text

    monkeypatch.setattr(module, "_GROUP", 16)
    above = []
    net.get_submodule(decoder_of(net).name("block", 2)).register_forward_hook(lambda *_: above.append(1))
    first = next(accumulate(net, tok, [0], stream()))
    assert taken == 16 and first["texts"] == 16 and not above


def test_rows_of_ids_count_like_texts_and_empty_texts_do_not():
    net, tok = model("gpt2"), tokenizer()
    rows = encode(tok, CORPUS)
    a = Moments(net, tok, CORPUS, ridge=0.0).moment(1)
    torch.testing.assert_close(Moments(net, tok, [*rows, [], " "], ridge=0.0).moment(1), a)
    with pytest.raises(ValueError, match="has no texts"):
        Moments(net, tok, ["", " "]).compute([1])


def test_cache_is_keyed_by_weights_corpus_and_length(tmp_path, monkeypatch):
    net, tok = model("llama"), tokenizer()
    first = Moments(net, tok, CORPUS, cache=tmp_path).moment(1)
    calls = []
    original = module.accumulate
    monkeypatch.setattr(module, "accumulate", lambda *a, **k: calls.append(1) or original(*a, **k))
    assert torch.equal(Moments(net, tok, CORPUS, cache=tmp_path).moment(1), first) and not calls
    Moments(net, tok, CORPUS[:-1], cache=tmp_path).compute([1])
    Moments(net, tok, CORPUS, cache=tmp_path, length=4).compute([1])
    matrix(net.get_submodule(decoder_of(net).name("down", 0)))[0, 0] += 1e-3
    Moments(net, tok, CORPUS, cache=tmp_path).compute([1])
    assert len(calls) == 3
    assert not list(tmp_path.glob("*.part.pt"))
    assert corpus_digest(["ab", "c"], None) != corpus_digest(["a", "bc"], None)


def test_an_interrupted_pass_goes_on(tmp_path, monkeypatch):
    net, tok = model("gpt2"), tokenizer()
    monkeypatch.setattr(module, "_GROUP", 16)
    monkeypatch.setattr(module, "_SAVE_SECONDS", 0.0)
    seen = []
    original = module._add

    def fails(*args):
        if len(seen) >= 3:
            raise KeyboardInterrupt
        seen.append(1)
        original(*args)

    monkeypatch.setattr(module, "_add", fails)
    with pytest.raises(KeyboardInterrupt):
        Moments(net, tok, CORPUS, cache=tmp_path, ridge=0.0).compute([0, 1])
    assert list(tmp_path.glob("*.part.pt"))
    count = []
    monkeypatch.setattr(module, "_add", lambda *args: count.append(1) or original(*args))
    resumed = Moments(net, tok, CORPUS, cache=tmp_path, ridge=0.0)
    resumed.compute([0, 1])
    assert len(count) < 5  # five groups in all
    monkeypatch.setattr(module, "_add", original)
    whole = Moments(net, tok, CORPUS, ridge=0.0)
    assert all(torch.equal(resumed.moment(layer), whole.moment(layer)) for layer in (0, 1))


def test_a_one_shot_iterator_is_not_kept(tmp_path):
    net, tok = model("gpt2"), tokenizer()
    got = Moments(net, tok, iter(CORPUS), cache=tmp_path).moment(1)
    assert torch.equal(got, Moments(net, tok, CORPUS).moment(1)) and not list(tmp_path.glob("*.pt"))


def test_ridge_solve_identity_and_singular():
    net, tok = model("gpt2"), tokenizer()
    plain, ridged = Moments(net, tok, CORPUS, ridge=0.0).moment(1), Moments(net, tok, CORPUS, ridge=0.5).moment(1)
    torch.testing.assert_close(ridged, plain + 0.5 * plain.diagonal().mean() * torch.eye(len(plain), dtype=plain.dtype))
    few = Moments(net, tok, CORPUS[:3])  # fewer than ten tokens per entry: a ridge by itself
    keys = torch.randn(2, len(plain), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(few.solve(1, keys) @ few.moment(1), keys)
    with pytest.raises(ValueError, match="key statistics of layer 1 are singular"):
        Moments(net, tok, CORPUS[:3], ridge=0.0).solve(1, keys)
    assert torch.equal(Moments(net, tok, identity=True).moment(2), torch.eye(len(plain), dtype=torch.float64))
    for bad in ({"samples": 0}, {"ridge": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Moments(net, tok, CORPUS, **bad)


def test_without_a_corpus_the_model_writes_one():
    net, tok = model("gpt2"), tokenizer()
    rows = self_corpus(net, tok, texts=4, length=20)
    assert rows == self_corpus(net, tok, texts=4, length=20)
    assert [len(row) for row in rows] == [21] * 4
    torch.linalg.cholesky(Moments(net, tok).moment(1))


def test_statistics_and_contexts_are_the_unedited_models_also_inside_an_edit(tmp_path):
    net, tok = model("gpt2", "float32"), tokenizer()
    outside = Rome(net, tok, 2, corpus=CORPUS, contexts=[[5, 2]])
    expected, texts = outside.moments.moment(2), outside.contexts
    with Rome(net, tok, 1, **FAST).apply(EDITS[:1]):
        edited = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        inside = Rome(net, tok, 2, corpus=CORPUS, contexts=[[5, 2]], cache=tmp_path)
        assert inside.contexts == texts
        assert torch.equal(inside.moments.moment(2), expected)
        assert all(torch.equal(tensor, edited[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(Rome(net, tok, 2, corpus=CORPUS, cache=tmp_path).moments.moment(2), expected)


def test_cache_is_keyed_by_tokenizer_config_and_dtype_too(tmp_path):
    net, tok = model("gpt2", "float32"), tokenizer()
    Moments(net, tok, CORPUS, cache=tmp_path).compute([1])
    before = len(list(tmp_path.glob("*.pt")))
    Moments(net, word_tokenizer(WORDS[::-1]), CORPUS, cache=tmp_path).compute([1])
    net.config.activation_function = "relu"
    Moments(net, tok, CORPUS, cache=tmp_path).compute([1])
    net.config.activation_function = "gelu_new"
    Moments(net.double(), tok, CORPUS, cache=tmp_path).compute([1])
    assert before == 1 and len(list(tmp_path.glob("*.pt"))) == 4
    rows = encode(tok, CORPUS)
    assert corpus_digest(rows, None) != corpus_digest([repr(row) for row in rows], None)


def test_a_length_beyond_the_models_positions_is_cut():
    net, tok = model("gpt2", positions=8), tokenizer()
    texts = [" ".join(CORPUS)]
    assert torch.equal(Moments(net, tok, texts).moment(1), Moments(net, tok, texts, length=8).moment(1))
