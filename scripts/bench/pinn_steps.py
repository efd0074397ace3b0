"""Time of one PDE step (residual loss and its parameter gradient) against nested autograd and DeepXDE, as ratios.

    python scripts/bench/pinn_steps.py [--scale 1.0] [--repeats 7] [--threads 1] [--no-deepxde]

Sizes are the paper's (``--scale`` shrinks them). The ways are timed in turn in one process and their medians are
compared; gradients are compared too, so that only equal work is timed. The nested autograd here is a frugal one: one
call per first gradient, and no second derivative that the equation does not use.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.equations import MLP, differentiate
from decathlon.equations.sampling import generator, latin_hypercube
from decathlon.tasks.pinn.problems import Beltrami, Burgers, Kovasznay, Problem, Schrodinger
from decathlon.tasks.pinn.problems.burgers import VISCOSITY
from decathlon.tasks.pinn.problems.kovasznay import REYNOLDS

Loss = Callable[[], Tensor]


def grad(field: Tensor, x: Tensor) -> Tensor:
    """Derivatives of a field by all coordinates, (n, coordinates), with a graph."""
    return torch.autograd.grad(field.sum(), x, create_graph=True)[0]


def nested_burgers(net: nn.Module, x: Tensor) -> Tensor:
    u = net(x)[:, 0]
    du = grad(u, x)
    u_xx = grad(du[:, 0], x)[:, 0]
    return (du[:, 1] + u * du[:, 0] - VISCOSITY * u_xx).square().mean()


def nested_schrodinger(net: nn.Module, x: Tensor) -> Tensor:
    u, v = net(x).unbind(1)
    du, dv = grad(u, x), grad(v, x)
    u_xx, v_xx = grad(du[:, 0], x)[:, 0], grad(dv[:, 0], x)[:, 0]
    square = u * u + v * v
    first, second = du[:, 1] + 0.5 * v_xx + square * v, dv[:, 1] - 0.5 * u_xx - square * u
    return (first.square() + second.square()).mean()


def nested_kovasznay(net: nn.Module, x: Tensor) -> Tensor:
    u, v, p = net(x).unbind(1)
    du, dv, dp = grad(u, x), grad(v, x), grad(p, x)
    lap_u, lap_v = (grad(d[:, 0], x)[:, 0] + grad(d[:, 1], x)[:, 1] for d in (du, dv))
    first = u * du[:, 0] + v * du[:, 1] + dp[:, 0] - lap_u / REYNOLDS
    second = u * dv[:, 0] + v * dv[:, 1] + dp[:, 1] - lap_v / REYNOLDS
    return first.square().mean() + second.square().mean() + (du[:, 0] + dv[:, 1]).square().mean()


def nested_beltrami(net: nn.Module, x: Tensor) -> Tensor:
    fields = net(x).unbind(1)
    slopes = [grad(field, x) for field in fields]
    total = (slopes[0][:, 0] + slopes[1][:, 1] + slopes[2][:, 2]).square().mean()
    for i in range(3):
        d = slopes[i]
        laplacian = torch.stack([grad(d[:, axis], x)[:, axis] for axis in range(3)]).sum(0)
        advection = torch.stack([fields[axis] * d[:, axis] for axis in range(3)]).sum(0)
        total = total + (d[:, 3] + advection + slopes[3][:, i] - laplacian).square().mean()
    return total


@dataclass
class Case:
    """One problem of the benchmark: the paper's number of points, its frugal nested loss, the speed-up to reach."""

    problem: Problem
    count: int
    nested: Callable[[nn.Module, Tensor], Tensor]
    target: float


def cases() -> dict[str, Case]:
    """The four main problems."""
    few = {"pde": 2, "boundary": 2, "initial": 2}
    return {
        "burgers": Case(Burgers(few), 10000, nested_burgers, 1.3),
        "schrodinger": Case(Schrodinger(few), 20000, nested_schrodinger, 1.5),
        "kovasznay": Case(Kovasznay({"pde": 2, "boundary": 2}), 20000, nested_kovasznay, 1.8),
        "beltrami": Case(Beltrami(few), 25000, nested_beltrami, 2.5),
    }


