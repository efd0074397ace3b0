"""Piecewise Hermite polynomials, cubic or quartic, with a history before their first node."""

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]
INNER = (3 - 3**0.5) / 6
"""Where in a piece its third slope is taken: there it says most about the fourth power (in the middle nothing)."""


def slope_of(function: Field, t: Tensor) -> Tensor:
    """Derivative by ``t`` (N,) of a function that acts point by point, (N,) -> (n, N); differentiable once more."""
    with torch.enable_grad():
        leaf = t if t.requires_grad else t.detach().requires_grad_()
        values = function(leaf)
        rows = []
        for row in values:
            slope = None
            if row.requires_grad:
                (slope,) = torch.autograd.grad(row.sum(), leaf, create_graph=True, allow_unused=True)
            rows.append(torch.zeros_like(t) if slope is None else slope)
    found = torch.stack(rows)
    return found if torch.is_grad_enabled() else found.detach()


class PiecewiseHermite:
    """A function y of time, known before its first node and a cubic, or a quartic, between nodes.

    The slope may jump at a node, so each piece has slopes of its own; the value may jump at the first node only.

    Args:
        history: y (n, N) at times (N,) before the first node.
        nodes: (K + 1,), ascending. values: (n, K + 1).
        slopes: (n, K, 2), at the start and at the end of each piece; (n, K, 3) with those at its fraction ``INNER``:
            then pieces are quartic.
    """

    def __init__(self, history: Field, nodes: Tensor, values: Tensor, slopes: Tensor) -> None:
        self.history, self.nodes, self.values, self.slopes = history, nodes, values, slopes

    @property
    def start(self) -> Tensor:
        """The first node."""
        return self.nodes[0]

    def extended(self, nodes: Tensor, values: Tensor, slopes: Tensor) -> "PiecewiseHermite":
        """This function with more pieces at its end."""
        return PiecewiseHermite(
            self.history,
            torch.cat([self.nodes, nodes]),
            torch.cat([self.values, values], dim=1),
            torch.cat([self.slopes, slopes], dim=1),
        )

    def __call__(self, s: Tensor, side: Tensor | float = 0.0, derivative: bool = False) -> Tensor:
        """Values (n, N), or slopes, at times ``s`` (N,).

        Args:
            s: times; beyond the last node the last piece is continued.
            side: small displacements that say which piece counts at a node: negative the one before, else the one
                after.
            derivative: the slopes.
        """
        place = (s + side).detach()
        before = place < self.nodes[0].detach()
        if bool(before.all()):
            return self._past(s, derivative)
        if not bool(before.any()):
            return self._pieces(s, place, derivative)
        found = self.values.new_zeros(len(self.values), len(s))
        early, late = torch.nonzero(before)[:, 0], torch.nonzero(~before)[:, 0]
        found = found.index_copy(1, early, self._past(s[early], derivative))
        return found.index_copy(1, late, self._pieces(s[late], place[late], derivative))

    def _past(self, s: Tensor, derivative: bool) -> Tensor:
        """The history, never asked beyond the first node, where it need not be defined."""
        s = torch.minimum(s, self.nodes[0])
        return slope_of(self.history, s) if derivative else self.history(s)

    def _pieces(self, s: Tensor, place: Tensor, derivative: bool) -> Tensor:
        last = self.slopes.shape[1] - 1
        if last < 0:  # no piece yet: nothing but the first node can be read
            return torch.zeros_like(self.values) + 0 * s if derivative else self.values + 0 * s
        piece = (torch.searchsorted(self.nodes.detach(), place, right=True) - 1).clamp(0, last)
        start = self.nodes[piece]
        width = self.nodes[piece + 1] - start
        x = (s - start) / width
        y0, y1 = self.values[:, piece], self.values[:, piece + 1]
        f0, f1 = self.slopes[:, piece, 0], self.slopes[:, piece, 1]
        found = cubic(x, width, y0, y1, f0, f1, derivative)
        if self.slopes.shape[2] == 2:
            return found
        inner = self.slopes[:, piece, 2] - cubic(torch.full_like(x, INNER), width, y0, y1, f0, f1, derivative=True)
        return found + inner * _bump(x, width, derivative)


def cubic(x: Tensor, width: Tensor, y0: Tensor, y1: Tensor, f0: Tensor, f1: Tensor, derivative: bool = False) -> Tensor:
    """The cubic with values y0, y1 and slopes f0, f1 at both ends of an interval, or its slope, at fractions ``x``."""
    rise = y1 - y0
    if derivative:
        return 6 * x * (1 - x) * rise / width + (1 - x) * (1 - 3 * x) * f0 + x * (3 * x - 2) * f1
    inner = (1 - x) * (width * f0 - rise) + x * (rise - width * f1)
    return y0 + x * (rise + (1 - x) * inner)


def _bump(x: Tensor, width: Tensor, derivative: bool) -> Tensor:
    """The quartic whose values and slopes are 0 at both ends and whose slope at ``INNER`` is 1, or its slope."""
    scale = 2 * INNER * (1 - INNER) * (1 - 2 * INNER)
    if derivative:
        return 2 * x * (1 - x) * (1 - 2 * x) / scale
    return width * (x * (1 - x)).square() / scale
