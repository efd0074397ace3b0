"""The exact optimum of the assignment problem, and a lower bound that needs no solver."""

import numpy as np
import torch
from torch import Tensor

from decathlon.tasks.cave.epoch import Epoch
from decathlon.tasks.cave.objective import gradient, loads, objective
from decathlon.tasks.cave.plan import Plan
from decathlon.tasks.cave.rules import greedy

ENUMERABLE = 16
_COVERED = 1 - 1e-9


def optimum(epoch: Epoch, seconds: float | None = None) -> Plan:
    """The assignment of least J, by a mixed-integer linear programme for each scenario (HiGHS through SciPy).

    Products x_kn x_ln become variables z with z >= x_kn + x_ln - 1. For small problems: 6 tasks on 12 vehicles take
    about a second.

    Args:
        seconds: time limit for each scenario. The best assignment known by then is returned, the greedy one if there
            is none better, and ``Plan.exact`` says which scenarios are proven.

    Raises:
        ValueError: the time limit is not positive.
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds={seconds} must be positive")
    known = greedy(epoch)
    assignment = known.clone()
    exact = torch.ones(epoch.scenarios, dtype=torch.bool)
    for scenario in range(epoch.scenarios):
        one = epoch.part(scenario, scenario + 1)
        found, proven = _solve(one, seconds)
        exact[scenario] = proven
        if found is not None:
            both = torch.stack([found, known[scenario].cpu()]).to(epoch.device)
            values = objective(one, both[None])[0]
            better = bool(values[0] <= values[1]) and bool(one.covered(both[None, 0]).all())
            assignment[scenario] = both[0 if better else 1]
    return Plan.of(epoch, assignment, exact=exact.to(epoch.device))


def _solve(epoch: Epoch, seconds: float | None) -> tuple[Tensor | None, bool]:
    """The best assignment (K, N) of one scenario, or None; and whether it is proven."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    usable = epoch.usable[0].cpu().numpy()
    still = epoch.open[0].cpu().numpy()
    pairs = [(int(k), int(n)) for k, n in np.argwhere(usable) if still[k]]
    answer = torch.zeros(epoch.count, epoch.slots, dtype=torch.bool)
    if not pairs:
        return answer, True
    column = {pair: index for index, pair in enumerate(pairs)}
    root, speed = epoch.root[0].tolist(), epoch.divisor[0].tolist()
    alone, share = epoch.alone[0].cpu().numpy(), epoch.share[0].cpu().numpy()
    costs = [alone[k, n] for k, n in pairs]
    rows: list[dict[int, float]] = []
    low: list[float] = []
    for k in np.flatnonzero(still).tolist():
        rows.append({column[k, n]: share[k, n] for n in range(epoch.slots) if (k, n) in column})
        low.append(_COVERED)
    for n in range(epoch.slots):
        sharing = [k for k in range(epoch.count) if (k, n) in column]
        for place, k in enumerate(sharing):
            for other in sharing[place + 1 :]:
                rows.append({column[k, n]: -1.0, column[other, n]: -1.0, len(costs): 1.0})
                low.append(-1.0)
                costs.append(2 * root[k] * root[other] / speed[n])
    whole = np.arange(len(costs)) < len(pairs)
    # Costs about 1, whatever their unit: the solver's tolerances are absolute.
    weight = np.asarray(costs) / max(max(costs), 1e-300)
    while True:
        entries = [(r, c, value) for r, row in enumerate(rows) for c, value in row.items()]
        r, c, value = (np.array(part) for part in zip(*entries))
        matrix = csr_array((value, (r.astype(np.int32), c.astype(np.int32))), shape=(len(rows), len(costs)))
        result = milp(
            weight, integrality=whole.astype(int), bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, low, np.inf), options={"mip_rel_gap": 0.0, "time_limit": seconds},
        )  # fmt: skip
        if result.x is None:
            return None, False
        answer.zero_()
        for (k, n), taken in zip(pairs, result.x[: len(pairs)] > 0.5):
            answer[k, n] = bool(taken)
        short = (~epoch.covered(answer[None].to(epoch.device))[0]).nonzero()[:, 0].tolist()
        if not short:
            return answer, result.status == 0
        # Within the solver's tolerance of a cover, but none: any cover has a vehicle that this set has not.
        for k in short:
            rest = {column[k, n]: 1.0 for n in range(epoch.slots) if (k, n) in column and not answer[k, n]}
            rows.append(rest)
            low.append(1.0)


def enumerate_all(epoch: Epoch) -> Plan:
    """The assignment of least J, by trying all 2^(K N); an oracle for K N <= 16.

    Raises:
        ValueError: there are more.
    """
    size = epoch.count * epoch.slots
    if size > ENUMERABLE:
        raise ValueError(
            f"{epoch.count} tasks on {epoch.slots} vehicles have 2^{size} assignments; at most 2^16 are tried"
        )
    numbers = torch.arange(2**size, device=epoch.device)
    every = ((numbers[:, None] >> torch.arange(size, device=epoch.device)) & 1).bool()
    every = every.view(1, -1, epoch.count, epoch.slots).expand(epoch.scenarios, -1, -1, -1)
    allowed = epoch.covered(every).all(2) & (every <= epoch.usable[:, None]).flatten(2).all(2)
    best = torch.where(allowed, objective(epoch, every), torch.inf).argmin(1)
    chosen = every[torch.arange(epoch.scenarios, device=epoch.device), best]
    return Plan.of(epoch, chosen, exact=torch.ones(epoch.scenarios, dtype=torch.bool, device=epoch.device))


def lower_bound(epoch: Epoch, iterations: int = 400) -> Tensor:
    """(S,) a number that J of no assignment is below: the value of the continuous relaxation, from below.

    J is convex on [0, 1]^(K N), and the linear problem over the relaxed constraints falls apart into a fractional
    knapsack for each task. So Frank-Wolfe steps give in every iteration a valid bound, J(x) + min_y grad J(x) (y - x);
    the best one is returned. More iterations make it tighter.
    """
    x = greedy(epoch).double()
    best = torch.zeros(epoch.scenarios, dtype=torch.float64, device=epoch.device)
    for _ in range(iterations):
        slope = gradient(epoch, x)
        direction = _knapsack(epoch, slope) - x
        fall = (slope * direction).sum((1, 2))
        best = torch.maximum(best, objective(epoch, x) + fall)
        turned = loads(epoch, direction)
        curvature = (turned * turned / epoch.divisor).sum(1)
        step = torch.where(curvature > 0, -fall / (2 * curvature).clamp(min=1e-300), 1.0).clamp(0, 1)
        x = x + step[:, None, None] * direction
    return best


def _knapsack(epoch: Epoch, slope: Tensor) -> Tensor:
    """(S, K, N) in [0, 1]: per task the cheapest fractional cover under costs ``slope`` >= 0."""
    price = torch.where(epoch.usable, slope / epoch.share.clamp(min=1e-300), torch.inf)
    place = price.argsort(dim=2, stable=True)
    share = epoch.share.gather(2, place)
    before = share.cumsum(2) - share
    part = ((1 - before).clamp(min=0) / share.clamp(min=1e-300)).clamp(max=1)
    part = torch.where(epoch.usable.gather(2, place) & epoch.open[:, :, None], part, 0.0)
    return torch.zeros_like(part).scatter_(2, place, part)
