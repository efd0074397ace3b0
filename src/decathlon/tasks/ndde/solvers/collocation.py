"""Parameter cascading: all windows and all unknowns at once, by least squares (Ramsay et al. 2007)."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decathlon.equations.bases import Basis, Pieces, chebyshev_roots
from decathlon.equations.second_order import LevenbergMarquardt
from decathlon.tasks.ndde.observations import Observations
from decathlon.tasks.ndde.problem import DDE
from decathlon.tasks.ndde.residual import Collocation, Key
from decathlon.tasks.ndde.verdict import window_fault


class Cascade:
    """Levenberg-Marquardt on ``sum (data)^2 + weight * sum (residual)^2 + (edges)^2``, the weight growing stage by
    stage.

    Args:
        basis: on each of ``windows`` equal windows, with ``points`` collocation points.
        weights: of the equation, one stage for each.
        iterations: of each stage, at most. starts: of the delays; the first is the problem's own.
    """

    def __init__(
        self, problem: DDE, observations: Observations, basis: Basis, windows: int, points: int,
        weights: list[float], iterations: int, starts: int,
    ) -> None:  # fmt: skip
        self.problem, self.observations, self.basis = problem, observations, basis
        self.weights, self.iterations, self.starts = weights, iterations, starts
        start, end = problem.span
        self.edges = torch.linspace(start, end, windows + 1, dtype=torch.float64)
        x = (chebyshev_roots(points) + 1) / 2
        self.t = (self.edges[:-1, None] + (self.edges[1:] - self.edges[:-1])[:, None] * x).reshape(-1)
        self.shape = (windows, problem.size, basis.size)
        self.size = math.prod(self.shape)
        self.stage = self.start = 0
        self.minimiser: LevenbergMarquardt | None = None
        self.ends: list[tuple[float, Tensor]] = []
        values = observations.values[observations.seen]
        self.scale = float(values.abs().max().clamp(min=1e-12))

    def advance(self) -> dict[str, float]:
        """One stage from one start."""
        if self.stage == 0:
            x = self._begin()
        else:
            assert self.minimiser is not None
            x = self.minimiser.x
        self.minimiser = LevenbergMarquardt(x, damping=1e-4)
        weight, before = self.weights[self.stage], math.inf
        while self.minimiser.iterations < self.iterations and self.minimiser.step(
            lambda x: self.rows(x, weight, False)[0], lambda x: self.rows(x, weight, True)
        ):
            if before - self.minimiser.value < 1e-9 * self.minimiser.value:
                break
            before = self.minimiser.value
        self.stage += 1
        found = {"objective": self.minimiser.value, "weight": weight}
        found |= {slot.name: float(v) for slot, v in zip(self.problem.slots, self.minimiser.x[self.size :])}
        if self.stage == len(self.weights):
            self.ends.append((self.minimiser.value, torch.from_numpy(self.minimiser.x.copy())))
            self.stage, self.start = 0, self.start + 1
        return found

    def _begin(self) -> np.ndarray:
        """Constant curves through the means of the observations, and the unknowns at this start."""
        values = torch.tensor([slot.unknown.start for slot in self.problem.slots], dtype=torch.float64)
        length = self.problem.span[1] - self.problem.span[0]
        for k, slot in enumerate(self.problem.slots):
            low, high = slot.unknown.low, slot.unknown.high
            if slot.delay and self.start > 0:
                a, b = (0.0 if low is None else low), (length if high is None else high)
                values[k] = a + (b - a) * (self.start / self.starts) ** 2 / 2
        seen = self.observations.seen
        means = (self.observations.values.nan_to_num() * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        x = chebyshev_roots(40)
        system, one = self.basis.at(x)[0].t(), torch.ones(40, 1, dtype=torch.float64)
        ones = torch.linalg.lstsq(system, one, driver="gelsd").solution[:, 0]
        c = means[None, :, None] * ones
        return torch.cat([c.expand(self.shape).reshape(-1), values]).numpy()

    def best(self) -> tuple[Tensor, Pieces, str]:
        """Unknowns and curve of the start with the lowest objective, those with a fault last; and the fault."""
        ranked = []
        for value, x in self.ends:
            fault = window_fault(self.problem, x[self.size :])
            ranked.append((bool(fault) or not math.isfinite(value), value, fault, x))
        _, value, fault, x = min(ranked, key=lambda item: item[:2])
        reason = fault or ("" if math.isfinite(value) else "the search has diverged")
        return x[self.size :], Pieces(self.basis, self.edges, x[: self.size].reshape(self.shape)), reason

    # Residuals and Jacobian

    def rows(self, x: np.ndarray, weight: float, jacobian: bool) -> tuple[np.ndarray, np.ndarray]:
        """The residual vector (M,), and its Jacobian (M, size + m)."""
        flat = torch.from_numpy(np.array(x))
        c = flat[: self.size].reshape(self.shape)
        curve = _CurveCandidate(Pieces(self.basis, self.edges, c), jacobian)
        count = len(self.t)
        own = flat[self.size :, None].expand(-1, count).clone().requires_grad_(jacobian)
        values = (
            own if jacobian and not self.problem.history_depends else flat[self.size :].clone().requires_grad_(jacobian)
        )
        instance = self.problem.at(values)
        residual, _ = Collocation(self.t).residual(instance, curve)
        factor = math.sqrt(weight / count)
        blocks = [(factor * residual.detach()).reshape(-1)]
        jacobians = []
        if jacobian:
            jacobians.append(factor * self._equation_jacobian(residual, values, curve))
        for r, j in (self._edges(c), self._data(c), self._initial(flat, c, jacobian)):
            blocks.append(r)
            jacobians.append(j)
        return torch.cat(blocks).numpy(), torch.cat(jacobians).numpy() if jacobian else np.zeros((0, 0))

    def _equation_jacobian(self, residual: Tensor, values: Tensor, curve: "_CurveCandidate") -> Tensor:
        count, n, m = len(self.t), self.problem.size, len(values)
        found = torch.zeros(n, count, self.size + m, dtype=torch.float64)
        leaves = [values, *(leaf for leaf, _, _, _, _ in curve.leaves)]
        for i in range(n):
            grads = torch.autograd.grad(residual[i].sum(), leaves, retain_graph=True, allow_unused=True)
            if grads[0] is not None and values.ndim == 2:
                found[i, :, self.size :] = grads[0].t()
            for grad, (_, j, features, piece, where) in zip(grads[1:], curve.leaves):
                if grad is not None:
                    base = (piece * n + j) * self.basis.size
                    columns = base[:, None] + torch.arange(self.basis.size)
                    found[i, where[:, None], columns] += (grad * features).t()
        if values.ndim == 1:  # unknowns that all times share: one row after the other
            flat = residual.reshape(-1)
            for row in range(len(flat)):
                (grad,) = torch.autograd.grad(flat[row], values, retain_graph=True, allow_unused=True)
                if grad is not None:
                    found[row // count, row % count, self.size :] = grad
        return found.reshape(n * count, -1)

    def _linear(self, features: Tensor, piece: Tensor, j: Tensor) -> Tensor:
        """Rows (M, size + m) of values of components ``j`` (M,) by the coefficients; features (size, M)."""
        rows = torch.zeros(len(piece), self.size + len(self.problem.slots), dtype=torch.float64)
        columns = ((piece * self.problem.size + j) * self.basis.size)[:, None] + torch.arange(self.basis.size)
        rows[torch.arange(len(piece))[:, None], columns] = features.t()
        return rows

    def _edges(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Gaps between neighbouring windows, heavily weighted."""
        ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        left, right = self.basis.at(ends)[0].unbind(1)
        n, windows = self.problem.size, self.shape[0]
        w = torch.arange(windows - 1).repeat_interleave(n)
        j = torch.arange(n).repeat(windows - 1)
        rows = self._linear(right[:, None].expand(-1, len(w)), w, j) - self._linear(
            left[:, None].expand(-1, len(w)), w + 1, j
        )
        rows = 1e3 * rows
        return rows[:, : self.size] @ c.reshape(-1), rows

    def _data(self, c: Tensor) -> tuple[Tensor, Tensor]:
        j, where = torch.nonzero(self.observations.seen, as_tuple=True)
        pieces = Pieces(self.basis, self.edges, c)
        t = self.observations.times[where]
        piece = pieces.place(t)
        rows = self._linear(pieces.features(t, piece)[0], piece, j) / math.sqrt(len(t))
        target = self.observations.values[j, where] / math.sqrt(len(t))
        return rows[:, : self.size] @ c.reshape(-1) - target, rows

    def _initial(self, flat: Tensor, c: Tensor, jacobian: bool) -> tuple[Tensor, Tensor]:
        """The gap to the start value."""
        values = flat[self.size :].clone().requires_grad_(jacobian)
        initial = self.problem.at(values).initial
        left = self.basis.at(torch.tensor([-1.0], dtype=torch.float64))[0]
        n = self.problem.size
        rows = 1e3 * self._linear(left.expand(-1, n), torch.zeros(n, dtype=torch.long), torch.arange(n))
        gap = rows[:, : self.size] @ c.reshape(-1) - 1e3 * initial.detach()
        if jacobian and initial.requires_grad:
            for k in range(n):
                (grad,) = torch.autograd.grad(initial[k], values, retain_graph=True)
                rows[k, self.size :] = -1e3 * grad
        return gap, rows

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "stage": self.stage,
            "start": self.start,
            "ends": [[value, x] for value, x in self.ends],
        }
        if self.minimiser is not None:
            state["minimiser"] = self.minimiser.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stage, self.start = int(state["stage"]), int(state["start"])
        self.ends = [(float(value), x) for value, x in state["ends"]]
        if "minimiser" in state:
            self.minimiser = LevenbergMarquardt(np.zeros(self.size + len(self.problem.slots)))
            self.minimiser.load_state_dict(state["minimiser"])


