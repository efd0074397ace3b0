"""Dropout with cheap masks is dropout."""

import pytest
import torch

from decathlon.graphs.dropout import Dropout


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5])
def test_dropout(p: float) -> None:
    torch.manual_seed(0)
    layer = Dropout(p)
    x = torch.ones(1001, 301, requires_grad=True)
    y = layer(x)
    survivors = y[y != 0]
    assert len(survivors) / y.numel() == pytest.approx(1 - p, abs=5e-3)
    torch.testing.assert_close(survivors, torch.full_like(survivors, 1 / (1 - p)), rtol=1e-4, atol=0)
    assert y.mean().item() == pytest.approx(1, abs=1e-2)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    rows, columns = (y == 0).float().mean(1), (y == 0).float().mean(0)
    assert (rows - p).abs().max() < 0.15 and (columns - p).abs().max() < 0.1  # no row or column is special
    torch.manual_seed(0)
    assert (torch.equal(layer(x), y) and not torch.equal(layer(x), y)) or p == 0
    assert layer.eval()(x) is x or torch.equal(layer(x), x)
