"""Speed and memory of the optimizers at the shapes of LLaMA 60M and 350M, against named peers, as ratios in one run.

1. One step of Online Subspace Descent against the same step with the PCA loss as the published code has it (n x n
   matrices through autograd, torch's AdamW on P), and against its floor: the three products of n m k that it cannot
   do without, timed beside it.
2. GaLore between two refreshes, and a refresh, against galore-torch and pytorch-optimizer. Ours refreshes by an
   eigendecomposition of the Gram matrix or by a randomised range finder, theirs by an SVD.
3. Bytes of state against the formulas, and against galore-torch's.
4. One gradient of online PCA against one SVD.
5. The largest new tensor of a step: no n x n.

Each figure is a ratio of medians over rounds in which all take turns. With one thread it is of CPU seconds, which other
programs disturb less than the clock; with more, of the clock's: threads that wait for each other spin, so CPU seconds
would count the waiting as work, and the machine must be idle. ``pip install galore-torch pytorch-optimizer``.

``python scripts/bench/osd.py [--quick] [--threads 2]``
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from decathlon.tasks.osd import GaLore, OnlineSubspaceDescent
from decathlon.tasks.osd.measures import state_bytes
from decathlon.tasks.osd.optimizers.parameters import upright
from decathlon.tasks.osd.pca import pca_gradient

NEVER = 10**9
# One layer: q, k, v, o, gate, up, down.
SHAPES = {
    "60m": ([(512, 512)] * 4 + [(1376, 512)] * 2 + [(512, 1376)], 128),
    "350m": ([(1024, 1024)] * 4 + [(2736, 1024)] * 2 + [(1024, 2736)], 256),
}


def line(name: str, value: str, wanted: str = "", good: bool = True) -> None:
    """One row of the report; without ``wanted`` there is no target."""
    verdict = f"   wanted {wanted:<9} {'met' if good else 'MISSED'}" if wanted else ""
    print(f"{name:<74} {value:>10}{verdict}", flush=True)


def medians(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; in every round each is called once, after a round that warms up."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if turn:
                found[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def weights(shapes: list[tuple[int, int]]) -> list[torch.nn.Parameter]:
    """New weights with gradients that have leading directions, as real ones have."""
    torch.manual_seed(0)
    made = []
    for rows, columns in shapes:
        p = torch.nn.Parameter(0.02 * torch.randn(rows, columns))
        low = torch.randn(rows, 32) @ torch.randn(32, columns)
        p.grad = 1e-3 * (low + torch.randn(rows, columns))
        made.append(p)
    return made


class Naive:
    """The step of the published code: autograd through ``||G P' P - G||^2`` with the (n, n) matrix in it."""

    def __init__(self, params: list[torch.nn.Parameter], rank: int) -> None:
        self.params, self.lr, self.scale = params, 0.01, 0.25
        self.states: list[dict[str, Any]] = []
        for p in params:
            assert p.grad is not None
            right = p.shape[0] >= p.shape[1]
            u, _, vh = torch.linalg.svd(p.grad, full_matrices=False)
            start = vh[:rank] if right else u[:, :rank]
            q = torch.nn.Parameter(start.clone())
            low = p.grad @ q.t() if right else q.t() @ p.grad
            moments = {"m": torch.zeros_like(low.detach()), "v": torch.zeros_like(low.detach())}
            self.states.append({"q": q, "right": right, "step": 0, "adam": torch.optim.AdamW([q], lr=0.005), **moments})

    def step(self) -> None:
        """One step with the gradients that are there."""
        for p, state in zip(self.params, self.states):
            q, grad = state["q"], p.grad
            assert grad is not None
            normal = grad / torch.norm(grad)
            projector = q.t() @ q if state["right"] else q @ q.t()
            back = normal @ projector if state["right"] else projector @ normal
            loss = ((back - normal) ** 2).sum()
            state["adam"].zero_grad()
            loss.backward()
            with torch.no_grad():
                low = grad @ q.t() if state["right"] else q.t() @ grad
                state["step"] += 1
                state["m"].mul_(0.9).add_(low, alpha=0.1)
                state["v"].mul_(0.999).addcmul_(low, low, value=0.001)
                size = self.lr * (1 - 0.999 ** state["step"]) ** 0.5 / (1 - 0.9 ** state["step"])
                low = state["m"] / state["v"].sqrt().add_(1e-6)
                p.add_(self.scale * (low @ q if state["right"] else q @ low), alpha=-size)
            state["adam"].step()


def floor(params: list[torch.nn.Parameter], rank: int) -> Callable[[], None]:
    """P' G, P U and G R' of each weight, and nothing else, into memory that is there."""
    places: list[tuple[Tensor, ...]] = []
    for p in params:
        assert p.grad is not None
        n, m = upright(p).shape
        projection = torch.randn(n, rank)
        places.append((projection, upright(p.grad), torch.empty(rank, m), torch.empty(n, m), torch.empty(n, rank)))

    def call() -> None:
        for projection, gradient, low, whole, slope in places:
            torch.mm(projection.mT, gradient, out=low)
            torch.mm(projection, low, out=whole)
            torch.mm(gradient, low.mT, out=slope)

    return call


