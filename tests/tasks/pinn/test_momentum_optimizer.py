"""M-ConFIG as one of torch's optimizers: groups, schedulers, decay, states, copies, and what goes wrong."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from decathlon.tasks.pinn import LRA, ConFIG, GradDrop, MConFIG, MinMax, NotFiniteError, PCGrad


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def losses(net: nn.Module, step: int, m: int = 2) -> dict[str, Any]:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step)).to(next(net.parameters()))
    return {f"loss{k}": lambda k=k: (net(x)[:, k % 2] - (k + 1) * x[:, k % 3]).square().mean() for k in range(m)}


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


SCHEDULERS = {
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1e-2, total_steps=40),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, base_lr=1e-4, max_lr=1e-2, step_size_up=5),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=40),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda k: 0.9**k),
    "in turn": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.StepLR(o, 7)], milestones=[5]
    ),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_one_loss_is_adamw_under_every_scheduler(scheduler: str, decay: float) -> None:
    nets = [network(), network()]
    ours = MConFIG(nets[0].parameters(), lr=1e-2, num_losses=1, weight_decay=decay)
    adam = torch.optim.AdamW(nets[1].parameters(), lr=1e-2, weight_decay=decay)
    both = [SCHEDULERS[scheduler](optimizer) for optimizer in (ours, adam)]
    for step in range(20):
        ours.step(losses(nets[0], step, 1))
        adam.zero_grad(set_to_none=True)
        losses(nets[1], step, 1)["loss0"]().backward()
        adam.step()
        for one in both:
            one.step()
    assert torch.allclose(weights(nets[0]), weights(nets[1]), atol=1e-5)
    assert ours.param_groups[0]["betas"] == adam.param_groups[0]["betas"]


def test_reduce_on_plateau_sees_the_loss() -> None:
    net = network()
    optimizer = MConFIG(net.parameters(), lr=1e-2)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(3):
        plateau.step(next(iter(optimizer.step(losses(net, 0)).values())) * 0 + 1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_parameters_with_one_loss_are_adam(dtype: torch.dtype) -> None:
    start = torch.randn(5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    ours, theirs, real = nn.Parameter(start.clone()), nn.Parameter(start.clone()), nn.Parameter(torch.ones(3))
    twin = nn.Parameter(real.detach().clone())
    momentum, adam = MConFIG([real, ours], lr=1e-2, num_losses=1), torch.optim.Adam([twin, theirs], lr=1e-2)

    def loss(z: Tensor, x: Tensor, k: int) -> Tensor:
        return (z * (1 + k * 1j) - x.sum()).abs().square().sum()

    for k in range(40):
        momentum.step([lambda k=k: loss(ours, real, k)])
        adam.zero_grad()
        loss(theirs, twin, k).backward()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(real, twin, atol=1e-5)
    again = MConFIG([real, ours], num_losses=1)
    again.load_state_dict(momentum.state_dict())
    assert torch.equal(again.direction, momentum.direction)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_have_moments_in_float32(dtype: torch.dtype) -> None:
    theta, single = nn.Parameter(torch.ones(50, dtype=dtype)), nn.Parameter(torch.ones(50))
    ours, full = MConFIG([theta], lr=1e-3), MConFIG([single], lr=1e-3)
    rows = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    for _ in range(40):
        ours.step([lambda k=k: (rows[k] * theta).sum() for k in range(2)])
        full.step([lambda k=k: (rows[k].float() * single).sum() for k in range(2)])
    assert ours._buffers["second"].dtype == torch.float32
    assert torch.equal(ours._buffers["second"], full._buffers["second"])
    assert torch.equal(ours.direction, full.direction)


def test_a_frozen_group_and_a_parameter_given_twice() -> None:
    net, frozen = network(), nn.Parameter(torch.ones(4), requires_grad=False)
    plain = MConFIG(net.parameters(), lr=1e-2)
    for step in range(6):
        plain.step(losses(net, step))
    expected, net = weights(net), network()
    first, *rest = net.parameters()
    with pytest.warns(UserWarning, match="duplicate"):
        groups = MConFIG([{"params": [frozen]}, {"params": [first, first]}, {"params": rest}], lr=1e-2)
    for step in range(6):
        groups.step(losses(net, step))
    assert torch.equal(weights(net), expected)
    assert torch.equal(frozen, torch.ones(4))


def test_weight_decay_by_group_and_options_that_there_are_not() -> None:
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = MConFIG([{"params": [a], "weight_decay": 0.5}, {"params": [b]}], lr=0.1, num_losses=1)
    optimizer.step([lambda: (a + b).sum()])
    assert torch.allclose(b, torch.full((3,), 0.9))
    assert torch.allclose(a, torch.full((3,), 0.85))
    for option in ("amsgrad", "momentum", "maximize"):
        with pytest.raises(ValueError, match=f"no option {option}; choose lr"):
            MConFIG([{"params": [a], option: True}])
    for option, value in (("lr", float("nan")), ("weight_decay", -1), ("eps", -1), ("betas", (0.9, 1.0))):
        with pytest.raises(ValueError, match=f"{option}=.* must"):
            MConFIG([{"params": [a], option: value}])
    with pytest.raises(ValueError, match="same betas"):
        MConFIG([{"params": [a], "betas": (0.5, 0.9)}, {"params": [b]}]).step([(a * b).sum()] * 2)


def test_named_parameters_and_a_learning_rate_as_a_tensor() -> None:
    nets = [network(), network()]
    optimizers = [MConFIG(nets[0].named_parameters(), lr=torch.tensor(1e-2)), MConFIG(nets[1].parameters(), lr=1e-2)]
    for step in range(4):
        for net, optimizer in zip(nets, optimizers):
            optimizer.step(losses(net, step))
    assert torch.allclose(weights(nets[0]), weights(nets[1]), atol=1e-8)


def test_a_dict_in_another_order_is_known_by_its_names() -> None:
    nets = [network(), network()]
    fixed, mixed = (MConFIG(net.parameters(), lr=1e-2, num_losses=3) for net in nets)
    for step in range(12):
        found = fixed.step(losses(nets[0], step, 3))
        given = losses(nets[1], step, 3)
        names = list(given) if step == 0 else sorted(given, key=lambda name: (hash(name) + step) % 7)
        assert found == mixed.step({name: given[name] for name in names})
        if step == 5:
            state = mixed.state_dict()
            mixed = MConFIG(nets[1].parameters(), lr=1e-2, num_losses=3)
            mixed.load_state_dict(state)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    with pytest.raises(ValueError, match="losses loss0, loss1, other given, but so far they were loss0, loss1, loss2"):
        mixed.step({"loss0": weights, "loss1": weights, "other": weights})
    with pytest.raises(ValueError, match="losses must be"):
        mixed.step(set(losses(nets[1], 0, 3).values()))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("operator", [ConFIG, PCGrad, lambda: ConFIG(weights=LRA())])
def test_copies_and_pickles_go_on_to_the_same_bits(way, operator) -> None:
    net = network()
    optimizer = MConFIG(net.parameters(), lr=1e-2, num_losses=3, operator=operator(), weight_decay=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 5)
    for step in range(7):
        optimizer.step(losses(net, step, 3))
        scheduler.step()
    twin, other = way((net, optimizer))
    for step in range(7, 14):
        optimizer.step(losses(net, step, 3))
        other.step(losses(twin, step, 3))
    assert torch.equal(weights(net), weights(twin))
    assert same(optimizer.state_dict(), other.state_dict())


def test_states_of_other_optimizers_are_refused_and_nothing_has_changed() -> None:
    net = network()
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    adam.step()
    optimizer = MConFIG(net.parameters(), lr=1e-2)
    for step in range(3):
        optimizer.step(losses(net, step))
    before, good = optimizer.state_dict(), optimizer.state_dict()
    dropped = MConFIG(net.parameters(), operator=PCGrad())
    two = MConFIG([{"params": [p]} for p in net.parameters()])
    for state, match in (
        (adam.state_dict(), "no state of MConFIG"),
        ({}, "no state of MConFIG"),
        (dropped.state_dict(), "state of ConFIG has"),
        (two.state_dict(), "parameter group"),
        (MConFIG(net[0].parameters()).state_dict() | {"momentum": good["momentum"]}, "parameter group"),
    ):
        with pytest.raises(ValueError, match=match):
            optimizer.load_state_dict(state)
        assert same(optimizer.state_dict(), before)
    old = copy.deepcopy(good)  # one of before groups had betas, eps and weight_decay
    old["param_groups"] = [{"lr": 1e-2, "params": group["params"]} for group in old["param_groups"]]
    del old["momentum"]["names"]
    optimizer.load_state_dict(old)
    optimizer.step(losses(net, 3))


@pytest.mark.parametrize("q", [1, 2, 3])
@pytest.mark.parametrize("operator", [ConFIG, GradDrop, lambda: ConFIG(weights=MinMax(raw=False))])
def test_a_bad_batch_leaves_no_trace(operator, q: int) -> None:
    """A NaN loss, a NaN gradient of a finite loss, an infinite one, one whose squares overflow."""
    nets = [network(), network()]
    calm, hit = (
        MConFIG(net.parameters(), lr=1e-2, num_losses=3, updates_per_step=q, operator=operator()) for net in nets
    )
    for step in range(8):
        calm.step(losses(nets[0], step, 3))
        hit.step(losses(nets[1], step, 3))
        for bad in (
            lambda net: net(torch.ones(1, 3)).sum() * torch.nan,
            lambda net: net(torch.zeros(1, 3)).sum().mul(0).sqrt(),
            lambda net: net(torch.ones(1, 3)).sum() * 1e38 * 10,
            lambda net: net(torch.ones(1, 3)).sum() * 1e25,
        ):
            before = hit.state_dict()
            with pytest.raises(NotFiniteError, match="finite"):
                hit.step({name: lambda bad=bad: bad(nets[1]) for name in losses(nets[1], step, 3)})
            assert same(hit.state_dict(), before)
    assert torch.equal(weights(nets[0]), weights(nets[1]))


def test_the_losses_before_a_bad_one_keep_their_turn() -> None:
    net = network()
    optimizer = MConFIG(net.parameters(), lr=1e-2, num_losses=3, updates_per_step=2)
    optimizer.step(losses(net, 0, 3))
    optimizer.step(losses(net, 1, 3))
    before, due = weights(net), optimizer.due
    given = losses(net, 2, 3)
    given[f"loss{due[1]}"] = lambda: net(torch.ones(1, 3)).sum() * torch.nan
    with pytest.raises(NotFiniteError, match=f"loss {due[1]} "):
        optimizer.step(given)
    assert torch.equal(weights(net), before)
    assert optimizer.due[0] == due[1]
    assert all(bool(value.isfinite().all()) for value in optimizer._buffers.values())
    momenta = optimizer._buffers["momenta"].double()
    assert torch.allclose(optimizer._buffers["gram"], momenta @ momenta.T, rtol=1e-4, atol=1e-8)
    optimizer.step(losses(net, 3, 3))


def test_an_operator_that_fails_leaves_the_parameters_and_its_weights() -> None:
    net = network()
    optimizer = MConFIG(net.parameters(), lr=1e-2, operator=ConFIG(weights=MinMax(weight_lr=3.0)))
    optimizer.step(losses(net, 0))
    optimizer.step(losses(net, 1))
    before, state, updates = weights(net), str(optimizer.operator.state_dict()), optimizer.updates
    with pytest.raises(ValueError, match="positive"):
        optimizer.step(losses(net, 2))
    assert torch.equal(weights(net), before)
    assert (str(optimizer.operator.state_dict()), optimizer.updates) == (state, updates)


def test_what_would_train_nothing_is_refused() -> None:
    net = network()
    optimizer = MConFIG(net.parameters(), lr=1e-2)
    net(torch.ones(1, 3)).sum().backward()
    with pytest.raises(ValueError, match=r"not loss\.backward\(\)"):
        optimizer.step()
    with pytest.raises(ValueError, match="1 losses given"):
        optimizer.step(lambda: net(torch.ones(1, 3)).sum())
    with pytest.raises(ValueError, match="losses must be"):
        optimizer.step(lambda: 1.5)
    optimizer.step([torch.tensor(1.0)] * 2)
    with pytest.raises(ValueError, match="no loss depends"):
        optimizer.step([torch.tensor(1.0)] * 2)
    optimizer.zero_grad(set_to_none=True)
    with pytest.raises(ValueError, match=r"scalar tensor .* got 0\.0"):
        optimizer.step([0.0, 0.0])  # type: ignore[list-item]


def test_freezing_and_unfreezing_are_refused() -> None:
    net = network()
    net[0].bias.requires_grad_(False)
    optimizer = MConFIG(net.parameters(), lr=1e-2)
    for step in range(3):
        optimizer.step(losses(net, step))
    for layer, required in ((net[0], True), (net[2], False)):
        layer.bias.requires_grad_(required)
        with pytest.raises(ValueError, match="frozen or unfrozen"):
            optimizer.step(losses(net, 3))
        layer.bias.requires_grad_(not required)
    optimizer.step(losses(net, 3))


def test_a_network_that_changes_its_precision_takes_its_moments_along() -> None:
    net = network()
    optimizer = MConFIG(net.parameters(), lr=1e-2)
    for step in range(4):
        optimizer.step(losses(net, step))
    direction = optimizer.direction
    net.double()
    assert torch.allclose(optimizer.direction, direction.double(), rtol=1e-6)
    optimizer.step(losses(net, 4))
    assert optimizer._buffers["momenta"].dtype == torch.float64


def test_sparse_embeddings_and_losses_that_use_a_part() -> None:
    finals = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table, line = nn.Embedding(10, 4, sparse=sparse), nn.Linear(4, 1)
        optimizer = MConFIG([*table.parameters(), *line.parameters()], lr=1e-2)
        for step in range(6):
            rows = torch.tensor([step, step + 1, step])
            found = table(rows)
            optimizer.step([line(found).square().sum(), found.sum()])
        finals.append(table.weight.detach().clone())
    assert torch.equal(*finals)


def test_closures_of_micro_batches_add_up() -> None:
    nets = [network(), network()]
    whole, parts = (MConFIG(net.parameters(), lr=1e-2) for net in nets)
    for step in range(6):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        whole.step([lambda k=k, x=x: nets[0](x)[:, k].square().mean() for k in range(2)])
        parts.step([lambda k=k, x=x: sum(nets[1](h)[:, k].square().mean() for h in x.chunk(2)) / 2 for k in range(2)])
    assert torch.allclose(weights(nets[0]), weights(nets[1]), atol=1e-5)