def taylor_loss(problem: Problem, net: nn.Module, x: Tensor) -> Tensor:
    """The residual loss by the Taylor engine."""
    d = differentiate(net, x, problem.coordinates, problem.derivatives, "taylor")
    return torch.stack([residual.square().mean() for residual in problem.residuals(d, x)]).sum()


def deepxde_burgers(net: nn.Module, x: Tensor) -> Loss:
    """The same loss with DeepXDE's derivatives (PyTorch backend)."""
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    import deepxde as dde

    def loss() -> Tensor:
        y = net(x)
        u_x, u_t = dde.grad.jacobian(y, x, i=0, j=0), dde.grad.jacobian(y, x, i=0, j=1)
        u_xx = dde.grad.hessian(y, x, i=0, j=0)
        value = (u_t + y * u_x - VISCOSITY * u_xx).square().mean()
        dde.grad.clear()  # it caches derivatives, and clears them after each evaluation of the losses
        return value

    return loss


def medians(losses: dict[str, Loss], parameters: Sequence[Tensor], repeats: int) -> dict[str, float]:
    """Median seconds of loss and gradient, the ways taking turns; checks that all compute the same gradient."""
    times: dict[str, list[float]] = {name: [] for name in losses}
    found: dict[str, Tensor] = {}
    for turn in range(repeats + 1):
        for name, loss in losses.items():
            start = time.perf_counter()
            gradients = torch.autograd.grad(loss(), list(parameters), allow_unused=True)
            seconds = time.perf_counter() - start
            if turn == 0:  # warms up
                found[name] = torch.cat(
                    [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(gradients, parameters)]
                )
            else:
                times[name].append(seconds)
    reference = next(iter(found.values()))
    for name, gradient in found.items():
        error = float((gradient - reference).norm() / reference.norm())
        if error > 1e-3:
            raise RuntimeError(f"{name} computes another gradient: relative difference {error:.1e}")
    return {name: statistics.median(values) for name, values in times.items()}


def bench_pde_steps(scale: float = 1.0, repeats: int = 7, deepxde: bool = True) -> list[dict[str, Any]]:
    """One row per comparison: ``problem``, ``points``, ``peer``, ``ours_ms``, ``peer_ms``, ``ratio``, ``target``."""
    rows = []
    for name, case in cases().items():
        torch.manual_seed(0)
        net = MLP(len(case.problem.coordinates), len(case.problem.fields))
        count = max(2, round(case.count * scale))
        x = latin_hypercube(case.problem.box, count, generator(0)).float()
        leaf = x.clone().requires_grad_()
        ways: dict[str, Loss] = {
            "ours": partial(taylor_loss, case.problem, net, x),
            "nested autograd": partial(case.nested, net, leaf),
        }
        if deepxde and name == "burgers":
            ways["deepxde"] = deepxde_burgers(net, leaf)
        times = medians(ways, list(net.parameters()), repeats)
        for peer in list(ways)[1:]:
            ours, theirs = times["ours"], times[peer]
            rows.append(
                {
                    "problem": name,
                    "points": count,
                    "peer": peer,
                    "ours_ms": 1e3 * ours,
                    "peer_ms": 1e3 * theirs,
                    "ratio": theirs / ours,
                    "target": case.target,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="PDE steps against nested autograd and DeepXDE")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the paper's numbers of points")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-deepxde", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"PDE step: residual loss and parameter gradient, float32, {torch.get_num_threads()} threads")
    for row in bench_pde_steps(options.scale, options.repeats, not options.no_deepxde):
        verdict = "ok" if row["ratio"] >= row["target"] else "BELOW"
        print(
            f"{row['problem']:12s} {row['points']:6d} points   ours {row['ours_ms']:8.1f} ms   {row['peer']:16s} "
            f"{row['peer_ms']:8.1f} ms   {row['ratio']:5.2f}x (target {row['target']}x: {verdict})"
        )


if __name__ == "__main__":
    main()
