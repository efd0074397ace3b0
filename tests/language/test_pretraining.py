"""What pretraining needs: a model to train, bytes as tokens, a packed stream on disk."""

import numpy as np
import pytest
import torch

from decathlon.errors import DataError
from decathlon.language import (
    Documents,
    TokenFile,
    Windows,
    byte_ids,
    byte_tokenizer,
    decoder_of,
    new_llama,
    score,
    write_tokens,
)

TEXTS = ["Zürich, naïve", "日本", "", "a\nb\t\x00"]


def test_a_new_llama_has_the_size_of_its_shape_and_trains():
    model = new_llama(256, width=128, layers=4, heads=4, inner=344)
    assert sum(parameter.numel() for parameter in model.parameters()) == 857_216
    decoder = decoder_of(model)
    projected = [decoder.weight(kind, layer) for kind in decoder.kinds for layer in range(4)]
    assert len(projected) == 28 and sum(weight.numel() for weight in projected) == 790_528
    assert model.config.intermediate_size == new_llama(256).config.intermediate_size  # 8/3 of the width, rounded up
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    ids = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
    loss = model(ids, labels=ids).loss
    assert float(loss.detach()) == pytest.approx(np.log(256), abs=0.2)  # a new model knows nothing
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first, state = new_llama(50, width=16, layers=1, heads=2, seed=3), torch.get_rng_state()
    torch.manual_seed(2)
    again, other = (new_llama(50, width=16, layers=1, heads=2, seed=seed) for seed in (3, 4))
    assert not torch.equal(state, torch.get_rng_state())
    for a, b in zip(first.parameters(), again.parameters()):
        assert torch.equal(a, b)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert abs(float(new_llama(2000, width=64, layers=1).lm_head.weight.std()) - 0.02) < 1e-3
    for bad, message in (({"heads": 3}, "width=128 must be an even multiple of heads=3"), ({"layers": 0}, "layers=0")):
        with pytest.raises(ValueError, match=message):
            new_llama(50, **bad)


def test_bytes_are_their_own_ids_and_come_back():
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == 259 and tokenizer.eos_token_id == 258
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert ids == list(text.encode()) == byte_ids(text).tolist()
        assert tokenizer.decode(ids) == text
    assert tokenizer("a<eos>").input_ids == [97, 258]
    model = new_llama(259, width=16, layers=1, heads=2).eval()
    assert torch.isfinite(score(model, tokenizer, ["ab"], ["cd"]).total).all()


@pytest.mark.parametrize(("vocabulary", "width"), [(65_536, 2), (65_537, 4)])
def test_a_stream_comes_back_from_disk(tmp_path, vocabulary, width):
    documents = [[1, 2, 3], [], [65_535], list(range(10))]
    path = write_tokens(tmp_path / "tokens", iter(documents), vocabulary, separator=9)
    file = TokenFile(path)
    assert file.tokens.itemsize == width and len(file) == 3
    assert file.tokens.tolist() == [1, 2, 3, 9, 65_535, 9, *range(10), 9]
    assert [file.document(i).tolist() for i in range(3)] == [[1, 2, 3, 9], [65_535, 9], [*range(10), 9]]
    windows = Windows(file, 4)
    assert torch.equal(torch.cat([windows[i] for i in range(len(windows))]), torch.tensor(file.tokens[:16].tolist()))
    assert windows.documents(1).tolist() == [1, 1, 2, 2]
    assert Windows(file, 4, stride=1)[1].tolist() == [2, 3, 9, 65_535] and len(Windows(file, 17)) == 1
    ids, mask = Documents(file, 3, padding=7)[1]
    assert ids.tolist() == [65_535, 9, 7] and mask.tolist() == [1, 1, 0]
    assert Documents(file, 3)[2][0].tolist() == [0, 1, 2]


def test_bad_streams_are_one_line_and_nothing_stays(tmp_path):
    path = tmp_path / "tokens"
    for documents, message in (([[1, 5]], "document 0 has ids outside"), ([[-1]], "outside"), ([], "no documents")):
        with pytest.raises(ValueError, match=message):
            write_tokens(path, documents, 5)
    assert not list(tmp_path.iterdir())
    write_tokens(path, [[1, 2, 3]], 5)
    with pytest.raises(ValueError, match="3 tokens, less than one window of 4"):
        Windows(TokenFile(path), 4)
    path.write_bytes(path.read_bytes()[:-40] + path.read_bytes()[-32:])
    with pytest.raises(DataError, match="no complete file of tokens"):
        TokenFile(path)
    with pytest.raises(DataError, match="no file of tokens"):
        TokenFile(tmp_path / "absent")
