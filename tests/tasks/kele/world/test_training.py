"""Training of the world's model: an exact forward pass, reproducible, cached, and it learns."""

from pathlib import Path

import pytest
import torch

from decathlon.tasks.kele.world import training as world_training
from decathlon.tasks.kele.world.facts import World
from decathlon.tasks.kele.world.forward import last_token_logits
from decathlon.tasks.kele.world.training import Rows, WorldTraining, accuracy, draw, empty_model, with_prefixes

SHORT = WorldTraining(seed=5, people=40, layers=2, width=32, heads=2, inner=64, steps=3, warmup=1)


def test_packed_forward_equals_the_model_and_so_do_its_gradients() -> None:
    config = WorldTraining(layers=3)
    torch.manual_seed(0)
    model = empty_model(config).eval()
    world, generator = config.world(), torch.Generator().manual_seed(0)
    rows = Rows.of(
        with_prefixes(world.one_hop()[::9] + world.two_hop(world.composed[:9])), world_training.world_tokenizer()
    )
    rows = draw(rows, 24, 0.5, generator)
    mask = (torch.arange(rows.ids.shape[1]) < rows.lengths[:, None]).long()
    reference = model(input_ids=rows.ids, attention_mask=mask).logits[torch.arange(24), rows.lengths - 1]
    packed = last_token_logits(model, rows.ids, rows.lengths)
    torch.testing.assert_close(packed, reference, atol=1e-5, rtol=1e-5)
    parameters = list(model.parameters())
    weights = torch.randn(packed.shape, generator=generator)
    ours = torch.autograd.grad((packed * weights).sum(), parameters)
    theirs = torch.autograd.grad((reference * weights).sum(), parameters)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_half_of_the_rows_are_drawn_plain_and_prefixes_change_nothing_else() -> None:
    world = SHORT.world()
    sentences = world.one_hop()
    rows = Rows.of(with_prefixes(sentences), world_training.world_tokenizer())
    assert len(rows) == 5 * len(sentences)
    drawn = draw(rows, 4000, 0.4, torch.Generator().manual_seed(1))
    prefixes = {tuple(world_training.world_tokenizer()(text).input_ids[1:2]) for text in world_training.PREFIXES}
    share = sum((int(row[1]),) in prefixes for row in drawn.ids) / 4000
    assert 0.36 < share < 0.44


def test_same_seed_same_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = world_training.train(SHORT), world_training.train(SHORT)
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters()):
        assert torch.equal(a, b)
    other = world_training.train(WorldTraining(**{**SHORT.__dict__, "seed": 6}))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_the_trained_model_is_kept_and_loaded_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = world_training.load(tmp_path, SHORT)
    assert SHORT.path(tmp_path).is_file() and len(tokenizer) == 240
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    monkeypatch.setattr(world_training, "train", lambda config: pytest.fail("trained again"))
    again, _ = world_training.load(tmp_path, SHORT)
    for a, b in zip(model.parameters(), again.parameters()):
        assert torch.equal(a, b)
    assert WorldTraining(seed=1).path(tmp_path) != WorldTraining(seed=2).path(tmp_path)
    assert WorldTraining(steps=1).path(tmp_path) != WorldTraining(steps=2).path(tmp_path)


def test_it_learns() -> None:
    config = WorldTraining(seed=0, people=24, composed=0.5, layers=2, steps=200, warmup=10)
    world = config.world()
    assert accuracy(world_training.train(config), world.one_hop()) > 0.8
    assert accuracy(world_training.train(SHORT), SHORT.world().one_hop()) < 0.2


def test_a_model_is_kept_under_what_it_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = SHORT.path(tmp_path)
    sentences = World.one_hop
    monkeypatch.setattr(World, "one_hop", lambda world: sentences(world)[1:])
    assert SHORT.path(tmp_path) != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 7}, "an even number"),
        ({"steps": 0}, "steps must be positive"),
        ({"heads": 5}, "not divisible by heads"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldTraining(**options)  # type: ignore[arg-type]
