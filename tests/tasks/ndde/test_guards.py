"""What keeps networks on the way: delays inside the interval, outputs of the size of the data."""

import pytest
import torch

from decathlon.tasks.ndde import DDE, Unknown
from decathlon.tasks.ndde.observations import observe
from decathlon.tasks.ndde.solvers import Pinn
from decathlon.tasks.ndde.solvers.guards import data_scales, inside


def problem(**unknown: float | Unknown) -> DDE:
    return DDE(lambda t, y, d, p: -p.k * d(0), [1.0], 1.0, (0.0, 10.0), {"k": 1.0}).unknown(**unknown)


def test_unknown_delays_stay_inside_whatever_the_scalar() -> None:
    kept = inside(problem(tau=0.0, k=0.0))
    delay, rate = kept.slots
    values = delay.unknown.value(torch.tensor([-50.0, delay.unknown.raw(), 50.0], dtype=torch.float64))
    assert values[0] >= 0 and values[2] <= 10 and values[1] == pytest.approx(0.5)
    assert rate.unknown.transform == "free", "parameters may have any sign"
    own = inside(problem(tau=Unknown(2.0, low=1.0, high=3.0))).slots[0].unknown
    assert (own.low, own.high, own.start) == (1.0, 3.0, 2.0)
    soft = Unknown(2.0, transform="softplus")
    assert inside(problem(tau=soft)).slots[0].unknown is soft, "what a user has chosen is kept"
    plain = problem(k=0.5)
    assert inside(plain) is plain


def test_outputs_have_the_size_of_the_data() -> None:
    system = DDE(lambda t, y, d: torch.stack([-d(0, 0), y[0], y[1]]), [1.0], [1.0, 1.0, 1.0], (0.0, 2.0))
    values = torch.tensor([[1.0, -80.0], [float("nan"), 0.5], [float("nan"), float("nan")]], dtype=torch.float64)
    assert data_scales(observe(system, [1.0, 2.0], values), 3).tolist() == [80.0, 0.5, 1.0]
    assert data_scales(None, 3).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="output_scale=big is unknown; give numbers, or data"):
        Pinn(output_scale="big").begin(system, None, 0)


def test_a_guarded_network_never_reads_beyond_the_interval() -> None:
    asked = problem(tau=0.0)
    times = torch.linspace(2, 10, 5, dtype=torch.float64)
    solver = Pinn(points=20, adam=300, bfgs=20, lr=0.1, delays="inside", output_scale="data", widths=(4,))
    solver.begin(asked, observe(asked, times, times.cos()), 0)
    for _ in range(solver.blocks):
        solver.advance()
    assert all(0 <= row[3] <= 10 for row in solver.history)
