"""Speed, accuracy and memory of the gradient operators against conflictfree and torchjd, as ratios in one run.

    python scripts/bench/pinn.py [--quick] [--threads 1] [--repeats 15] [--only speed,accuracy,momentum,memory,steps]

Every number has its target beside it, from the design of the project. The ways are timed in turn in one process and
their medians are compared. ``--quick`` shrinks everything: a smoke run. The PDE steps are those of
``pinn_steps.py``.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from decathlon.tasks.pinn import Backward, ConFIG, MConFIG

Operator = Callable[[Tensor], Tensor]


def operators() -> dict[str, Callable[[], Operator]]:
    """Name -> maker of each ConFIG; those whose package is missing are left out."""

    def conflictfree() -> Operator:
        from conflictfree.grad_operator import ConFIG_update

        return ConFIG_update

    def torchjd() -> Operator:
        from torchjd.aggregation import ConFIG as Peer

        return Peer()

    makers: dict[str, Callable[[], Operator]] = {"ours": ConFIG, "conflictfree": conflictfree, "torchjd": torchjd}
    available = {}
    for name, make in makers.items():
        try:
            make()
            available[name] = make
        except ImportError:
            print(f"{name} is not installed and left out; pip install 'decathlon[peers]'")
    return available


def medians(calls: Mapping[str, Callable[[], object]], repeats: int, together: int = 1) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns (of ``together`` calls in a row) after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(together):
                call()
            if turn:
                times[name].append((time.perf_counter() - start) / together)
    return {name: statistics.median(values) for name, values in times.items()}


def verdict(good: bool) -> str:
    return "ok" if good else "BELOW TARGET"


def bench_speed(quick: bool, repeats: int) -> None:
    """Target: 10 times faster than both peers."""
    print("\nOperator, float32: milliseconds, and how many times faster ours is (target 10x)")
    for m, n in ((3, 100_000), (10, 100_000), (40, 100_000)):
        n = n // 10 if quick else n
        gradients = torch.randn(m, n, generator=torch.Generator().manual_seed(0))
        calls = {name: partial(make(), gradients) for name, make in operators().items()}
        times = medians(calls, repeats, together=5)
        line = f"  ({m:2d}, {n:.0e})  ours {1e3 * times['ours']:7.3f}"
        for name in list(times)[1:]:
            ratio = times[name] / times["ours"]
            line += f"   {name} {1e3 * times[name]:8.3f} = {ratio:5.1f}x {verdict(ratio >= 10)}"
        print(line)


def opposed(n: int, cosine: float) -> Tensor:
    """(3, n) float32, the first two with the given cosine, the third random."""
    rows = torch.randn(3, n, generator=torch.Generator().manual_seed(1))
    first = rows[0].double()
    first /= first.norm()
    second = rows[1].double()
    second -= (second @ first) * first
    rows[1] = (cosine * first + math.sqrt(1 - cosine**2) * second / second.norm()) * 3.0
    return rows


def cosines(update: Tensor, rows: Tensor) -> list[float]:
    norm = float(torch.linalg.vector_norm(update.double()))
    if norm == 0 or not math.isfinite(norm):
        return [0.0] * len(rows)
    return [float(row.double() @ update.double()) / (norm * float(row.double().norm())) for row in rows]


def bench_accuracy(quick: bool) -> None:
    """Target: spread of the cosines below 1e-3; they should all be the same number."""
    print("\nThree gradients, two of them opposed, float32: cosines of the update (target: spread < 1e-3)")
    for n, cosine in ((100_000, -0.9),) if quick else ((1_000_000, -0.9), (1_000_000, -0.98), (10_000_000, -0.9)):
        rows = opposed(n, cosine)
        # |d|^2 = 1' K^-1 1 with the third gradient orthogonal to the others up to 1/sqrt(n)
        expected = 1 / math.sqrt(2 / (1 + cosine) + 1)
        print(f"  N = {n:.0e}, cosine {cosine}; right: {expected:.4f} three times")
        for name, make in operators().items():
            try:
                found = cosines(make()(rows), rows)
            except RuntimeError as error:
                print(f"    {name:13s} fails: {str(error).splitlines()[0][:80]}")
                continue
            spread = max(found) - min(found)
            good = spread < 1e-3 and min(found) > 0
            text = ", ".join(f"{value:+.4f}" for value in found)
            print(f"    {name:13s} {text}   spread {spread:.1e} {'ok' if good else 'WRONG'}")


def bench_momentum(quick: bool, repeats: int) -> None:
    """Target: an M-ConFIG step costs at most 0.6 of a ConFIG step for two losses."""
    from decathlon.equations import MLP
    from decathlon.tasks.pinn.problems import Burgers, Kovasznay

    print("\nTraining step with two losses, M-ConFIG / ConFIG (target <= 0.6; Adam on the sum for comparison)")
    scale = 20 if quick else 1
    problems = {
        "burgers": Burgers({"pde": 10000 // scale, "boundary": 250 // scale, "initial": 250 // scale}),
        "kovasznay": Kovasznay({"pde": 20000 // scale, "boundary": 1000 // scale}),
    }
    for name, problem in problems.items():
        nets = [MLP(len(problem.coordinates), len(problem.fields)) for _ in range(3)]
        config = Backward(nets[0].parameters(), ConFIG())
        outer = torch.optim.Adam(nets[0].parameters(), lr=1e-3, foreach=True)
        momentum = MConFIG(nets[1].parameters(), lr=1e-3, num_losses=2)
        adam = torch.optim.Adam(nets[2].parameters(), lr=1e-3, foreach=True)

        def config_step(problem=problem, net=nets[0], config=config, outer=outer) -> None:
            for step in range(2):
                config(problem.losses(net, 0, step))
                outer.step()

        def momentum_step(problem=problem, net=nets[1], momentum=momentum) -> None:
            for step in range(2):  # each loss once
                momentum.step(problem.losses(net, 0, step))

        def adam_step(problem=problem, net=nets[2], adam=adam) -> None:
            for step in range(2):
                adam.zero_grad()
                losses = [loss() for loss in problem.losses(net, 0, step).values()]
                torch.stack(losses).sum().backward()
                adam.step()

        times = medians({"config": config_step, "mconfig": momentum_step, "adam": adam_step}, repeats)
        ratio = times["mconfig"] / times["config"]
        print(
            f"  {name:10s} ConFIG {500 * times['config']:7.2f} ms  M-ConFIG {500 * times['mconfig']:7.2f} ms = "
            f"{ratio:.2f} {verdict(ratio <= 0.6)}   (Adam {500 * times['adam']:7.2f} ms: ConFIG "
            f"{times['config'] / times['adam']:.2f}, M-ConFIG {times['mconfig'] / times['adam']:.2f} of it)"
        )


def bench_memory(quick: bool) -> None:
    """Target: peak memory of a call at most 1.3 times the gradient matrix, the matrix and the result included."""
    if not Path("/proc/self/clear_refs").exists():
        print("\nPeak memory: measured on Linux only")
        return
    print("\nPeak memory of a call / size of the gradient matrix, float32, matrix and result included (target <= 1.3)")
    for m, n in ((10, 2_000_000), (40, 500_000)) if quick else ((10, 10_000_000), (40, 2_500_000)):
        line = f"  ({m:2d}, {n:.0e})"
        for name in operators():
            command = [sys.executable, __file__, "--memory-of", name, str(m), str(n)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                line += f"   {name} fails"
                continue
            ratio = json.loads(done.stdout.splitlines()[-1])
            line += f"   {name} {ratio:.2f}" + (f" {verdict(ratio <= 1.3)}" if name == "ours" else "")
        print(line)


def resident(field: str) -> int:
    """Bytes that Linux reports for this process: ``VmRSS`` now, ``VmHWM`` at most since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def memory_of(name: str, m: int, n: int) -> None:
    """In its own process: print the peak memory of one call relative to the gradient matrix."""
    call = operators()[name]()
    call(torch.randn(m, 2000))  # loads and warms up the libraries
    base = resident("VmRSS")
    gradients = torch.empty(m, n).normal_()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    call(gradients)
    print(json.dumps((resident("VmHWM") - base) / (gradients.numel() * gradients.element_size())))


