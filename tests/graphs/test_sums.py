"""Sums over neighbours: values and gradients of the fast paths are those of gather and scatter."""

import pytest
import torch

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.pyg import from_pyg
from decathlon.graphs.sums import mean_segments, sum_messages, sum_neighbours, sum_segments, sum_weighted_neighbours
from tests.graphs.toy import random_graphs


@pytest.fixture(scope="module")
def batch() -> FeatureBatch:
    return from_pyg(random_graphs()).batch(torch.tensor([11, 3, 0, 7]))


def test_values(batch: FeatureBatch) -> None:
    h, weight = torch.randn(len(batch.x), 3), torch.rand(len(batch.neighbours))
    messages = h[batch.neighbours]
    plain = torch.zeros_like(h).index_add(0, batch.owner, messages)
    torch.testing.assert_close(sum_neighbours(h, batch.neighbours, batch.edge_starts), plain)
    torch.testing.assert_close(sum_messages(messages, batch.owner, len(h)), plain)
    torch.testing.assert_close(sum_segments(messages, batch.edge_starts), plain)
    weighted = torch.zeros_like(h).index_add(0, batch.owner, weight[:, None] * messages)
    found = sum_weighted_neighbours(h, weight, batch.neighbours, batch.edge_starts, batch.reverse)
    torch.testing.assert_close(found, weighted)
    means = [part.mean(0) for part in h.split(batch.node_starts.diff().tolist())]
    torch.testing.assert_close(mean_segments(h, batch.node_starts), torch.stack(means))


def test_gradients(batch: FeatureBatch) -> None:
    h = torch.randn(len(batch.x), 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(len(batch.neighbours), dtype=torch.float64, requires_grad=True)
    csr = batch.neighbours, batch.edge_starts
    assert torch.autograd.gradcheck(lambda x: sum_neighbours(x, *csr), h)
    assert torch.autograd.gradcheck(lambda x: mean_segments(x, batch.node_starts), h)
    assert torch.autograd.gradcheck(lambda x, w: sum_weighted_neighbours(x, w, *csr, batch.reverse), (h, weight))
