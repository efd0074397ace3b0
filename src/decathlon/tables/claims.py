"""Claims of a paper as comparisons of cells, decided on differences paired by seed."""

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scipy.special import stdtrit

from decathlon.errors import ConfigError
from decathlon.runner.layout import canonical
from decathlon.tables.plan import Experiment, Results

FUNCTIONS: dict[str, Callable[..., float]] = {
    "log": math.log, "log10": math.log10, "sqrt": math.sqrt, "abs": abs, "min": min, "max": max,
    "mean": lambda *values: sum(values) / len(values),
}  # fmt: skip
CONFIDENCE = 0.90


@dataclass
class Verdict:
    """A claim and what the seeds say of it.

    ``differences``: by seed, how far the side that should be greater is above the other; ``half``: half of the interval
    of their mean, 0 from one seed.
    """

    says: str
    check: str
    verdict: str
    why: str
    differences: dict[Any, float] = field(default_factory=dict)
    half: float = 0.0


class MissingCell(Exception):
    """A cell that a claim names has no number; the message says why."""


def judge(experiment: Experiment, results: Results) -> list[Verdict]:
    """Decide every claim of the experiment."""
    return [_judge(claim, experiment, results) for claim in experiment.layout.claims]


def _judge(claim: Mapping[str, Any], experiment: Experiment, results: Results) -> Verdict:
    check = str(claim["check"])
    try:
        tree = ast.parse(check, mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"claim {check!r} cannot be read: {error.msg}") from None
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1:
        raise ConfigError(f"claim {check!r} is not one comparison")
    operator = type(tree.ops[0])
    if operator not in (ast.Gt, ast.GtE, ast.Lt, ast.LtE):
        raise ConfigError(f"claim {check!r}: use >, >=, < or <=")
    metric = claim.get("metric", next(iter(experiment.layout.metrics)))
    greater, lesser = tree.left, tree.comparators[0]
    if operator in (ast.Lt, ast.LtE):
        greater, lesser = lesser, greater
    reader = _Reader(experiment, results, metric)
    try:
        cells = {*reader.cells(greater), *reader.cells(lesser)}
        seeds = reader.common_seeds(cells)
        differences = [reader.value(greater, seed) - reader.value(lesser, seed) for seed in seeds]
    except MissingCell as missing:
        return Verdict(claim["says"], check, "undecided", str(missing))
    except (ValueError, ZeroDivisionError) as error:
        return Verdict(claim["says"], check, "undecided", f"not defined: {error}")
    verdict, why, half = _decide(differences, strict=operator in (ast.Gt, ast.Lt))
    lost = reader.lost(cells)
    if lost:  # what the other seeds say is no verdict: those that are gone may be just the bad ones
        verdict, why = "undecided", f"{lost}; without them: {why}"
    return Verdict(claim["says"], check, verdict, why, dict(zip(seeds, differences)), half)


def _decide(differences: list[float], strict: bool) -> tuple[str, str, float]:
    """Verdict, statistic and half of its interval for paired differences that should be above zero (not below it, if
    not strict)."""
    n = len(differences)
    if n == 0:
        return "undecided", "no seed common to its cells", 0.0
    mean = sum(differences) / n
    if n == 1:
        return "undecided", f"difference {mean:+.3g} from one seed", 0.0
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * deviation / math.sqrt(n)
    why = f"difference {mean:+.3g} ± {half:.2g} (90 % interval, {n} paired seeds)"
    if mean - half > 0 or (not strict and mean >= 0):
        return "holds", why, half
    if mean + half < 0 or (mean == 0 and half == 0):
        return "fails", why, half
    return "undecided", why, half


def _named(cell: tuple[str, ...]) -> str:
    """A cell as claims name it."""
    return f"{cell[0]}[{', '.join(cell[1:])}]" if len(cell) > 1 else cell[0]


