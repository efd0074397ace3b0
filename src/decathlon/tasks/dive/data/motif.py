"""GOOD-Motif (Gui et al., NeurIPS 2022): a base graph with a motif that gives the label, all graphs drawn at once.

The rules are those of the benchmark's generator; the random numbers are not, so the graphs are others of the same law.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from decathlon.graphs.packing import PackedGraphs, packed_graphs

BASES = ("wheel", "tree", "ladder", "star", "path")
MOTIFS = ("house", "cycle", "crane")
WHEEL, TREE, LADDER, STAR, PATH = range(5)
MOTIF_NODES = 5
MOTIF_EDGES = (
    ((0, 1), (0, 4), (1, 4), (1, 2), (3, 4), (2, 3)),
    ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0)),
    ((0, 1), (0, 3), (1, 2), (1, 4), (2, 3), (3, 4)),
)
LABEL_NOISE = 0.1
NOISE_EDGES = 0.05
Array = np.ndarray


@dataclass(frozen=True)
class Draw:
    """What n graphs are made of: ``motif``, ``base`` (numbers in the lists above), ``width`` of the base, each (n,)."""

    motif: Array
    base: Array
    width: Array


def base_nodes(base: Array, width: Array) -> Array:
    """Number of nodes of each base graph."""
    height = np.maximum(1, np.floor(np.log2(width)).astype(np.int64) - 1)
    return np.choose(base, [width, 2 ** (height + 1) - 1, 2 * width, width + 1, width])


# (base, number of edges for a width and a number of nodes, ends of edge j of a graph of width w)
_Family = tuple[int, Callable[[Array, Array], Array], Callable[[Array, Array], tuple[Array, Array]]]
_FAMILIES: list[_Family] = [
    (WHEEL, lambda w, n: w - 1, lambda j, w: (0 * j, j + 1)),
    (WHEEL, lambda w, n: np.where(w > 3, w - 1, np.maximum(w - 2, 0)), lambda j, w: (1 + j, 1 + (j + 1) % (w - 1))),
    (TREE, lambda w, n: n - 1, lambda j, w: (j // 2, j + 1)),
    (LADDER, lambda w, n: w - 1, lambda j, w: (j, j + 1)),
    (LADDER, lambda w, n: w - 1, lambda j, w: (w + j, w + j + 1)),
    (LADDER, lambda w, n: w, lambda j, w: (j, w + j)),
    (STAR, lambda w, n: w, lambda j, w: (0 * j, j + 1)),
    (PATH, lambda w, n: w - 1, lambda j, w: (j, j + 1)),
]


def _places(count: Array) -> Array:
    """0, 1, … count[0] - 1, 0, 1, … count[1] - 1, …"""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)


def _base_edges(draw: Draw, nodes: Array) -> tuple[Array, Array, Array]:
    """Graph, and two ends, of every undirected edge of the base graphs."""
    parts: list[tuple[Array, Array, Array]] = []
    for kind, number, ends in _FAMILIES:
        graphs = np.flatnonzero(draw.base == kind)
        count = number(draw.width[graphs], nodes[graphs])
        u, v = ends(_places(count), np.repeat(draw.width[graphs], count))
        parts.append((np.repeat(graphs, count), u, v))
    return tuple(np.concatenate(column) for column in zip(*parts))  # type: ignore[return-value]


def _motif_edges(motif: Array, first: Array) -> tuple[Array, Array, Array]:
    """Graph, and two ends, of every edge of the motifs, whose nodes begin at ``first``."""
    parts: list[tuple[Array, Array, Array]] = []
    for kind, edges in enumerate(MOTIF_EDGES):
        graphs = np.flatnonzero(motif == kind)
        ends = np.array(edges)
        at = np.repeat(graphs, len(ends))
        u, v = np.tile(ends[:, 0], len(graphs)), np.tile(ends[:, 1], len(graphs))
        parts.append((at, first[at] + u, first[at] + v))
    return tuple(np.concatenate(column) for column in zip(*parts))  # type: ignore[return-value]


def _has_role_zero(node: Array, draw: Draw, base_size: Array) -> Array:
    """Whether a node of each graph is one that noise edges may start from: no motif, no leaf of a star or path."""
    inside = node < base_size
    hub = (draw.base == STAR) & (node == 0)
    middle = (draw.base == PATH) & (node > 0) & (node < draw.width - 1)
    return inside & ((draw.base < STAR) | hub | middle)


def _noise_edges(
    draw: Draw, base_size: Array, edges: tuple[Array, Array, Array], rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """floor(0.05 |E|) attempts for each graph: a uniform pair that is no edge, kept if one end has role zero."""
    graph, u, v = edges
    n = base_size + MOTIF_NODES
    stride = int(n.max())
    there = np.sort(np.concatenate([(graph * stride + u) * stride + v, (graph * stride + v) * stride + u]))
    attempts = np.floor(NOISE_EDGES * np.bincount(graph, minlength=len(n))).astype(np.int64)
    kept: list[tuple[Array, Array, Array]] = []
    for attempt in range(int(attempts.max(initial=0))):
        open_ = np.flatnonzero(attempts > attempt)
        a, b = np.zeros(len(n), np.int64), np.zeros(len(n), np.int64)
        while len(open_):  # until each has a pair of different nodes that is no edge yet
            a[open_], b[open_] = rng.integers(0, n[open_]), rng.integers(0, n[open_])
            key = (open_ * stride + a[open_]) * stride + b[open_]
            at = np.minimum(np.searchsorted(there, key), len(there) - 1)
            open_ = open_[(a[open_] == b[open_]) | (there[at] == key)]
        drawn = np.flatnonzero(attempts > attempt)
        narrow = Draw(draw.motif[drawn], draw.base[drawn], draw.width[drawn])
        good = _has_role_zero(a[drawn], narrow, base_size[drawn]) | _has_role_zero(b[drawn], narrow, base_size[drawn])
        drawn = drawn[good]
        kept.append((drawn, a[drawn], b[drawn]))
        new = [(drawn * stride + a[drawn]) * stride + b[drawn], (drawn * stride + b[drawn]) * stride + a[drawn]]
        there = np.sort(np.concatenate([there, *new]), kind="stable")
    empty = np.zeros(0, np.int64)
    return tuple(np.concatenate([empty, *column]) for column in zip(*kept)) if kept else (empty, empty, empty)  # type: ignore[return-value]


def build_graphs(draw: Draw, environment: Array, rng: np.random.Generator) -> PackedGraphs:
    """The graphs of a draw.

    Returns:
        Packed graphs with ``x`` (N, 1) of ones; ``node_gt`` (N,) and ``edge_gt`` (E,) bool, whether it is of the motif
        (neither the bridge nor noise edges are); for each graph ``y`` (n, 1) float32 the label, ``motif``, ``base``,
        ``width`` and ``env`` (n,) int64.
    """
    size = base_nodes(draw.base, draw.width)
    bridge = rng.integers(0, size)
    graphs = np.arange(len(size))
    parts = [_base_edges(draw, size), _motif_edges(draw.motif, size), (graphs, bridge, size)]
    graph, u, v = (np.concatenate(column) for column in zip(*parts))
    noise = _noise_edges(draw, size, (graph, u, v), rng)
    graph, u, v = (np.concatenate([old, new]) for old, new in zip((graph, u, v), noise))
    order = np.argsort(graph, kind="stable")
    graph, u, v = graph[order], u[order], v[order]
    count = np.bincount(graph, minlength=len(size))
    nodes = size + MOTIF_NODES
    noisy = rng.random(len(size)) < LABEL_NOISE
    label = np.where(noisy, rng.integers(0, len(MOTIFS), len(size)), draw.motif)
    both = np.stack([np.stack([u, v], 1), np.stack([v, u], 1)], 1).reshape(-1, 2).T  # each edge, then its counterpart
    in_motif = np.repeat((u >= size[graph]) & (v >= size[graph]), 2)
    of_node = np.repeat(size, nodes)
    return packed_graphs(
        torch.from_numpy(nodes), torch.from_numpy(2 * count), torch.from_numpy(both.copy()),
        nodes={"x": torch.ones(int(nodes.sum()), 1), "node_gt": torch.from_numpy(_places(nodes) >= of_node)},
        edges={"edge_gt": torch.from_numpy(in_motif)},
        graphs={
            "y": torch.from_numpy(label).float()[:, None], "motif": torch.from_numpy(draw.motif),
            "base": torch.from_numpy(draw.base), "width": torch.from_numpy(draw.width),
            "env": torch.from_numpy(environment),
        },
    )  # fmt: skip


def _matched(motif: Array, ratio: Array, choices: int, rng: np.random.Generator) -> Array:
    """The motif's number with probability ``ratio``, else a uniform one."""
    return np.where(rng.random(len(motif)) < ratio, motif, rng.integers(0, choices, len(motif)))


