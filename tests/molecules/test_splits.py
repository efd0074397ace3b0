"""Splits; check 17's sizes."""

import random

import torch

from decathlon.molecules.splits import random_split, scaffold_split


def test_the_random_split_is_the_papers() -> None:
    random.seed(42)
    order = list(range(1000))
    random.shuffle(order)
    split = random_split(1000)
    assert split.train.tolist() == order[:800]
    assert split.val.tolist() == order[800:900] and split.test.tolist() == order[900:]


def test_sizes() -> None:
    assert [len(part) for part in random_split(41_127)] == [32_901, 4_112, 4_114]
    assert [len(part) for part in random_split(41_120)] == [32_896, 4_112, 4_112]
    assert [len(part) for part in random_split(130_831, sizes=[110_000, 10_000])] == [110_000, 10_000, 10_831]
    sizes = [len(part) for part in random_split(20_000, sizes=[110_000, 10_000])]
    assert sizes == [16_815, 1_528, 1_657]


def test_nobody_else_is_reseeded() -> None:
    random.seed(7)
    expected = random.random()
    random.seed(7)
    random_split(100)
    assert random.random() == expected
    assert not torch.equal(random_split(100, 1).train, random_split(100, 2).train)


def test_scaffolds_stay_together() -> None:
    generator = random.Random(0)
    scaffolds = [f"s{int(generator.paretovariate(0.7)) % 60}" for _ in range(500)]
    split = scaffold_split(scaffolds)
    groups = [{scaffolds[i] for i in part.tolist()} for part in split]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert sorted(torch.cat(split).tolist()) == list(range(500))
    assert len(split.train) <= 400 and len(split.train) > 350 and len(split.test) > 0
    assert torch.equal(split.train, scaffold_split(scaffolds).train)
