"""Increments that differ from row to row equal changed matrices, keep gradients, and leave no trace."""

import pytest
import torch

from decathlon.language import Increment, activation_statistics, decoder_of, incremented, tap, tiny_model
from decathlon.language.decoder import FAMILIES

IDS = torch.randint(0, 40, (3, 7), generator=torch.Generator().manual_seed(0))


def factors(decoder, kind, rows=3, rank=2, seed=0):
    place = decoder.projection(kind, 1)
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, place.inputs, rank, generator=generator, dtype=torch.float64) * 0.1
    b = torch.randn(rows, rank, place.outputs, generator=generator, dtype=torch.float64) * 0.1
    return a, b


@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_sees_its_own_changed_matrices(family):
    model = tiny_model(family, 40).double()
    decoder = decoder_of(model)
    made = {kind: factors(decoder, kind, seed=index) for index, kind in enumerate(decoder.kinds)}
    plain = model(IDS).logits
    with incremented(model, {(kind, 1): Increment(a, b, scale=2.0) for kind, (a, b) in made.items()}) as switch:
        got = model(IDS).logits
        switch.on = False
        assert torch.equal(model(IDS).logits, plain)
    assert torch.equal(model(IDS).logits, plain)
    for row in range(3):
        saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for kind, (a, b) in made.items():
            place = decoder.projection(kind, 1)
            module = decoder.module(kind, 1)
            change = torch.zeros(place.inputs, module.weight.numel() // place.inputs, dtype=torch.float64)
            change = place.added(change, 2.0 * a[row] @ b[row])
            module.weight.data += change if module.weight.shape == change.shape and family == "gpt2" else change.T
        torch.testing.assert_close(got[row], model(IDS[row : row + 1]).logits[0])
        model.load_state_dict(saved)


def test_factors_get_gradients_and_shared_ones_serve_all_rows():
    model = tiny_model("llama", 40).double()
    decoder = decoder_of(model)
    a, b = factors(decoder, "q")
    a.requires_grad_(True)
    shared = b[0].clone().requires_grad_(True)  # one B for all rows
    with incremented(model, {("q", 1): Increment(a, shared)}):
        model(IDS).logits.square().sum().backward()
    assert all((row != 0).any() for row in a.grad) and (shared.grad != 0).any()
    with incremented(model, {("q", 1): Increment(a, torch.zeros_like(shared))}):
        zero = model(IDS).logits
    assert torch.equal(zero, model(IDS).logits)  # B = 0, as training begins, is the model itself


def test_bad_increments_are_one_line():
    model = tiny_model("llama", 40).double()
    a, b = factors(decoder_of(model), "q", rows=2)
    change = Increment(a, b)
    with pytest.raises(ValueError, match="of 2 rows for a batch of 3"), incremented(model, {("q", 1): change}):
        model(IDS)
    with pytest.raises(ValueError, match="do not fit down of layer 1, which maps 96 to 32"):
        incremented(model, {("down", 1): change}).__enter__()
    with pytest.raises(ValueError, match="a gpt2 block has no gate"):
        incremented(tiny_model("gpt2", 40), {("gate", 1): change}).__enter__()


def test_activation_statistics_are_those_of_all_real_tokens():
    model = tiny_model("llama", 40).double()
    name = decoder_of(model).name("block", 2)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 5 + [0] * 2])
    parts = [(IDS[:2], mask[:2]), (IDS[2:], mask[2:])]
    (found,) = activation_statistics(model, [name], parts, moment=True).values()
    rows = []
    for ids, size in zip(IDS, (7, 4, 5)):
        with tap(model, [name]) as taps:
            model(ids[None, :size])
        rows.append(taps.outputs[name][0])
    x = torch.cat(rows)
    assert found.tokens == 16
    torch.testing.assert_close(found.mean, x.mean(0))
    torch.testing.assert_close(found.variance, x.var(0, unbiased=False))
    torch.testing.assert_close(found.largest, x.abs().amax(0))
    torch.testing.assert_close(found.moment, x.T @ x)
    with pytest.raises(ValueError, match="the batches have no tokens"):
        activation_statistics(model, [name], [])
