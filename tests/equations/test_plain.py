"""The fast pass is taken only where it gives the derivatives of ``network(x)``, whatever torch lets a call do."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from decathlon.equations import MLP, Transformed, differentiate

WANTED = ("x", "t", "xx+tt", "xt")


def mlp(**options: Any) -> MLP:
    torch.manual_seed(3)
    net = MLP(2, 2, width=6, hidden=3, **options).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def sequential(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(4)
    tanh = between or (nn.Tanh(), nn.Tanh())
    return nn.Sequential(nn.Linear(2, 6), tanh[0], nn.Linear(6, 6), tanh[1], nn.Linear(6, 2)).double()


class Hard(MLP):
    """A hard constraint, written as users write it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (x * (1 - x)).prod(1, keepdim=True)


class Called(MLP):
    def __call__(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * super().__call__(x)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * super().forward(x)


class Adapter(nn.Module):
    """A low-rank increment beside a frozen layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(6, 2, bias=False).double(), nn.Linear(2, 6, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


class Reversed(nn.ModuleList):
    def __iter__(self) -> Iterator[nn.Module]:
        first, *others = super().__iter__()
        return iter([first, *reversed(others)])


class Loud(nn.Tanh):
    def forward(self, x: Tensor) -> Tensor:
        return 1.2 * super().forward(x)


class Doubling(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class TwiceTanh(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return 2 * found if func is torch.tanh else found


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Quantised(Tensor):
    """A tensor that rounds itself when it is used as a weight."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [a.as_subclass(Tensor) if isinstance(a, Quantised) else a for a in args]
        if func is functional.linear:
            plain[1] = plain[1] + (torch.round(4 * plain[1]) / 4 - plain[1]).detach()
        return func(*plain, **(kwargs or {}))


def edited(change: Callable[[Any], Any], make: Callable[[], nn.Module] = mlp) -> nn.Module:
    net = make()
    change(net)
    return net


def with_weight(net: MLP, weight: Any) -> None:
    del net.hidden[1].weight
    net.hidden[1].weight = weight


def unbiased(net: MLP) -> None:
    net.hidden[1].bias = None


def headless(net: MLP) -> None:
    net.hidden, net.head = nn.ModuleList(), nn.Linear(2, 2).double()


def number(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value], dtype=torch.float64))


def put(place: Any, name: Any, value: Any) -> None:
    place[name] = value


