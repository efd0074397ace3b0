"""M-ConFIG against Adam, the official package, its own definition, and itself after an interruption."""

import pytest
import torch
from torch import Tensor, nn

from decathlon.tasks.pinn import IMTLG, ConFIG, GradDrop, MConFIG, PCGrad, ReLoBRaLo


class Linear:
    """m losses g_i.theta whose gradients are set from outside."""

    def __init__(self, m: int, n: int, dtype: torch.dtype = torch.float32) -> None:
        self.theta = nn.Parameter(torch.zeros(n, dtype=dtype))
        self.rows = torch.zeros(m, n, dtype=dtype)
        self.calls = [0] * m

    def losses(self) -> list:
        def one(i: int):
            def loss() -> Tensor:
                self.calls[i] += 1
                return self.rows[i] @ self.theta

            return loss

        return [one(i) for i in range(len(self.rows))]


def stream(m: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(m, n, generator=generator, dtype=dtype)


def reference(rows: Tensor, state: dict, lr: float, q: int = 1, operator=None) -> None:
    """Algorithm 1 with plain vectors."""
    m, b1, b2 = len(rows), 0.9, 0.999
    operator = operator or ConFIG()
    for _ in range(q):
        i = state["turn"] % m
        state["turn"] += 1
        state["t_i"][i] += 1
        state["m"][i] = b1 * state["m"][i] + (1 - b1) * rows[i]
    if 0 in state["t_i"]:
        return
    state["t"] += 1
    hats = torch.stack([state["m"][j] / (1 - b1 ** state["t_i"][j]) for j in range(m)])
    hat = operator(hats)
    new = hat * (1 - b1 ** state["t"])
    implied = (new - b1 * state["M"]) / (1 - b1)
    state["M"] = new
    state["V"] = b2 * state["V"] + (1 - b2) * implied**2
    state["theta"] = state["theta"] - lr * hat / ((state["V"] / (1 - b2 ** state["t"])).sqrt() + 1e-8)


def start(m: int, n: int) -> dict:
    zero = torch.zeros(n, dtype=torch.float64)
    return {
        "turn": 1,
        "t": 0,
        "t_i": [0] * m,
        "m": torch.zeros(m, n, dtype=torch.float64),
        "M": zero,
        "V": zero,
        "theta": zero,
    }


def test_one_loss_is_adam() -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    ours = MConFIG(nets[0].parameters(), lr=1e-2, num_losses=1)
    adam = torch.optim.Adam(nets[1].parameters(), lr=1e-2)
    for _ in range(100):
        x = torch.randn(16, 4)
        ours.step([lambda x=x: nets[0](x).square().mean()])
        adam.zero_grad()
        nets[1](x).square().mean().backward()
        adam.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(nets[0].parameters(), nets[1].parameters()))


@pytest.mark.parametrize("m", [2, 3, 7])
def test_identical_losses_are_adam_on_their_sum(m: int) -> None:
    problem, single = Linear(m, 20), nn.Parameter(torch.zeros(20))
    ours = MConFIG([problem.theta], lr=1e-2, num_losses=m, updates_per_step=m)
    adam = torch.optim.Adam([single], lr=1e-2)
    for _, row in zip(range(100), stream(1, 20)):
        problem.rows = row.repeat(m, 1)
        ours.step(problem.losses())
        single.grad = m * row[0]
        adam.step()
    assert torch.allclose(problem.theta, single, atol=1e-5)


@pytest.mark.parametrize("m", [2, 5])
def test_equals_the_official_operator_for_400_steps(m: int) -> None:
    momentum = pytest.importorskip("conflictfree.momentum_operator")
    gradient = pytest.importorskip("conflictfree.grad_operator")
    exact = gradient.ConFIGOperator(use_least_square=False, allow_simplified_model=False)
    official = momentum.PseudoMomentumOperator(m, gradient_operator=exact)
    problem = Linear(m, 60)
    ours = MConFIG([problem.theta], lr=1e-3, num_losses=m)
    theta = torch.zeros(60)
    for k, rows in zip(range(400), stream(m, 60)):
        problem.rows = rows
        ours.step(problem.losses())
        i = (k + 1) % m
        theta = theta - 1e-3 * official.calculate_gradient(i, rows[i])
    assert float(theta.abs().max()) > 1e-2
    assert torch.allclose(problem.theta, theta, atol=1e-5)


@pytest.mark.parametrize(("m", "q"), [(2, 1), (3, 1), (5, 2), (12, 4), (3, 3)])
def test_equals_its_definition(m: int, q: int) -> None:
    problem, state = Linear(m, 40, torch.float64), start(m, 40)
    ours = MConFIG([problem.theta], lr=1e-2, num_losses=m, updates_per_step=q)
    for _, rows in zip(range(150), stream(m, 40, dtype=torch.float64)):
        problem.rows = rows
        ours.step(problem.losses())
        reference(rows, state, 1e-2, q)
    assert torch.allclose(problem.theta.detach(), state["theta"], atol=1e-9)