class _CurveCandidate:
    """Pieces as a candidate; for the Jacobian every value that is read gets a leaf, with the features behind it."""

    def __init__(self, pieces: Pieces, jacobian: bool) -> None:
        self.pieces, self.jacobian = pieces, jacobian
        self.leaves: list[tuple[Tensor, int, Tensor, Tensor, Tensor]] = []

    def prepare(self, t: Tensor, requests: dict[Key, Tensor]) -> None:
        pass

    def _with_leaf(self, value: Tensor, j: int, features: Tensor, piece: Tensor, where: Tensor) -> Tensor:
        if not self.jacobian:
            return value
        leaf = torch.zeros(len(where), dtype=torch.float64, requires_grad=True)
        self.leaves.append((leaf, j, features.detach(), piece, where))
        return value + leaf

    def jet(self, t: Tensor) -> tuple[Tensor, Tensor]:
        piece, rows = self.pieces.place(t), torch.arange(len(t))
        phi, dphi = self.pieces.features(t, piece)
        chosen = self.pieces.coefficients[piece]
        value, slope = torch.einsum("knj,jk->nk", chosen, phi), torch.einsum("knj,jk->nk", chosen, dphi)
        n = len(value)
        values = [self._with_leaf(value[j], j, phi, piece, rows) for j in range(n)]
        slopes = [self._with_leaf(slope[j], j, dphi, piece, rows) for j in range(n)]
        return torch.stack(values), torch.stack(slopes)

    def read(self, key: Key, s: Tensor, where: Tensor) -> Tensor:
        _, j, derivative = key
        piece = self.pieces.place(s)
        features = self.pieces.features(s, piece)[1 if derivative else 0]
        value = (self.pieces.coefficients[piece, j].t() * features).sum(dim=0)
        return self._with_leaf(value, j, features, piece, where)