class _Reader:
    """Evaluates the expressions of a claim."""

    def __init__(self, experiment: Experiment, results: Results, metric: str) -> None:
        self.metrics = experiment.layout.metrics
        self.results = results
        self.metric = metric
        self.narrowed = experiment.narrowed
        self.known = set(experiment.cells)

    def cells(self, node: ast.expr) -> set[tuple[tuple[str, ...], str]]:
        """The cells (and metrics) that an expression reads."""
        cell = self._cell(node)
        if cell is not None:
            return {cell}
        if isinstance(node, ast.BinOp):
            return self.cells(node.left) | self.cells(node.right)
        if isinstance(node, ast.UnaryOp):
            return self.cells(node.operand)
        if isinstance(node, ast.Call):
            return set().union(*(self.cells(argument) for argument in node.args))
        return set()

    def common_seeds(self, cells: set[tuple[tuple[str, ...], str]]) -> list[Any]:
        """Seeds for which every cell has its metric."""
        common: set[Any] | None = None
        for cell, metric in cells:
            seeds = {seed for seed, metrics in self.results.values.get(cell, {}).items() if metric in metrics}
            if not seeds:
                raise MissingCell(self.lost({(cell, metric)}) or f"{_named(cell)} not finished")
            common = seeds if common is None else common & seeds
        return sorted(common or set())

    def lost(self, cells: set[tuple[tuple[str, ...], str]]) -> str:
        """Which finished seeds of these cells have no number; nothing if all have."""
        found = []
        for cell, metric in sorted(cells):
            reasons = list(self.results.lost.get(cell, {}).get(metric, {}).values())
            found += [f"{reasons.count(why)} {why} in {_named(cell)}" for why in dict.fromkeys(reasons)]
        return ", ".join(found)

    def value(self, node: ast.expr, seed: Any) -> float:
        """An expression's value for one seed."""
        cell = self._cell(node)
        if cell is not None:
            return self.results.values[cell[0]][seed][cell[1]]
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return float(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self.value(node.operand, seed)
        if isinstance(node, ast.BinOp):
            left, right = self.value(node.left, seed), self.value(node.right, seed)
            match node.op:
                case ast.Add():
                    return left + right
                case ast.Sub():
                    return left - right
                case ast.Mult():
                    return left * right
                case ast.Div():
                    return left / right
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            return FUNCTIONS[node.func.id](*(self.value(argument, seed) for argument in node.args))
        raise ConfigError(f"claim: cannot read {ast.unparse(node)!r}")

    def _cell(self, node: ast.AST) -> tuple[tuple[str, ...], str] | None:
        """``name``, ``name[a, b]`` or ``cell('name', a, b)`` as a cell and a metric; None if it is something else."""
        parts: list[ast.expr]
        if isinstance(node, ast.Name) and node.id not in FUNCTIONS and node.id != "cell":
            name, parts = node.id, []
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            name = node.value.id
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cell":
            name, parts = self._plain(node.args[0]), list(node.args[1:])
        else:
            return None
        labels, metric = [name], self.metric
        for part in parts:
            label = self._plain(part)
            if label in self.metrics:
                metric = label
            else:
                labels.append(label)
        return self._complete(tuple(labels), metric)

    def _complete(self, labels: tuple[str, ...], metric: str) -> tuple[tuple[str, ...], str]:
        matching = {cell for cell in self.known if cell[: len(labels)] == labels}
        if not matching and self.narrowed:
            raise MissingCell(f"{_named(labels)} not finished")
        if not matching:
            raise ConfigError(f"claim: {'/'.join(labels)} is no cell of the table")
        if len(matching) > 1:
            raise ConfigError(f"claim: {'/'.join(labels)} is {len(matching)} cells; add the columns in brackets")
        return matching.pop(), metric

    @staticmethod
    def _plain(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return canonical(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return canonical(-node.operand.value)  # type: ignore[operator]
        if isinstance(node, ast.Name):
            return node.id
        raise ConfigError(f"claim: {ast.unparse(node)!r} names no row or column")