# What a user may do to a network or write instead; each must be computed as it is, by nested differentiation.
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "subclass with its own forward": lambda: edited(lambda net: setattr(net, "__class__", Hard)),
    "subclass with its own call": lambda: edited(lambda net: setattr(net, "__class__", Called)),
    "forward of the instance": lambda: edited(lambda net: setattr(net, "forward", lambda x: MLP.forward(net, x) ** 2)),
    "forward of a layer": lambda: edited(
        lambda net: setattr(net.hidden[1], "forward", lambda x, layer=net.hidden[1]: 3 * nn.Linear.forward(layer, x))
    ),
    "call of a layer": lambda: edited(lambda net: setattr(net.head, "_call_impl", lambda x: x[:, :2])),
    "adapter in a hidden layer": lambda: edited(lambda net: put(net.hidden, 1, Adapter(net.hidden[1]))),
    "subclass of Linear": lambda: edited(lambda net: setattr(net.hidden[2], "__class__", Scaled)),
    "other head": lambda: edited(lambda net: setattr(net, "head", nn.Sequential(net.head, nn.Softplus()))),
    "head left out": lambda: edited(lambda net: setattr(net, "head", nn.Identity())),
    "head is an attribute": lambda: edited(lambda net: net.__dict__.update(head=lambda x: x[:, :2].sin())),
    "other container": lambda: edited(lambda net: setattr(net, "hidden", Reversed(net.hidden))),
    "layer added": lambda: edited(lambda net: net.hidden.append(nn.LayerNorm(6).double())),
    "no hidden layer": lambda: edited(headless),
    "hidden layer without bias": lambda: edited(unbiased),
    "bias of one number": lambda: edited(lambda net: setattr(net.hidden[1], "bias", number(1.0))),
    "forward hook": lambda: edited(lambda net: net.register_forward_hook(lambda m, a, out: out * 2)),
    "forward hook of a layer": lambda: edited(
        lambda net: net.hidden[0].register_forward_hook(lambda m, a, out: out * 2)
    ),
    "hook with keywords": lambda: edited(
        lambda net: net.head.register_forward_hook(lambda m, a, k, out: out * 2, with_kwargs=True, always_call=True)
    ),
    "pre-hook": lambda: edited(lambda net: net.register_forward_pre_hook(lambda m, a: (a[0] * 2,))),
    "pre-hook of the head": lambda: edited(lambda net: net.head.register_forward_pre_hook(lambda m, a: (a[0] * 2,))),
    "backward hook": lambda: edited(
        lambda net: net.hidden[1].register_full_backward_hook(lambda m, into, out: tuple(g * 2 for g in into))
    ),
    "backward pre-hook": lambda: edited(
        lambda net: net.hidden[1].register_full_backward_pre_hook(lambda m, out: tuple(g * 2 for g in out))
    ),
    "parametrized weight": lambda: edited(
        lambda net: parametrize.register_parametrization(net.hidden[1], "weight", Doubling())
    ),
    "parametrized scale": lambda: edited(
        lambda net: parametrize.register_parametrization(net, "input_scale", Doubling()),
        lambda: mlp(input_scale=(0.5, 2.0)),
    ),
    "weight norm": lambda: edited(lambda net: parametrizations.weight_norm(net.hidden[1])),
    "orthogonal": lambda: edited(lambda net: parametrizations.orthogonal(net.hidden[1])),
    "spectral norm by a pre-hook": lambda: edited(lambda net: nn.utils.spectral_norm(net.hidden[1].eval())),
    "pruned": lambda: edited(lambda net: prune.random_unstructured(net.hidden[1], "weight", 0.5)),
    "tensor subclass": lambda: edited(
        lambda net: with_weight(net, net.hidden[1].weight.detach().as_subclass(Quantised))
    ),
    "scale of another shape": lambda: edited(
        lambda net: setattr(net, "input_scale", torch.rand(9, 2).double()), lambda: mlp(input_scale=(0.5, 2.0))
    ),
    "output transform": lambda: Transformed(mlp(), lambda x, u: u * torch.sin(x[:, :1])),
    "wrapped": lambda: nn.Sequential(mlp(), nn.Linear(2, 2).double()),
    "sequence in a sequence": lambda: nn.Sequential(sequential(), nn.Tanh(), nn.Linear(2, 2).double()),
    "other activation": lambda: sequential(nn.Tanh(), nn.SiLU()),
    "subclass of Tanh": lambda: sequential(nn.Tanh(), Loud()),
    "hooked activation": lambda: edited(
        lambda net: net[1].register_forward_hook(lambda m, a, out: out.square()), sequential
    ),
    "activation's forward": lambda: edited(lambda net: setattr(net[1], "forward", torch.sin), sequential),
    "two layers in a row": lambda: sequential(nn.Linear(6, 6), nn.Tanh()).double(),
    "dropout": lambda: nn.Sequential(*sequential()[:4], nn.Dropout(0.5), sequential()[4]),
    "data parallel": lambda: nn.DataParallel(mlp()),
    "compiled": lambda: torch.compile(mlp(), backend="eager"),
    "compiled in place": lambda: edited(lambda net: net.compile(backend="eager")),
}  # fmt: skip


@contextmanager
def patched(owner: Any, name: str, replacement: Callable[[Any], Any]) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, functools.wraps(kept)(replacement(kept)))
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def hooked(register: Callable[..., Any], hook: Callable[..., Any]) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


