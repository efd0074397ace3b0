"""Subsets by influence on validation loss or parameters: GLISTER, influence functions, dataset pruning."""

import torch
from torch import Tensor

from decathlon.pruning.evidence import Evidence, chunks, mean_gradient, residual, with_one


def alignment(embeddings: Tensor, residuals: Tensor, direction: Tensor) -> Tensor:
    """<g_i, direction> of every sample's head gradient with ``direction`` (T, d + 1): (n,)."""
    parts = [((with_one(embeddings[rows]) @ direction.T) * residuals[rows]).sum(1) for rows in chunks(len(embeddings))]
    return torch.cat(parts)


def glister(evidence: Evidence, k: int, rounds: int = 100, eta: float = 1.0, target: str = "validation") -> Tensor:
    """Greedy: add the samples whose gradients lower the validation loss. Killamsetty et al. (AAAI 2021).

    In each of ``rounds`` rounds the k / rounds samples with the largest <g_i, G> join; then the logits of the
    validation set move by one first-order step of size ``eta`` along the mean gradient of the new ones, and G
    is computed anew.

    Args:
        target: ``validation`` or ``training``, the set whose loss is to fall.
    """
    if target not in ("validation", "training"):
        raise ValueError(f"target={target!r} is no set; choose validation or training")
    own = evidence.residual
    if target == "training":
        z, logits, labels = evidence.embeddings, evidence.logits.clone(), evidence.labels
    else:
        z, logits, labels = evidence.val_embeddings, evidence.val_logits.clone(), evidence.val_labels
    free = torch.zeros(len(evidence))
    indices = []
    for size in _rounds(k, rounds):
        goal = mean_gradient(z, residual(logits, labels, evidence.regression))
        new = (alignment(evidence.embeddings, own, goal) + free).topk(size).indices
        free[new] = -torch.inf
        indices.append(new)
        step = mean_gradient(evidence.embeddings[new], own[new])
        for rows in chunks(len(z)):
            logits[rows] -= eta * (with_one(z[rows]) @ step.T)
    return torch.cat(indices)


def inverse_hessian(evidence: Evidence, damping: float) -> Tensor:
    """Inverse of the damped Hessian of the training loss by the head, one block per task: (T, d + 1, d + 1).

    The block of task t is mean_i h_it [z_i, 1] [z_i, 1]^T + lambda I with h = p (1 - p) (1 for a regression)
    and 0 where the label is unknown. lambda = ``damping`` times the mean of the block's diagonal: damping is
    relative.
    """
    n, tasks = evidence.logits.shape
    width = evidence.embeddings.shape[1] + 1
    hessian = torch.zeros(tasks, width, width, dtype=torch.float64)
    for rows in chunks(n):
        p = evidence.logits[rows].sigmoid()
        curvature = torch.ones_like(p) if evidence.regression else p * (1 - p)
        curvature = curvature * ~torch.isnan(evidence.labels[rows])
        z = with_one(evidence.embeddings[rows])
        for task in range(tasks):
            hessian[task] += (z.T @ (z * curvature[:, task, None])).double() / n
    scale = hessian.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    ridge = damping * scale[:, None, None] * torch.eye(width, dtype=torch.float64)
    return torch.linalg.inv(hessian + ridge).float()


def influence(evidence: Evidence, damping: float = 0.01) -> Tensor:
    """I(i) = -G_val^T H^-1 g_i, the first-order change of the validation loss when i is weighted up: (n,).

    Koh and Liang (ICML 2017), of the linear head.
    """
    goal = mean_gradient(
        evidence.val_embeddings, residual(evidence.val_logits, evidence.val_labels, evidence.regression)
    )
    direction = torch.einsum("tij,tj->ti", inverse_hessian(evidence, damping), goal)
    return -alignment(evidence.embeddings, evidence.residual, direction)


def parameter_changes(
    evidence: Evidence, generator: torch.Generator, damping: float = 0.01, width: int = 256
) -> Tensor:
    """S_i = H^-1 g_i, the change of the head when i is weighted up: (n, T (d + 1)).

    Where that has more than 2 ``width`` columns it is projected at random to ``width`` of them, which keeps
    lengths.
    """
    inverse = inverse_hessian(evidence, damping)
    tasks, size, _ = inverse.shape
    own = evidence.residual
    if tasks * size <= 2 * width:
        blocks = [own[:, task, None] * (with_one(evidence.embeddings) @ inverse[task]) for task in range(tasks)]
        return torch.cat(blocks, dim=1)
    changes = torch.zeros(len(evidence), width)
    for task in range(tasks):
        projection = inverse[task] @ torch.randn(size, width, generator=generator) / width**0.5
        for rows in chunks(len(evidence)):
            changes[rows] += own[rows, task, None] * (with_one(evidence.embeddings[rows]) @ projection)
    return changes


def smallest_sum(changes: Tensor, size: int, rounds: int = 2000) -> Tensor:
    """Greedily choose ``size`` rows whose sum is short: (size,) positions. Yang et al. (ICLR 2023).

    Minimises ||sum_{i in W} S_i||: each round adds the size / rounds rows i of smallest ||sum_W + S_i||; with
    rounds >= size one by one.

    Args:
        changes: (n, w).
    """
    if size == 0:
        return torch.arange(0)
    square = changes.square().sum(1)
    total = torch.zeros_like(changes[0])
    taken = torch.zeros(len(changes))
    indices = []
    for count in _rounds(size, rounds):
        length = square + 2 * (changes @ total) + taken
        new = length.topk(count, largest=False).indices
        taken[new] = torch.inf
        total += changes[new].sum(0)
        indices.append(new)
    return torch.cat(indices)


def _rounds(k: int, rounds: int) -> list[int]:
    """k as a sum of at most ``rounds`` nearly equal positive numbers."""
    rounds = min(k, rounds)
    return [k // rounds + (r < k % rounds) for r in range(rounds)]