def bench_steps(quick: bool, repeats: int) -> None:
    """Targets: in pinn_steps.py."""
    from pinn_steps import bench_pde_steps  # beside this file

    print("\nPDE step (residual loss and its gradient) against nested autograd and DeepXDE")
    for row in bench_pde_steps(scale=0.05 if quick else 1.0, repeats=repeats):
        print(
            f"  {row['problem']:12s} {row['points']:6d} points   ours {row['ours_ms']:8.1f} ms   {row['peer']:16s} "
            f"{row['peer_ms']:8.1f} ms = {row['ratio']:.2f}x (target {row['target']}x: "
            f"{verdict(row['ratio'] >= row['target'])})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", default="speed,accuracy,momentum,memory,steps")
    parser.add_argument("--memory-of", nargs=3, metavar=("NAME", "M", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        name, m, n = options.memory_of
        memory_of(name, int(m), int(n))
        return
    repeats = min(options.repeats, 3) if options.quick else options.repeats
    print(f"torch {torch.__version__}, {options.threads} thread(s), CPU, medians of {repeats}")
    parts: dict[str, Callable[[], None]] = {
        "speed": lambda: bench_speed(options.quick, repeats),
        "accuracy": lambda: bench_accuracy(options.quick),
        "momentum": lambda: bench_momentum(options.quick, repeats),
        "memory": lambda: bench_memory(options.quick),
        "steps": lambda: bench_steps(options.quick, min(repeats, 7)),
    }
    for name in options.only.split(","):
        if name not in parts:
            parser.error(f"--only {name}: choose from {', '.join(parts)}")
        parts[name]()


if __name__ == "__main__":
    main()