def twice(kept: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: 2 * kept(*arguments)


# What may be in force around a call.
AROUND: dict[str, Callable[[], Any]] = {
    "forward of MLP": lambda: patched(MLP, "forward", twice),
    "forward of Linear": lambda: patched(nn.Linear, "forward", twice),
    "call of Module": lambda: patched(nn.Module, "__call__", twice),
    "function of linear layers": lambda: patched(functional, "linear", twice),
    "torch.tanh": lambda: patched(torch, "tanh", twice),
    "global hook": lambda: hooked(torch_module.register_module_forward_hook, lambda m, a, out: out * 2),
    "global pre-hook": lambda: hooked(torch_module.register_module_forward_pre_hook, lambda m, a: (a[0] * 2,)),
    "global backward hook": lambda: hooked(
        torch_module.register_module_full_backward_hook,
        lambda m, into, out: tuple(None if g is None else 2 * g for g in into),
    ),
    "global backward pre-hook": lambda: hooked(
        torch_module.register_module_full_backward_pre_hook, lambda m, out: tuple(g * 2 for g in out)
    ),
    "function mode": TwiceTanh,
    "dispatch mode": Watching,
}


def measured(net: nn.Module, engine: str) -> list[Tensor]:
    """Values, derivatives, and the gradients of a loss of them by the points and all the parameters."""
    x = torch.rand(9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    torch.manual_seed(5)  # of dropout
    d = differentiate(net, x, "xt", WANTED, engine)
    loss = torch.stack([torch.sin(k + part).mean() for k, part in enumerate([d.value, *d.values()])]).sum()
    trained = [p for p in net.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, [x, *trained], allow_unused=True, materialize_grads=True)
    torch.manual_seed(5)
    return [part.detach() for part in (net(x).t(), d.value, *d.values(), *gradients)]


def check(net: nn.Module, engine: str = "auto") -> list[Tensor]:
    found, expected = measured(net, engine), measured(net, "nested")
    assert len(found) == len(expected)
    for ours, reference in zip(found, expected):
        assert torch.allclose(ours, reference, rtol=1e-9, atol=1e-11)
    assert torch.allclose(found[0], found[1], rtol=1e-9, atol=1e-11)  # network(x) itself
    return found


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_exactly_a_tanh_network_is_differentiated_as_it_is(name: str) -> None:
    net = OTHERS[name]()
    with torch.compiler.set_stance("force_eager"):
        check(net)
        with pytest.raises(ValueError, match="nothing is attached"):
            measured(net, "taylor")


def test_a_lazy_layer_is_made_by_the_first_call() -> None:
    net, x = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, 2)), torch.rand(9, 2)
    first, second = differentiate(net, x, "xt", WANTED), differentiate(net, x, "xt", WANTED, "taylor")
    assert torch.allclose(first["xt"], second["xt"], atol=1e-6)


@pytest.mark.parametrize("name", AROUND)
def test_what_is_in_force_around_a_call_counts(name: str) -> None:
    net = mlp()
    plain = check(net, "taylor")
    with AROUND[name]():
        found = check(net)
        with pytest.raises(ValueError, match="nothing is attached"):
            measured(net, "taylor")
    assert "mode" in name or "backward" in name or not torch.allclose(found[1], plain[1])
    assert all(torch.equal(a, b) for a, b in zip(plain, check(net, "taylor")))


def tied() -> MLP:
    net = mlp()
    net.hidden[2] = net.hidden[1]
    return net


def shared_weight() -> MLP:
    net = mlp()
    net.hidden[2].weight = net.hidden[1].weight
    return net


def frozen() -> MLP:
    net = mlp()
    net.hidden[1].requires_grad_(False)
    return net


# Changes after which the layers still are all that there is: the fast pass sees them.
FAST: dict[str, Callable[[], nn.Module]] = {
    "plain": mlp,
    "sequence": sequential,
    "no output bias": lambda: mlp(output_bias=False),
    "scaled inputs": lambda: mlp(input_scale=(0.5, 2.0)),
    "trained scale": lambda: edited(
        lambda net: (net.__delattr__("input_scale"), setattr(net, "input_scale", nn.Parameter(torch.rand(2).double()))),
    ),
    "scale of one number": lambda: edited(lambda net: setattr(net, "input_scale", torch.tensor(0.3).double())),
    "one layer twice": tied,
    "one weight twice": shared_weight,
    "frozen layer": frozen,
    "weight that is no parameter": lambda: edited(lambda net: with_weight(net, torch.eye(6).double())),
    "evaluation mode": lambda: mlp().eval(),
    "unused module": lambda: edited(lambda net: net.add_module("notes", nn.Linear(2, 2).double())),
}  # fmt: skip


