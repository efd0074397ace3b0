"""The Taylor engine against nested automatic differentiation."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from decathlon.equations import MLP, Derivatives, differentiate

WANTED = {
    "values": ("xt", ()),
    "first": ("xyz", ("x", "z")),
    "burgers": ("xt", ("x", "t", "xx")),
    "laplacian": ("xyzt", ("x", "y", "z", "t", "xx+yy+zz")),
    "mixed": ("xt", ("xt", "xx", "tt", "x")),
    "fourth": ("xt", ("x", "t", "xx", "xxxx")),
    "towers": ("xt", {"a": {"xxx": 2.0, "ttt": -1.0}, "b": {"xxxxx": 0.5}, "c": {"x": 1.0, "t": 3.0}}),
    "weighted": ("xy", {"d": {"xx": 0.3, "xy": 2.0, "yy": -1.0}, "x": {"x": 1.0}}),
}


def network(inputs: int, outputs: int = 3, dtype: torch.dtype = torch.float64) -> MLP:
    torch.manual_seed(inputs)
    net = MLP(inputs, outputs, width=20, hidden=4, input_scale=[0.7] * inputs).to(dtype)
    for layer in net.linear_layers():
        nn.init.normal_(layer.weight, std=0.4)  # large enough to bend the tanh
        nn.init.normal_(layer.bias, std=0.4)
    return net


def scalar(d: Derivatives) -> Tensor:
    """A loss that mixes the values and all the derivatives of all the fields."""
    weights = (1.0 + 0.1 * number for number in itertools.count())
    parts = [torch.sin(part + weight).mean() for weight, part in zip(weights, [d.value, *d.values()])]
    return torch.stack(parts).sum() * (1 + d.value.square().mean())


def both(net: nn.Module, coordinates: str, wanted: object, chunk: int | None) -> list[tuple[Derivatives, list[Tensor]]]:
    dtype = next(net.parameters()).dtype
    found = []
    for engine in ("taylor", "nested"):
        x = (2 * torch.rand(101, len(coordinates), generator=torch.Generator().manual_seed(1)) - 1).to(dtype)
        x.requires_grad_()
        d = differentiate(net, x, coordinates, wanted, engine, chunk)  # type: ignore[arg-type]
        gradients = torch.autograd.grad(scalar(d), [x, *net.parameters()])
        found.append((d, list(gradients)))
    return found


@pytest.mark.parametrize("chunk", [None, 33])
@pytest.mark.parametrize("case", WANTED)
def test_taylor_equals_nested_autograd(case: str, chunk: int | None) -> None:
    coordinates, wanted = WANTED[case]
    (fast, fast_gradients), (slow, slow_gradients) = both(network(len(coordinates)), coordinates, wanted, chunk)
    assert list(fast) == list(slow) == list(wanted)
    for ours, reference in zip([fast.value, *fast.values()], [slow.value, *slow.values()]):
        ours, reference = ours.detach(), reference.detach()
        assert ours.shape == reference.shape == (3, 101)
        assert (ours - reference).abs().max() < 1e-10 * max(1.0, float(reference.abs().max()))
    for ours, reference in zip(fast_gradients, slow_gradients):
        assert (ours - reference).abs().max() < 1e-10 * max(1.0, float(reference.abs().max()))


@pytest.mark.parametrize("case", ["burgers", "laplacian", "fourth"])
def test_parameter_gradients_in_single_precision(case: str) -> None:
    coordinates, wanted = WANTED[case]
    (_, ours), (_, reference) = both(network(len(coordinates), dtype=torch.float32), coordinates, wanted, None)
    for fast, slow in zip(ours, reference):
        assert (fast - slow).norm() < 1e-4 * slow.norm()


def test_closed_form_of_one_unit() -> None:
    """u = w2 tanh(w1 x + b): the derivatives are known by hand."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    d = differentiate(net, x, "x", ("x", "xx", "xxx", "xxxx"), "taylor")
    w1, w2 = net[0].weight.item(), net[2].weight.item()
    h = torch.tanh(w1 * x[:, 0] + net[0].bias)
    f = 1 - h**2
    expected = {"x": f, "xx": -2 * h * f, "xxx": f * (6 * h**2 - 2), "xxxx": 8 * h * f * (2 - 3 * h**2)}
    for order, (name, value) in enumerate(expected.items(), start=1):
        assert torch.allclose(d[name][0], w2 * w1**order * value, rtol=1e-12, atol=1e-13)


def test_other_networks_fall_back_and_can_be_differentiated_again() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1)).double()
    x = torch.rand(5, 2, dtype=torch.float64)
    d = differentiate(net, x, "xt", ("x", "xt"))
    eps = 1e-6
    shifted = [differentiate(net, x + sign * torch.tensor([eps, 0.0]), "xt", ()).value for sign in (1, -1)]
    assert torch.allclose(d["x"], (shifted[0] - shifted[1]) / (2 * eps), atol=1e-7)
    (first,) = torch.autograd.grad(d["xt"].sum(), net[0].weight, create_graph=True)
    assert first.requires_grad