@pytest.mark.parametrize("operator", [IMTLG, PCGrad, GradDrop])
def test_any_operator_can_combine_the_momenta(operator: type) -> None:
    problem, state, twin = Linear(3, 40, torch.float64), start(3, 40), operator()
    ours = MConFIG([problem.theta], lr=1e-2, num_losses=3, operator=operator())
    for _, rows in zip(range(60), stream(3, 40, dtype=torch.float64)):
        problem.rows = rows
        ours.step(problem.losses())
        reference(rows, state, 1e-2, operator=twin)
    assert torch.allclose(problem.theta.detach(), state["theta"], atol=1e-9)


def test_only_the_loss_whose_turn_it_is_is_evaluated_and_the_first_steps_do_not_move() -> None:
    problem = Linear(4, 10)
    problem.rows = torch.randn(4, 10)
    ours = MConFIG([problem.theta], lr=1e-2, num_losses=4)
    for k, due in enumerate((1, 2, 3)):
        assert ours.due == [due]
        assert list(ours.step(problem.losses())) == [due]
        assert sum(problem.calls) == k + 1
        assert float(problem.theta.detach().abs().max()) == 0
    ours.step(problem.losses())
    assert problem.calls == [1, 1, 1, 1]
    assert float(problem.theta.detach().abs().min()) > 0


def test_losses_as_tensors_dicts_and_one_function_are_the_same() -> None:
    results = []
    for form in range(4):
        torch.manual_seed(1)
        net = nn.Linear(3, 2)
        ours = MConFIG(net.parameters(), lr=1e-2, num_losses=2)
        for _ in range(10):
            x = torch.randn(5, 3)

            def both(net: nn.Module = net, x: Tensor = x) -> list[Tensor]:
                return [net(x)[:, 0].square().mean(), net(x)[:, 1].exp().mean()]

            given = (both(), dict(zip("ab", both())), both, torch.stack(both()))[form]
            ours.step(given)
        results.append(net.weight.detach().clone())
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_an_unused_parameter_has_zero_gradient_for_that_loss() -> None:
    shared, own = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1))
    ours = MConFIG([shared, own], lr=1e-2, num_losses=2)
    for _ in range(6):
        ours.step([lambda: shared.square().sum(), lambda: (shared.sum() * own).sum()])
    assert float(own.detach()) != 1
    assert bool(torch.isfinite(shared).all())


def test_memory_is_m_plus_three_vectors() -> None:
    problem = Linear(5, 1000)
    ours = MConFIG([problem.theta], lr=1e-2, num_losses=5)
    for _, rows in zip(range(6), stream(5, 1000)):
        problem.rows = rows
        ours.step(problem.losses())
    held = [*ours._buffers.values(), ours._scratch]
    assert sum(t.numel() for t in held if t is not None) <= (5 + 3) * 1000 + 5 * 5 + 5


def test_parameter_groups_keep_their_learning_rates() -> None:
    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    ours = MConFIG([{"params": [a], "lr": 1e-2}, {"params": [b], "lr": 1e-3}], num_losses=1)
    ours.step([(a + b).sum()])
    assert torch.allclose(a, torch.full((3,), -1e-2))
    assert torch.allclose(b, torch.full((3,), -1e-3))
    with pytest.raises(ValueError, match="fixed layout"):
        ours.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


@pytest.mark.parametrize("operator", [ConFIG, PCGrad, GradDrop, lambda: ConFIG(weights=ReLoBRaLo(lookback=0.5))])
@pytest.mark.parametrize("stop", [0, 1, 7, 20])
def test_interrupted_and_resumed_is_bit_equal(operator, stop: int, tmp_path) -> None:
    def build() -> tuple[nn.Module, MConFIG]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))
        return net, MConFIG(net.parameters(), lr=1e-2, num_losses=3, operator=operator())

    def run(net: nn.Module, optimizer: MConFIG, steps: range) -> None:
        for step in steps:
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            optimizer.step([lambda k=k, x=x: (net(x)[:, k] - x[:, k] * k).square().mean() + 0.1 for k in range(3)])

    whole, optimizer = build()
    run(whole, optimizer, range(30))
    half, first = build()
    run(half, first, range(stop))
    torch.save({"net": half.state_dict(), "optimizer": first.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh, second = build()
    fresh.load_state_dict(saved["net"])
    second.load_state_dict(saved["optimizer"])
    run(fresh, second, range(stop, 30))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), fresh.parameters()))
    assert second.updates == 28


def test_bad_arguments_are_refused() -> None:
    theta = nn.Parameter(torch.zeros(2))
    for options in (
        {"lr": -1.0},
        {"num_losses": 0},
        {"num_losses": 2, "updates_per_step": 3},
        {"betas": (0.9, 1.0)},
        {"operator": torch.sum},
    ):
        with pytest.raises(ValueError, match="must"):
            MConFIG([theta], **options)
    ours = MConFIG([theta], num_losses=2)
    with pytest.raises(ValueError, match="3 losses given"):
        ours.step([theta.sum()] * 3)
    with pytest.raises(ValueError, match="state of 2 losses"):
        MConFIG([theta], num_losses=3).load_state_dict(ours.state_dict())
    with pytest.raises(ValueError, match="not finite"):
        ours.step([theta.sum() * float("nan")] * 2)
    with pytest.raises(ValueError, match="no parameters"):
        MConFIG([nn.Parameter(torch.zeros(1), requires_grad=False)])
