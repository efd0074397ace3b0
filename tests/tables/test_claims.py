"""Claims: reading cells, paired statistics, verdicts."""

import pytest

from decathlon.errors import ConfigError
from decathlon.runner.layout import Layout
from decathlon.tables.claims import judge
from decathlon.tables.plan import Experiment, PlannedJob, Results


def decide(check: str, values: dict, better: str = "higher") -> tuple[str, str]:
    """Verdict of a check on a table with rows ``a`` and ``k-means``, columns 0.9 and 0.6."""
    layout = Layout(
        "t", ["method"], ["prune"], {"m": {"better": better}, "o": {}}, claims=[{"says": "s", "check": check}]
    )
    cells = [("a", "0.9"), ("a", "0.6"), ("k-means", "0.9"), ("k-means", "0.6")]
    jobs = [PlannedJob(None, {"method": m, "prune": p, "seed": 0}) for m, p in cells]  # type: ignore[arg-type]
    results = Results(values, {}, {}, {})
    verdict = judge(Experiment("x", layout, [], jobs), results)[0]
    return verdict.verdict, verdict.why


def seeds(*values: float) -> dict[int, dict[str, float]]:
    return {seed: {"m": value, "o": -value} for seed, value in enumerate(values)}


VALUES = {
    ("a", "0.9"): seeds(10, 11, 12),
    ("a", "0.6"): seeds(10.1, 10.9, 12.0),
    ("k-means", "0.9"): seeds(1, 2, 3.5),
}


def test_paired_differences_decide() -> None:
    assert decide("a[0.9] > cell('k-means', 0.9)", VALUES)[0] == "holds"
    assert decide("a[0.9] < cell('k-means', 0.9)", VALUES)[0] == "fails"
    assert decide("a[0.9] > cell('k-means', 0.9) + 8.8", VALUES)[0] == "undecided"
    assert decide("a[0.9] > a[0.6]", VALUES)[0] == "undecided"
    assert decide("a[0.9] >= a[0.6] - 1", VALUES)[0] == "holds"


def test_arithmetic_functions_and_other_metrics() -> None:
    assert decide("log(a[0.9]) > log(cell('k-means', 0.9)) + log(2)", VALUES)[0] == "holds"
    assert decide("a[0.9, 'o'] < 0", VALUES)[0] == "holds"
    assert decide("max(a[0.9], a[0.6]) - 2 * cell('k-means', 0.9) / 2 > 5", VALUES)[0] == "holds"


def test_missing_cells_and_single_seeds_are_undecided() -> None:
    assert decide("a[0.9] > cell('k-means', 0.6)", VALUES) == ("undecided", "k-means[0.6] not finished")
    one = {("a", "0.9"): seeds(3), ("a", "0.6"): seeds(1)}
    assert decide("a[0.9] > a[0.6]", one)[0] == "undecided"


def test_only_common_seeds_are_compared() -> None:
    values = {("a", "0.9"): seeds(5, 6, 7), ("a", "0.6"): {1: {"m": 1.0}, 2: {"m": 2.0}}}
    assert "2 paired seeds" in decide("a[0.9] > a[0.6]", values)[1]


@pytest.mark.parametrize(
    "check", ["a[0.9]", "a[0.9] >", "a[0.9] == 1", "b[0.9] > 1", "a > 1", "a[0.9] > __import__('os')"]
)
def test_claims_that_cannot_be_read_are_config_errors(check: str) -> None:
    with pytest.raises(ConfigError, match="claim"):
        decide(check, VALUES)
