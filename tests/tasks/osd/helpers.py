"""Weights with a fixed sequence of gradients, and a small language model, for the tests of the optimizers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from decathlon.language import new_llama
from decathlon.randomness import generator


def gradients(rows: int, columns: int, steps: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Gradients with a common part that drifts, as those of a training have."""
    random = generator("test gradients", seed)
    common = torch.randn(rows, columns, generator=random, dtype=torch.float64)
    made = []
    for _ in range(steps):
        common = 0.9 * common + 0.3 * torch.randn(rows, columns, generator=random, dtype=torch.float64)
        made.append((common + 0.5 * torch.randn(rows, columns, generator=random, dtype=torch.float64)).to(dtype))
    return made


def weight(rows: int, columns: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(rows, columns, generator=generator("test weight", seed)).to(dtype))


def follow(
    make: Callable[[Any], torch.optim.Optimizer],
    start: Tensor,
    given: Iterable[Tensor],
    rank: int | None = 4,
    prepare: Callable[[torch.optim.Optimizer, Tensor], None] | None = None,
) -> tuple[list[Tensor], torch.optim.Optimizer, torch.nn.Parameter]:
    """The weight after each of the given gradients, the optimizer, and the parameter."""  # fmt: skip
    p = torch.nn.Parameter(start.detach().clone())
    optimizer = make([{"params": [p], "rank": rank}])
    if prepare is not None:
        prepare(optimizer, p)
    path = []
    for gradient in given:
        p.grad = gradient.clone()
        optimizer.step()
        path.append(p.detach().clone())
    return path, optimizer, p


def relative(a: Tensor, b: Tensor) -> float:
    return float((torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)).detach())


def llama(seed: int = 0, **sizes: Any) -> Any:
    return new_llama(64, **{"width": 32, "layers": 2, "heads": 2, "inner": 88, "seed": seed, **sizes})


def batch(step: int, rows: int = 2, length: int = 16) -> Tensor:
    """Tokens of a step: sequences that count upwards, so that there is something to learn."""
    start = torch.randint(0, 64, (rows, 1), generator=generator("test batch", step))
    return (start + torch.arange(length)) % 64


def train(model: Any, optimizer: Any, steps: Iterable[int], scheduler: Any = None) -> list[float]:
    losses = []
    for step in steps:
        ids = batch(step)
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.detach().item())
    return losses
