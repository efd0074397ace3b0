"""``Backward`` in the loops that people really have: freezing, sparse tables, scaling, accumulation, mistakes."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decathlon.tasks.pinn import (
    DWA,
    FAMO,
    IMTLG,
    LRA,
    LS,
    RLW,
    SI,
    UW,
    Backward,
    ConFIG,
    GradDrop,
    MinMax,
    NotFiniteError,
    PCGrad,
    ReLoBRaLo,
    backward,
)

WEIGHTINGS = [LS, SI, RLW, DWA, UW, MinMax, ReLoBRaLo, FAMO, LRA]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))


def losses(model: nn.Module, step: int = 0, m: int = 3) -> dict[str, Tensor]:
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
    out = model(x)
    return {f"loss{k}": ((k + 1) * out[:, k % 3] - x[:, k % 3]).square().mean() for k in range(m)}


def grads(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("operator", [ConFIG, LS, LRA])
def test_parameters_may_be_frozen_and_unfrozen_between_calls(operator: type) -> None:
    model = network()
    step, adam = Backward(model.parameters(), operator()), torch.optim.Adam(model.parameters(), lr=0.1)
    step(losses(model))
    adam.step()
    model[0].weight.requires_grad_(False)
    still = model[0].weight.clone()
    step(losses(model, 1))
    adam.step()  # with the last gradient, a frozen parameter would go on
    assert model[0].weight.grad is None
    assert torch.equal(model[0].weight, still)
    fresh = network()
    fresh.load_state_dict(model.state_dict())
    fresh[0].weight.requires_grad_(False)
    step(losses(model, 2))
    if operator is not LRA:  # it remembers
        Backward(fresh.parameters(), operator())(losses(fresh, 2))
        assert torch.equal(grads(model), grads(fresh))
    model[0].weight.requires_grad_(True)
    step(losses(model, 3))
    assert model[0].weight.grad is not None
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameters that require"):
        step({f"loss{k}": torch.tensor(1.0, requires_grad=True) for k in range(3)})


def test_heads_may_be_frozen_too_and_are_not_shared() -> None:
    trunk, heads, x = nn.Linear(3, 4), nn.Linear(4, 2), torch.randn(8, 3)
    step = Backward(trunk.parameters(), ConFIG(), heads.parameters())
    for frozen in (False, True, False):
        heads.requires_grad_(not frozen)
        step([v.square().mean() for v in heads(trunk(x)).T])
        assert (heads.weight.grad is None) == frozen
    with pytest.raises(ValueError, match="among the shared ones and among the heads"):
        Backward(trunk.parameters(), ConFIG(), trunk.parameters())


def test_sparse_embeddings_get_the_gradient_of_dense_ones() -> None:
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table, line, rows = nn.Embedding(10, 4, sparse=sparse), nn.Linear(4, 1), torch.tensor([1, 2, 1])
        for heads in ((), table.parameters()):
            shared = [*line.parameters(), *(() if heads else table.parameters())]
            Backward(shared, ConFIG(), heads)(
                [line(table(rows)).square().sum(), (line(table(rows)) - table(rows)).sum()]
            )
            found.append(table.weight.grad.clone())
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    with pytest.raises(ValueError, match="sparse"):
        Backward([torch.eye(3).to_sparse().requires_grad_()], ConFIG())


@pytest.mark.parametrize(
    "operator", [ConFIG, LRA, MinMax, lambda: ConFIG(weights=[3.0, 2.0, 1.0]), lambda: ConFIG(length=0)]
)
def test_a_dict_in_another_order_is_known_by_its_names(operator) -> None:
    fixed, mixed = network(), network()
    one, two = Backward(fixed.parameters(), operator()), Backward(mixed.parameters(), operator())
    for step in range(4):
        names = ["loss0", "loss1", "loss2"] if step == 0 else ["loss2", "loss0", "loss1"]
        expected, given = losses(fixed, step), losses(mixed, step)
        values = one(expected)
        found = dict(zip(names, two({name: given[name] for name in names})))
        assert found == dict(zip(expected, values))
        assert torch.equal(grads(fixed), grads(mixed))
        state = two.state_dict()
        two = Backward(mixed.parameters(), operator())
        two.load_state_dict(state)
    if two.operator.by_place:
        with pytest.raises(ValueError, match="but so far they were loss0, loss1, loss2"):
            two({"a": mixed[0].weight.sum()})


def test_losses_that_come_and_go_are_fine_where_nothing_is_kept_for_them() -> None:
    model = network()
    step = Backward(model.parameters(), ConFIG())
    for names in (["loss0", "loss1"], ["loss2"], ["loss1", "loss0", "loss2"]):
        given = losses(model)
        step({name: given[name] for name in names})
        expected = network()
        backward([losses(expected)[name] for name in names], expected.parameters(), ConFIG())
        assert torch.allclose(grads(model), grads(expected), atol=1e-6)


def test_a_batch_in_parts_is_the_whole_batch() -> None:
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))

    def of(model: nn.Module, part: Tensor, share: float = 1.0) -> list[Tensor]:
        return [share * (model(part)[:, k] - k).square().mean() for k in range(3)]

    for operator in (ConFIG, LRA):
        whole, parts = network(), network()
        values = Backward(whole.parameters(), operator())(of(whole, x))
        step = Backward(parts.parameters(), operator())
        for _ in range(2):  # the second batch begins anew
            sums = [step.accumulate(of(parts, part, 1 / 3)) for part in x.chunk(3)[:2]]
            sums.append(step(of(parts, x.chunk(3)[2], 1 / 3)))
            assert torch.allclose(torch.stack(sums).sum(dim=0), values, atol=1e-6)
            if operator is ConFIG:
                assert torch.allclose(grads(parts), grads(whole), atol=1e-6)
    step.accumulate(of(parts, x))
    with pytest.raises(ValueError, match="are accumulated"):
        step(of(parts, x)[:2])
    with pytest.raises(ValueError, match="does not look at"):
        Backward(parts.parameters(), LS()).accumulate(of(parts, x))


def test_a_bad_part_is_left_out() -> None:
    model, calm = network(), network()
    step, other = Backward(model.parameters(), ConFIG()), Backward(calm.parameters(), ConFIG())
    step.accumulate(losses(model, 0))
    with pytest.raises(NotFiniteError):
        step.accumulate({name: loss * math.nan for name, loss in losses(model, 1).items()})
    with pytest.raises(NotFiniteError):
        step({name: loss * math.nan for name, loss in losses(model, 1).items()})
    step(losses(model, 2))
    other.accumulate(losses(calm, 0))
    other(losses(calm, 2))
    assert torch.equal(grads(model), grads(calm))


@pytest.mark.parametrize("method", [*WEIGHTINGS, ConFIG, IMTLG, PCGrad, GradDrop, lambda: ConFIG(weights=LRA())])
def test_a_bad_batch_leaves_no_trace(method) -> None:
    model, heads = network(), nn.Linear(3, 3)
    operator = method()
    step = Backward(model.parameters(), operator, heads.parameters())
    x = torch.ones(2, 3)

    def good() -> list[Tensor]:
        return [v.square().mean() + 0.1 for v in heads(model(x)).T]

    step(good())
    state, before = str(operator.state_dict()), [p.grad.clone() for p in [*model.parameters(), *heads.parameters()]]
    for bad in (
        lambda: heads(model(x)).sum() * math.nan,
        lambda: heads(model(x)).sum() * 0 + math.inf,
        lambda: heads(model(x)).sum().mul(0).sqrt() + 1,  # finite, its gradient is not
    ):
        with pytest.raises(NotFiniteError, match="not finite"):
            step([good()[0], bad(), good()[1]])
    after = [p.grad for p in [*model.parameters(), *heads.parameters()]]
    assert all(torch.equal(a, b) for a, b in zip(after, before))
    assert str(operator.state_dict()) == state


@pytest.mark.parametrize("operator", [ConFIG, LS, LRA])
def test_what_would_train_nothing_is_refused(operator: type) -> None:
    model, other = network(), network(1)
    step = Backward(model.parameters(), operator())
    for nothing in (
        [loss.detach() for loss in losses(model).values()],
        list(losses(other).values()) if operator is not LS else [torch.tensor(1.0)],
    ):
        with pytest.raises(ValueError, match="no loss depends on the parameters"):
            step(nothing)
    with torch.no_grad(), pytest.raises(ValueError, match="no loss depends on the parameters"):
        step(losses(model))
    for bad, match in (
        ([1.0, 2.0], "got 1.0"),
        ([model(torch.ones(2, 3))], r"shape \(2, 3\)"),
        (3.0, "dict, a list or a vector"),
        ({next(iter(losses(model).values()))}, "dict, a list or a vector"),
    ):
        with pytest.raises(ValueError, match=match):
            step(bad)  # type: ignore[arg-type]


def test_what_is_no_list_of_parameters_is_refused() -> None:
    model = network()
    for bad, match in (
        (model[0].weight, "got one tensor"),
        (model, "got Sequential|got Linear"),
        (model.named_parameters(), "got tuple"),
        (3, "got int"),
    ):
        with pytest.raises(ValueError, match=match):
            Backward(bad, ConFIG())  # type: ignore[arg-type]


@pytest.mark.parametrize("m", [1, 3, 50])
def test_one_loss_many_and_the_same_one_again(m: int) -> None:
    model = network()
    backward(losses(model, m=m), model.parameters(), ConFIG())
    assert bool(grads(model).isfinite().all())
    loss = losses(model)["loss0"]
    backward([loss] * m, model.parameters(), ConFIG())
    plain = network()
    (m * losses(plain)["loss0"]).backward()
    expected = torch.cat(
        [torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.reshape(-1) for p in plain.parameters()]
    )
    assert torch.allclose(grads(model), expected, rtol=1e-4, atol=1e-6)


def test_graphs_can_be_kept_for_another_use() -> None:
    model = network()
    found = losses(model)
    Backward(model.parameters(), ConFIG())(found, retain_graph=True)
    sum(found.values()).backward()
    found = losses(model)
    Backward(model.parameters(), LS())(found, retain_graph=True)
    sum(found.values()).backward()


def test_a_gradient_scaler_goes_around_an_operator() -> None:
    """The update has degree 1 in the gradients, so a scale that is a power of 2 drops out to the last bit."""
    plain, scaled = network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (plain, scaled)]
    steps = [Backward(model.parameters(), ConFIG()) for model in (plain, scaled)]
    for step in range(4):
        steps[0](losses(plain, step))
        optimizers[0].step()
        if step == 2:
            with pytest.raises(NotFiniteError):
                steps[1]({name: scaler.scale(loss) * 1e38 for name, loss in losses(scaled, step).items()})
            scaler.update(scaler.get_scale() / 2)
        steps[1]({name: scaler.scale(loss) for name, loss in losses(scaled, step).items()})
        scaler.step(optimizers[1])
        scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), scaled.parameters()))


def test_under_autocast_the_gradients_are_those_of_the_losses() -> None:
    model = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = Backward(model.parameters(), ConFIG())
        step(losses(model))
    rows = step.gradients
    assert rows is not None and rows.dtype == torch.float32
    assert torch.equal(grads(model), ConFIG()(rows))


def test_a_compiled_model() -> None:
    """Its graph may be run backward once only, unless its buffers are not given away: then functions."""
    model = network()
    compiled = torch.compile(model, backend="aot_eager")
    backward(losses(compiled), compiled.parameters(), ConFIG())
    found = grads(model)
    backward(losses(model), model.parameters(), ConFIG())
    assert torch.allclose(found, grads(model), atol=1e-6)


def test_famo_says_that_it_is_not_told() -> None:
    model = network()
    step = Backward(model.parameters(), FAMO())
    with pytest.warns(UserWarning, match="after_step"):
        for _ in range(5):
            step(losses(model))
    told = FAMO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            backward(losses(model), model.parameters(), told)
            told.after_step([loss.detach() for loss in losses(model).values()])


def test_what_the_user_s_own_operator_does_is_used() -> None:
    class First(ConFIG):
        def __call__(self, gradients: Tensor, losses: Any = None) -> Tensor:
            return gradients[0].clone()

    model = network()
    backward(losses(model), model.parameters(), First())
    expected = torch.autograd.grad(losses(model)["loss0"], list(model.parameters()))
    assert torch.equal(grads(model), torch.cat([g.reshape(-1) for g in expected]))
