"""The scripts about editing: what they print of numbers that are given."""

from typing import Any

import pytest

from tests.conftest import script

kele_paired = script("analysis/kele_paired.py")


def pairs(differences: list[float], seeds: int = 1) -> tuple[dict[Any, float], dict[Any, float]]:
    keys = [(str(index % seeds), str(index)) for index in range(len(differences))]
    return dict(zip(keys, (0.5 + d for d in differences))), dict.fromkeys(keys, 0.5)


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([0.25, 0.5, 0.25, 0.5], "higher"),
        ([-0.25, -0.5, -0.25, -0.5], "lower"),
        ([0.5, -0.5, 0.25, -0.25], "undecided"),
        ([0.0, 0.0, 0.0], "no different"),
        ([0.5], "undecided: one case"),
    ],
)
def test_the_paired_verdict(differences: list[float], said: str) -> None:
    result = kele_paired.paired(*pairs(differences))
    assert kele_paired.verdict(result) == said
    row = kele_paired.as_markdown("mh", result)
    assert row.startswith("| mh | ") and row.endswith(f" | – | {said} |") and "nan" not in row.lower()
    assert len(row.split("|")) == 11


def test_a_markdown_table_has_as_many_columns_as_its_header() -> None:
    title, blank, names, rule = kele_paired.header("mquake_smol", "kele", "rome", "md").split("\n")
    assert "kele against rome" in title and not blank
    row = kele_paired.as_markdown("mh", kele_paired.paired(*pairs([0.25, 0.5, 0.25, 0.5], seeds=2)))
    assert names.count("|") == rule.count("|") == row.count("|") == 10


def test_the_benchmark_says_whether_a_target_is_met() -> None:
    bench_kele = script("bench/kele.py")
    assert bench_kele.verdict("editing", "together / one by one", 0.39).split() == ["wanted", "<=", "0.4", "ok"]
    assert bench_kele.verdict("evaluation", "times faster", 2.9).split() == ["wanted", ">=", "3", "MISSED"]
    assert bench_kele.verdict("statistics", "texts", 400) == ""
