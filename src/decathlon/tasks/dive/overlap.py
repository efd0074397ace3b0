"""How much the edge masks of several members overlap: Jaccard indices (DIVE, section 4.3)."""

import torch
from torch import Tensor

EPS = 1e-8
OVER = ("batch", "graph")


def pairwise_jaccard(masks: Tensor, graph: Tensor | None = None) -> Tensor:
    """J(i, j) = I / (U + eps), I = sum_e a_e b_e, U = sum_e (a_e + b_e - a_e b_e), of all pairs of masks: (m, m).

    For 0/1 masks it is intersection over union; two empty masks have 0. Its gradient in a is 1/U where b is 1 and
    -I/U^2 where b is 0.

    Args:
        masks: (m, E), in [0, 1].
        graph: (E,) int64, the graph of each edge: then a ratio for each graph, and their mean over the graphs that have
            edges. By default one ratio over all edges.
    """
    if graph is None:
        both, total = masks @ masks.T, masks.sum(1)
        return both / (total[:, None] + total - both + EPS)
    _, graph = torch.unique(graph, return_inverse=True)
    m, count = len(masks), int(graph.max()) + 1 if len(graph) else 0
    products = (masks[:, None] * masks).flatten(0, 1)
    both = masks.new_zeros(m * m, count).index_add(1, graph, products).view(m, m, count)
    total = masks.new_zeros(m, count).index_add(1, graph, masks)
    ratios = both / (total[:, None] + total - both + EPS)
    return ratios.sum(2) / max(count, 1)


def diversity(masks: Tensor, graph: Tensor | None = None) -> Tensor:
    """The mean of J(i, j) over the ordered pairs of different masks: a number; exactly 0 for one mask."""
    m = len(masks)
    if m < 2:
        return masks.new_zeros(())
    table = pairwise_jaccard(masks, graph)
    i, j = torch.triu_indices(m, m, 1, device=masks.device)
    return table[i, j].mean()


def independent_jaccard(rates: Tensor) -> Tensor:
    """What ``diversity`` tends to where the masks are independent with these keep rates (m,): a number.

    Two masks with rates r and s have r s / (r + s - r s), so sparse masks alone overlap little: r / (2 - r) at r = s.
    """
    m = len(rates)
    if m < 2:
        return rates.new_zeros(())
    i, j = torch.triu_indices(m, m, 1, device=rates.device)
    both = rates[i] * rates[j]
    return (both / (rates[i] + rates[j] - both + EPS)).mean()