def galores(shapes: list[tuple[int, int]], rank: int, gap: int, refresh: str) -> dict[str, torch.optim.Optimizer]:
    """Ours, and of the peers those that are installed."""

    def group(**more: Any) -> list[dict[str, Any]]:
        return [{"params": weights(shapes), "rank": rank, **more}]

    found: dict[str, torch.optim.Optimizer] = {"ours": GaLore(group(), lr=0.01, gap=gap, refresh=refresh)}
    try:
        from galore_torch import GaLoreAdamW

        options = {"update_proj_gap": gap, "scale": 0.25, "proj_type": "std"}
        found["galore-torch"] = GaLoreAdamW(group(**options), lr=0.01, no_deprecation_warning=True)
    except ImportError:
        line("galore-torch is not installed", "")
    try:
        from pytorch_optimizer import GaLore as Other

        options = {"update_proj_gap": gap, "scale": 0.25, "projection_type": "std"}
        found["pytorch-optimizer"] = Other(group(**options), lr=0.01)
    except ImportError:
        line("pytorch-optimizer is not installed", "")
    return found


class Largest(TorchDispatchMode):
    """Notes the shapes of all new tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {a.untyped_storage()._cdata for a in args if isinstance(a, Tensor)}
        for made in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(made, Tensor) and made.untyped_storage()._cdata not in given:
                self.shapes.add(tuple(made.shape))
        return out


def compare_steps(size: str, rounds: int) -> None:
    shapes, rank = SHAPES[size]
    ours = OnlineSubspaceDescent([{"params": weights(shapes), "rank": rank}], lr=0.01)
    naive, bare = Naive(weights(shapes), rank), floor(weights(shapes), rank)
    found = medians({"ours": ours.step, "naive": naive.step, "floor": bare}, rounds)
    line(f"{size}: OSD step of a layer, ms", f"{1e3 * found['ours']:.1f}")
    ratio = found["ours"] / found["naive"]
    line(f"{size}: OSD step / the published step by autograd", f"{ratio:.2f}", "<= 0.35", ratio <= 0.35)
    ratio = found["ours"] / found["floor"]
    line(f"{size}: OSD step / its three products", f"{ratio:.2f}", "<= 1.3", ratio <= 1.3)
    with Largest() as seen:
        ours.step()
    square = sorted(shape for shape in seen.shapes if len(shape) == 2 and min(shape) > max(rank, 1))
    line(f"{size}: new tensors above rank in both dimensions", str(len(square)), "0", not square)


def compare_galore(size: str, rounds: int) -> None:
    shapes, rank = SHAPES[size]
    still = galores(shapes, rank, NEVER, "svd")
    found = medians({name: optimizer.step for name, optimizer in still.items()}, rounds)
    for name in [name for name in found if name != "ours"]:
        ratio = found["ours"] / found[name]
        line(f"{size}: GaLore between refreshes, ours / {name}", f"{ratio:.2f}", "<= 1", ratio <= 1)
    for name in [name for name in still if name == "galore-torch"]:
        ratio = state_bytes(still["ours"]) / state_bytes(still[name])
        line(f"{size}: bytes of state, ours / {name}", f"{ratio:.2f}", "<= 0.6", ratio <= 0.6)
    moving = galores(shapes, rank, 1, "eigh")
    quick = GaLore([{"params": weights(shapes), "rank": rank}], gap=1, refresh="randomized")
    calls = {name: optimizer.step for name, optimizer in moving.items()} | {"randomized": quick.step}
    found = medians(calls, max(1, rounds // 8))
    for name in [name for name in found if name not in ("ours", "randomized")]:
        for kind, mine in (("eigh", "ours"), ("randomized", "randomized")):
            ratio = found[mine] / found[name]
            line(f"{size}: GaLore with a refresh ({kind}) / {name}", f"{ratio:.2f}", "<= 0.4", ratio <= 0.4)


def compare_bytes(size: str) -> None:
    shapes, rank = SHAPES[size]
    sides = [(min(shape), max(shape)) for shape in shapes]
    for name, p_count, optimizer in (
        ("OSD, Adam on P", 3, OnlineSubspaceDescent([{"params": weights(shapes), "rank": rank}])),
        ("OSD, SGD on P", 1, OnlineSubspaceDescent([{"params": weights(shapes), "rank": rank}], p_optimizer="sgd")),
        ("GaLore", 1, GaLore([{"params": weights(shapes), "rank": rank}])),
    ):
        optimizer.step()
        formula = 4 * sum(p_count * n * rank + 2 * rank * m for n, m in sides)
        ratio = state_bytes(optimizer) / formula
        line(f"{size}: bytes of state / formula, {name}", f"{ratio:.3f}", "1 +- 0.01", abs(ratio - 1) <= 0.01)


def compare_svd(rounds: int) -> None:
    for rows, columns, rank, wanted in ((512, 1376, 128, 8.0), (1024, 2736, 256, 15.0)):
        gradient = torch.randn(rows, columns)
        projection = torch.linalg.qr(torch.randn(rows, rank)).Q
        calls: dict[str, Callable[[], Any]] = {
            "svd": partial(torch.linalg.svd, gradient, full_matrices=False),
            "pca": partial(pca_gradient, projection, gradient, 0.1),
        }
        found = medians(calls, rounds)
        ratio = found["svd"] / found["pca"]
        line(f"{rows} x {columns}: SVD / gradient of online PCA", f"{ratio:.1f}", f">= {wanted:.0f}", ratio >= wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60M only, few rounds")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = "CPU seconds" if options.threads == 1 else "the clock's seconds: on an idle machine"
    print(f"{options.threads} threads; ratios of {clock}")
    rounds = 5 if options.quick else 25
    for size in ["60m"] if options.quick else list(SHAPES):
        compare_steps(size, rounds)
        compare_galore(size, rounds)
        compare_bytes(size)
    compare_svd(2 if options.quick else 5)


if __name__ == "__main__":
    main()