@pytest.mark.parametrize("name", FAST)
def test_what_is_a_tanh_network_is_fast(name: str) -> None:
    check(FAST[name](), "taylor")


def test_a_device_context_changes_nothing() -> None:
    with torch.device("cpu"):
        check(mlp(), "taylor")


def test_distributed_data_parallel(tmp_path: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        check(nn.parallel.DistributedDataParallel(mlp()))
    finally:
        dist.destroy_process_group()


def test_functional_call_computes_with_what_it_is_given() -> None:
    class Residual(nn.Module):
        def __init__(self, engine: str) -> None:
            super().__init__()
            self.net, self.engine = mlp(), engine

        def forward(self, x: Tensor) -> Tensor:
            d = differentiate(self.net, x, "xt", WANTED, self.engine)
            return (d.value * d["x"] + d["xx+tt"] + d["xt"]).square().mean()

    x = torch.rand(9, 2).double()
    given = {name: (1.5 * p.detach()).requires_grad_() for name, p in Residual("auto").named_parameters()}
    fast, slow = Residual("taylor"), Residual("nested")
    losses = [torch.func.functional_call(module, given, x) for module in (fast, slow)]
    gradients = [torch.autograd.grad(loss, list(given.values())) for loss in losses]
    auto = Residual("auto")
    transformed = torch.func.grad(lambda p: torch.func.functional_call(auto, p, x))(given)
    for ours, reference, by_transform in zip(*gradients, transformed.values()):
        assert torch.allclose(ours, reference, rtol=1e-9) and torch.allclose(by_transform, reference, rtol=1e-9)


def test_autocast_touches_neither_engine() -> None:
    """Derivatives are those of the weights' precision, also of points that autocast has made shorter."""
    net, x = mlp().float(), torch.rand(9, 2)
    expected = differentiate(net, x, "xt", WANTED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for engine, points in (("taylor", x), ("nested", x), ("auto", x.bfloat16())):
            found = differentiate(net, points, "xt", WANTED, engine)
            exact = points is x
            for ours, reference in zip([found.value, *found.values()], [expected.value, *expected.values()]):
                assert ours.dtype == torch.float32
                assert torch.allclose(ours, reference, rtol=1e-4 if exact else 0.1, atol=1e-5 if exact else 0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_precision_is_not_fast(dtype: torch.dtype) -> None:
    net, x = mlp().to(dtype), torch.rand(9, 2).to(dtype)
    found, expected = (differentiate(net, x, "xt", ("x",), engine) for engine in ("auto", "nested"))
    assert torch.equal(found["x"], expected["x"]) and torch.equal(found.value, net(x).t())


@pytest.mark.parametrize("engine", ["taylor", "nested"])
def test_without_gradients_nothing_is_recorded(engine: str) -> None:
    net, x = mlp(), torch.rand(9, 2).double()
    expected = differentiate(net, x, "xt", WANTED)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            points = x * 1  # made in this mode
            found = differentiate(net, points, "xt", WANTED, engine)
        assert not found.value.requires_grad and not any(part.requires_grad for part in found.values())
        assert torch.allclose(found["xt"], expected["xt"])


def test_forward_mode_gradients() -> None:
    net, x = mlp(), torch.rand(9, 2).double()
    d = differentiate(net, x, "xt", ("xx", "xt"))
    with ExitStack() as stack:
        stack.enter_context(torch.autograd.forward_ad.dual_level())
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(differentiate(net, dual, "xt", ("x",))["x"]).tangent
    assert torch.allclose(tangent, d["xx"] + d["xt"])


def test_output_transform_holds_a_condition_exactly() -> None:
    net = Transformed(mlp(), lambda x, u: x[:, :1] * (1 - x[:, :1]) * u)
    ends = torch.tensor([[0.0, 0.3], [1.0, 0.7]]).double()
    assert torch.equal(differentiate(net, ends, "xt", ("t",)).value, torch.zeros(2, 2).double())
    x = torch.rand(9, 2).double()
    inner, outer = (differentiate(n, x, "xt", ("x",)) for n in (net.network, net))
    expected = (1 - 2 * x[:, 0]) * inner.value + x[:, 0] * (1 - x[:, 0]) * inner["x"]
    assert torch.allclose(outer["x"], expected)
