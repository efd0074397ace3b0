"""Splits: the paper's, in the paper's sizes."""

import random

import pytest
import torch

from decathlon.errors import ConfigError, DataError
from decathlon.molecules.qm9 import Qm9Source
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
    sizes = [len(part) for part in random_split(20_000, sizes=[110_000, 10_000], published=Qm9Source.rows)]
    assert sizes == [16_815, 1_528, 1_657]


def test_sizes_of_another_dataset_are_taken_as_they_are() -> None:
    assert [len(part) for part in random_split(100, sizes=[70, 20])] == [70, 20, 10]
    assert [len(part) for part in random_split(95, sizes=[70, 20], published=100)] == [70, 20, 5]
    assert [len(part) for part in random_split(50, sizes=[70, 20], published=100)] == [35, 10, 5]
    with pytest.raises(ConfigError, match="leave none of 90 molecules for the test part"):
        random_split(90, sizes=[70, 20])
    for wrong in ([70], [70, 20, 10], [0, 20], [-1, 20], [0.7, 0.2]):
        with pytest.raises(ConfigError, match="are not the numbers"):
            random_split(100, sizes=wrong)


def test_one_scaffold_for_most_is_said_as_it_is() -> None:
    with pytest.raises(DataError, match=r"leaves the train part empty: 60 of 60 molecules have no ring.*split=random"):
        scaffold_split([""] * 60)
    with pytest.raises(DataError, match="55 of 60 molecules have the scaffold c1ccccc1"):
        scaffold_split(["c1ccccc1"] * 55 + ["C1CC1"] * 5)


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