def test_linear_network_has_zero_second_derivatives() -> None:
    net = nn.Linear(2, 1)
    d = differentiate(net, torch.rand(4, 2), "xt", ("x", "xx", "tttt"))
    assert torch.equal(d["xx"], torch.zeros(1, 4)) and torch.equal(d["tttt"], torch.zeros(1, 4))


def test_autocast_does_not_touch_the_taylor_pass() -> None:
    """Neither forward nor, where Lightning takes gradients inside it, backward."""
    net, x = network(2, dtype=torch.float32), torch.rand(10, 2)

    def gradients() -> list[Tensor]:
        d = differentiate(net, x, "xt", ("x", "xx"), "taylor")
        return list(torch.autograd.grad(scalar(d), list(net.parameters())))

    expected = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients()
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(expected, found))


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("bias", [0.0, 0.4])
def test_small_values_keep_their_digits(scale: float, bias: float) -> None:
    """Single precision against double, for networks whose layers see small numbers."""
    net = network(2)
    for layer in net.hidden:
        nn.init.normal_(layer.weight, std=scale)
        nn.init.normal_(layer.bias, std=bias * scale)
    nn.init.zeros_(net.head.bias)
    exact, x = copy.deepcopy(net), torch.rand(500, 2, dtype=torch.float64)
    short = net.float()
    for parameter, reference in zip(short.parameters(), exact.parameters()):
        reference.data.copy_(parameter.data)  # rounded alike
    points = x.float()
    found = differentiate(short, points, "xt", ("x", "xx"), "taylor")
    expected = differentiate(exact, points.double(), "xt", ("x", "xx"), "nested")
    for ours, reference in zip([found.value, *found.values()], [expected.value, *expected.values()]):
        for field, wanted in zip(ours.detach().double(), reference.detach()):
            assert (field - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("engine", ["taylor", "nested"])
def test_no_points(engine: str) -> None:
    net, x = network(2), torch.empty(0, 2, dtype=torch.float64, requires_grad=True)
    d = differentiate(net, x, "xt", ("x", "xx", "xxx"), engine)
    assert d.value.shape == d["xxx"].shape == (3, 0)
    gradients = torch.autograd.grad(d["xx"].sum() + d.value.sum(), [x, *net.parameters()], allow_unused=True)
    assert all(g is None or not g.any() for g in gradients)


def test_backward_may_be_repeated_on_a_kept_graph() -> None:
    net = network(2)
    loss = scalar(differentiate(net, torch.rand(10, 2, dtype=torch.float64), "xt", ("x", "xx"), "taylor"))
    first = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize(
    ("coordinates", "wanted", "engine", "message"),
    [
        ("xt", "xx", "auto", r"is one string: give a sequence of names, such as \('xx',\)"),
        ("xt", {"a": "xx"}, "auto", "give weights by derivative"),
        ("xt", {"a": {"xx": nn.Parameter(torch.tensor(0.1))}}, "auto", "a tensor that is trained"),
        ("xt", {"a": {}}, "auto", "has no terms"),
        ("xyz", ("z",), "auto", r"needs \(n, 3\)"),
        ("x", ("x",), "nested", r"needs \(n, 1\)"),
        ("xt", ("y",), "auto", "no derivative by the coordinates x, t"),
        ("xx", ("x",), "auto", "all different"),
        ("xt", ("x",), "fast", "choose auto, taylor, nested"),
        ("xt", ("xxt",), "taylor", "use engine=nested"),
        ("xt", ("x+xx",), "taylor", "use engine=nested"),
        ("xt", ("x+",), "auto", "no derivative"),
    ],
)
def test_bad_requests_say_what_is_wrong(coordinates: str, wanted: tuple[str], engine: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        differentiate(network(2), torch.rand(3, 2, dtype=torch.float64), coordinates, wanted, engine)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.rand(3), r"the shape \(3,\)"),
        (torch.rand(3, 2, 1), r"the shape \(3, 2, 1\)"),
        (torch.ones(3, 2, dtype=torch.int64), "must be floating-point"),
    ],
)
def test_bad_points_say_what_is_wrong(points: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        differentiate(network(2), points, "xt", ("x",))


def test_networks_of_another_shape_are_named() -> None:
    with pytest.raises(ValueError, match=r"it maps \(3, 2\) to \(3,\)"):
        differentiate(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), torch.rand(3, 2), "xt", ("x",))


class Detached(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


def test_an_output_without_gradients_is_no_constant() -> None:
    with pytest.raises(ValueError, match="has no gradient by the points"):
        differentiate(Detached(2, 1), torch.rand(3, 2), "xt", ("x",))
    assert differentiate(Detached(2, 1), torch.rand(3, 2), "xt", ()).value.shape == (1, 3)


def test_taylor_engine_refuses_other_activations() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(ValueError, match="needs a tanh network"):
        differentiate(net, torch.rand(3, 2), "xt", ("x",), "taylor")