def _wiggle(centre: Array, rng: np.random.Generator) -> Array:
    return centre + rng.integers(-5, 6, len(centre))


_SMALL = np.array([6, 10, 15])
_WIDE = np.array([10, 40, 70])


def draw_set(
    domain: str, shift: str, part: str, n: int, ratios: Sequence[float], rng: np.random.Generator
) -> tuple[Draw, Array]:
    """What the n graphs of a part (``train``, with the ID sets still in it, ``val`` or ``test``) are made of.

    Args:
        domain: ``basis`` or ``size``. shift: ``covariate``, ``concept`` or ``none``: all alike.
        ratios: how often the base (or the width) goes with the motif in a concept shift: one of each training
            environment, then of validation and test.

    Returns:
        The draw, and the environment of each graph.
    """
    motif = rng.integers(0, len(MOTIFS), n)
    environment = np.zeros(n, np.int64)
    if shift == "concept":
        of = ratios[:-2] if part == "train" else ratios[-2:-1] if part == "val" else ratios[-1:]
        environment = np.arange(n) * len(of) // max(n, 1)
        spurious = _matched(motif, np.array(of)[environment], 3, rng)
        if domain == "basis":
            return Draw(motif, spurious, _wiggle(np.full(n, 10), rng)), environment
        return Draw(motif, rng.integers(0, len(BASES), n), _wiggle(_WIDE[spurious], rng)), environment
    if domain == "basis":
        base = rng.integers(0, 3, n)
        if shift == "none":
            base = rng.integers(0, len(BASES), n)
        elif part != "train":
            base = np.full(n, STAR if part == "val" else PATH)
        return Draw(motif, base, _wiggle(np.full(n, 10), rng)), base
    index = rng.integers(0, 3, n)
    centre = _SMALL[index]
    if part != "train" and shift != "none":
        centre = np.full(n, 30 if part == "val" else 70)
    return Draw(motif, rng.integers(0, len(BASES), n), _wiggle(centre, rng)), index
