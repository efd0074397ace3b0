"""A decoder from its middle on computes what the whole one computes, in every family, and is whole again afterwards."""

import pytest
import torch

from decathlon.language import Increment, block_input, decoder_of, from_block, incremented, tiny_model
from decathlon.language.decoder import FAMILIES

IDS = torch.randint(0, 40, (3, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_are_the_whole(family: str, layer: int) -> None:
    model = tiny_model(family, 40, window=3 if family in ("mistral", "qwen2") else None)
    plain = model(IDS).logits
    hidden = block_input(model, layer, IDS)
    with from_block(model, layer, hidden):
        assert torch.equal(model(IDS).logits, plain)
    with from_block(model, layer, torch.zeros_like(hidden)):
        assert not torch.allclose(model(IDS).logits, plain)
    assert torch.equal(model(IDS).logits, plain)


def test_padding_on_the_right_changes_no_token_before_it() -> None:
    model = tiny_model("llama", 40)
    alone = block_input(model, 2, IDS[:1, :4])
    torch.testing.assert_close(block_input(model, 2, IDS[:1])[:, :4], alone)


def test_one_product_serves_maps_that_share_input_and_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", 40)
    decoder = decoder_of(model)
    first = torch.randn(3, decoder.projection("q", 1).inputs, 2) * 0.1
    changes = {
        (kind, 1): Increment(first, torch.randn(2, decoder.projection(kind, 1).outputs))
        for kind in ("q", "k", "v", "o")
    }
    products = []
    real = Increment.reduced
    monkeypatch.setattr(Increment, "reduced", lambda self, x, training: products.append(x) or real(self, x, training))
    with incremented(model, changes):
        shared = model(IDS).logits
        assert len(products) == 2  # the input of q, k, v and the one of o
        assert torch.equal(model(IDS).logits, shared)
    apart = {place: Increment(first.clone(), one.second) for place, one in changes.items()}
    with incremented(model, apart):
        torch.testing.assert_close(model(IDS).logits, shared)


def test_a_layer_that_is_not_there_is_one_line() -> None:
    model = tiny_model("llama", 40)
    with pytest.raises(ValueError, match="outside this model's layers"):
        block_input(model, 4, IDS)
