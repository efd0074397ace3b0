"""From what became of tasks to the numbers of a table. A row is one scenario, or one decision (``instances``)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from decathlon.tasks.cave.simulator.outcome import DONE, FAILED, Outcome
from decathlon.tasks.cave.simulator.settings import Settings

Row = dict[str, Any]


def scenario_rows(scenarios: Sequence[int], outcome: Outcome, settings: Settings) -> list[Row]:
    """One row per scenario: columns over its counted tasks, and sums over the scenario."""
    rows = []
    start, end = settings.warmup, settings.warmup + settings.counted
    share = outcome.seconds / max(int(outcome.decisions.sum()), 1)
    for place, scenario in enumerate(scenarios):
        arrival = outcome.arrival[place]
        counted = (arrival >= start) & (arrival < end)
        done = outcome.status[place][counted] == DONE
        latency = (outcome.finish[place] - arrival)[counted].tolist()
        planned = outcome.planned[place][counted].tolist()
        rows.append(
            {
                "id": str(scenario),
                "latency": [value if over else None for value, over in zip(latency, done.tolist())],
                "failed": (outcome.status[place][counted] == FAILED).tolist(),
                "replicas": outcome.replicas[place][counted].tolist(),
                "planned": [None if math.isnan(value) else value for value in planned],
                "infeasible": outcome.hopeless[place][counted].tolist(),
                "spent": float(outcome.spent[place]),
                "wasted": float(outcome.wasted[place]),
                "used": float(outcome.used[place]),
                "offered": float(outcome.offered[place]),
                "in_system": float(outcome.inside[place].double().mean()),
                "objective": float(outcome.objective[place]),
                "decisions": int(outcome.decisions[place]),
                "seconds": share * int(outcome.decisions[place]),
            }
        )
    return rows


def simulation_metrics(rows: Sequence[Mapping[str, Any]], target: float, deadline: float) -> dict[str, float]:
    """Means over all counted tasks of all scenarios. What is not defined (no task, none completed) is left out."""
    latency = np.array(
        [value if value is not None else np.nan for row in rows for value in row["latency"]], dtype=float
    )
    tasks = len(latency)
    metrics: dict[str, float] = {"tasks": tasks, "scenarios": len(rows)}
    spent, offered = sum(row["spent"] for row in rows), sum(row["offered"] for row in rows)
    decisions = sum(row["decisions"] for row in rows)
    if rows:
        metrics["in_system"] = sum(row["in_system"] for row in rows) / len(rows)
    if spent > 0:
        metrics["wasted_cycles"] = sum(row["wasted"] for row in rows) / spent
    if offered > 0:
        metrics["utilisation"] = sum(row["used"] for row in rows) / offered
    if decisions:
        metrics["objective"] = sum(row["objective"] for row in rows) / decisions
        metrics["decision_ms"] = 1000 * sum(row["seconds"] for row in rows) / decisions
    if not tasks:
        return metrics
    done = np.isfinite(latency)
    if done.any():
        metrics["latency"] = float(latency[done].mean())
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            metrics[f"latency_{name}"] = float(np.quantile(latency[done], share))
    metrics["latency_effective"] = float(np.minimum(np.where(done, latency, deadline), deadline).mean())
    completed = int(done.sum())
    low, high = wilson(completed, tasks)
    failed = sum(sum(row["failed"]) for row in rows)
    metrics |= {
        "reliability": completed / tasks, "reliability_low": low, "reliability_high": high,
        "failed": failed / tasks, "unfinished": (tasks - completed - failed) / tasks,
        "redundancy": sum(sum(row["replicas"]) for row in rows) / tasks,
        "infeasible": sum(sum(row["infeasible"]) for row in rows) / tasks,
    }  # fmt: skip
    # A task that was never decided (it still waited at the end) has no plan.
    planned = np.array([value for row in rows for value in row["planned"] if value is not None], dtype=float)
    if len(planned):
        metrics["violation"] = float(np.maximum(target - planned, 0).mean())
        metrics["reliability_gap"] = float(planned.mean()) - completed / tasks
    return metrics


def instance_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over decisions: J over the optimum, and how often it was hit."""
    if not rows:
        return {}
    ratio = np.array([row["objective"] / row["optimum"] for row in rows])
    return {
        "gap": float(ratio.mean() - 1),
        "gap_p95": float(np.quantile(ratio, 0.95) - 1),
        "hit": float((ratio < 1 + 1e-9).mean()),
        "objective": float(np.mean([row["objective"] for row in rows])),
        "bound_gap": float(np.mean([row["objective"] / row["bound"] for row in rows]) - 1),
        "redundancy": float(np.mean([row["redundancy"] for row in rows])),
        "violation": float(np.mean([row["violation"] for row in rows])),
        "infeasible": float(np.mean([row["infeasible"] for row in rows])),
        "proven": float(np.mean([row["proven"] for row in rows])),
        "decision_ms": 1000 * float(np.mean([row["seconds"] for row in rows])),
        "instances": len(rows),
    }


def wilson(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The 95 % interval of a binomial proportion (Wilson, 1927)."""
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
