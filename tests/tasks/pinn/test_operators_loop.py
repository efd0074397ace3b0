"""The operators in a plain training loop, in the reader's five lines, and in two processes."""

import math
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from decathlon.tasks.pinn import (
    FAMO,
    LRA,
    LS,
    UW,
    Backward,
    ConFIG,
    MConFIG,
    MinMax,
    NotFiniteError,
    ReLoBRaLo,
    backward,
)
from decathlon.tasks.pinn.schedule import constant, cosine_with_warmup
from decathlon.tasks.pinn.selection import Selection


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def test_the_methods_need_torch_only() -> None:
    code = (
        "import sys; from decathlon.tasks.pinn import ConFIG, MConFIG; "
        "bad = [m for m in ('lightning', 'hydra', 'omegaconf', 'scipy', 'torch_geometric', 'sklearn') "
        "if m in sys.modules]; print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_five_lines() -> None:
    model, x = network(), torch.randn(16, 3)
    gradients = torch.randn(3, 50)
    update = ConFIG()(gradients)
    assert update.shape == (50,)
    optimizer = MConFIG(model.parameters(), lr=1e-2, num_losses=2)
    first = [float(mse_loss(model(x)[:, k], x[:, k])) for k in range(2)]
    for _ in range(200):
        optimizer.step([lambda: mse_loss(model(x)[:, 0], x[:, 0]), lambda: mse_loss(model(x)[:, 1], x[:, 1])])
    assert all(float(mse_loss(model(x)[:, k], x[:, k])) < 0.1 * first[k] for k in range(2))


def two_losses(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    shared = model(x)
    return {"a": shared[:, 0].square().mean(), "b": (shared[:, 1] - 1).abs().mean()}


def test_backward_puts_the_combined_gradient_into_grad() -> None:
    model, x = network(), torch.randn(16, 3)
    rows = []
    for name in ("a", "b"):
        found = torch.autograd.grad(two_losses(model, x)[name], list(model.parameters()), allow_unused=True)
        rows.append(torch.cat([g.reshape(-1) for g in found]))
    expected = ConFIG()(torch.stack(rows))
    values = backward(two_losses(model, x), model.parameters(), ConFIG())
    assert torch.allclose(values, torch.stack(list(two_losses(model, x).values())).detach())
    assert torch.equal(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected)
    functions = [lambda k=k: list(two_losses(model, x).values())[k] for k in range(2)]
    backward(functions, model.parameters(), ConFIG())
    assert torch.equal(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected)
    backward(torch.stack(list(two_losses(model, x).values())), model.parameters(), ConFIG())
    assert torch.allclose(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected)


def test_parameters_that_a_loss_does_not_use_get_zeros() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    step = Backward([a, b], ConFIG())
    step([lambda: (a**2).sum(), lambda: (b**2).sum(), lambda: torch.tensor(3.0)])
    assert step.gradients is not None
    assert torch.equal(step.gradients, torch.tensor([[2.0, 2, 0], [0, 0, 2], [0, 0, 0]]))
    assert float(a.grad.norm()) == pytest.approx(float(b.grad.norm()), rel=1e-5)


def test_the_buffer_is_used_again_and_frozen_parameters_are_left_alone() -> None:
    model, x = network(), torch.randn(16, 3)
    model[0].bias.requires_grad_(False)
    step = Backward(model.parameters(), ConFIG())
    step(two_losses(model, x))
    assert step.gradients is not None
    address = step.gradients.data_ptr()
    step(two_losses(model, x))
    assert step.gradients.data_ptr() == address
    assert model[0].bias.grad is None


def test_heads_get_the_plain_gradient_of_the_sum() -> None:
    trunk, heads, x = nn.Linear(3, 4), nn.Linear(4, 2), torch.randn(8, 3)
    for operator in (ConFIG(), LS(), UW(), LRA()):
        Backward(trunk.parameters(), operator, heads.parameters())([v.square().mean() for v in heads(trunk(x)).T])
        plain = torch.autograd.grad(heads(trunk(x)).square().mean(dim=0).sum(), list(heads.parameters()))
        assert all(torch.allclose(p.grad, g, atol=1e-6) for p, g in zip(heads.parameters(), plain))
        assert all(p.grad is not None for p in trunk.parameters())


def test_bad_losses_are_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="scalar"):
        backward([model(torch.ones(2, 3))], model.parameters(), ConFIG())
    with pytest.raises(ValueError, match="no losses"):
        backward({}, model.parameters(), ConFIG())
    with pytest.raises(ValueError, match="Operator or a Weighting"):
        Backward(model.parameters(), torch.sum)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no parameters"):
        Backward([], ConFIG())


@pytest.mark.parametrize("operator", [ConFIG, LS, LRA, MinMax, ReLoBRaLo, UW, FAMO, lambda: ConFIG(weights=LRA())])
def test_what_is_not_finite_raises_and_leaves_grad_and_the_weights_alone(operator) -> None:
    model, method = network(), operator()
    step = Backward(model.parameters(), method)
    for _ in range(2):
        step([model(torch.ones(2, 3)).square().sum() for _ in range(2)])
    grads, state = [p.grad.clone() for p in model.parameters()], str(method.state_dict())
    with pytest.raises(ValueError, match=r"loss 1 .*not finite"):
        step([model(torch.ones(2, 3)).sum(), model(torch.ones(2, 3)).sum() * math.nan])
    assert str(method.state_dict()) == state
    with pytest.raises(ValueError, match="not finite"):  # a finite loss with a gradient that is not
        step([model(torch.ones(2, 3)).sum(), (model(torch.ones(2, 3)) * 0).square().sum().sqrt()])
    assert all(torch.equal(p.grad, old) for p, old in zip(model.parameters(), grads))


def test_a_finite_gradient_whose_sum_overflows_passes() -> None:
    theta = nn.Parameter(torch.tensor([1.0, -1.0, 1.0, -1.0]))
    backward([2e38 * theta.sum()], [theta], LS())
    assert theta.grad.tolist() == [pytest.approx(2e38)] * 4


def share(rank: int, port: int, result: str) -> None:
    """One of two processes with half of the batch each."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = nn.parallel.DistributedDataParallel(network())
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(5))[rank::2]
    step = Backward(model.module.parameters(), ConFIG())
    values = step(two_losses(model.module, x))
    grads = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    momentum = MConFIG(model.module.parameters(), lr=1e-2, num_losses=2)
    for _ in range(3):
        momentum.step(two_losses(model.module, x))
    moved = torch.cat([p.detach().reshape(-1) for p in model.module.parameters()])
    refused = 0
    for take in (step, momentum.step):  # a loss that is not finite in one process is refused in all
        try:
            take({n: v * (math.nan if rank == 1 else 1.0) for n, v in two_losses(model.module, x).items()})
        except NotFiniteError:
            refused += 1
    step(two_losses(model.module, x))
    bare = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    for _ in range(3):  # through the wrapped module, whose own reduction never begins
        step(two_losses(model, x))
        wrapped = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        assert torch.equal(bare, wrapped)
    after = torch.cat([p.detach().reshape(-1) for p in model.module.parameters()])
    assert torch.equal(moved, after)
    torch.save({"grads": grads, "values": values, "moved": moved, "refused": torch.tensor(refused)}, f"{result}{rank}")
    torch.distributed.destroy_process_group()


def test_two_processes_average_the_gradients_before_they_are_combined(tmp_path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(share, (port, str(tmp_path / "rank")), nprocs=2)
    found = [torch.load(tmp_path / f"rank{k}", weights_only=True) for k in range(2)]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert int(found[0]["refused"]) == 2
    model = network()
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(5))
    values = backward(two_losses(model, x), model.parameters(), ConFIG())
    whole = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    assert torch.allclose(found[0]["grads"], whole, atol=1e-6)
    assert torch.allclose(found[0]["values"], values, atol=1e-6)
    momentum = MConFIG(model.parameters(), lr=1e-2, num_losses=2)
    for _ in range(3):
        momentum.step(two_losses(model, x))
    moved = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert torch.allclose(found[0]["moved"], moved, atol=1e-5)


def test_learning_rate_schedule() -> None:
    rate = cosine_with_warmup(30_000, 1e-3, 1e-4)
    assert rate(0) == 0
    assert rate(50) == pytest.approx(5e-4)
    assert rate(100) == pytest.approx(1e-3)
    assert rate(15_050) == pytest.approx((1e-3 + 1e-4) / 2)
    assert rate(30_000) == pytest.approx(1e-4)
    assert rate(40_000) == pytest.approx(1e-4)
    short = cosine_with_warmup(3000, 3e-3, 3e-4)
    assert short(29) < 3e-3 == pytest.approx(short(30))
    assert constant(0.1)(7) == 0.1
    for bad in ((0, 1e-3, 1e-4), (10, 0.0, 0.0), (10, 1e-3, -1.0)):
        with pytest.raises(ValueError, match="must"):
            cosine_with_warmup(*bad)


def test_selection_reads_the_test_value_at_three_places() -> None:
    selection = Selection()
    for step, (value, loss) in enumerate([(5.0, 9.0), (2.0, 4.0), (3.0, 1.0), (4.0, math.nan), (4.5, 2.0)]):
        selection.add(step, value, loss, worst=-value)
    expected = {"test/mse_final": 4.5, "test/mse_best": 2.0, "test/mse_selected": 3.0}
    fresh = Selection()
    fresh.load_state_dict(selection.state_dict())
    for one in (selection, fresh):
        assert {k: v for k, v in one.results("test/mse").items() if "step" not in k} == expected
        assert one.reading("selected")["worst"] == -3.0
    higher = Selection("higher", "higher")
    for step, value in enumerate([0.1, 0.9, 0.5]):
        higher.add(step, value, 1 - value)
    assert higher.results("f1") == {
        "f1_final": 0.5,
        "f1_best": 0.9,
        "f1_best_step": 1.0,
        "f1_selected": 0.1,
        "f1_selected_step": 0.0,
    }
