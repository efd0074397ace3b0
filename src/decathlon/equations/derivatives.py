"""Derivatives of a network's outputs by its inputs, by name: the fast Taylor pass where it applies, else autograd."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from decathlon.equations.networks import MLP, tanh_layers
from decathlon.equations.taylor import JetPlan, Quadratic, taylor_mlp

Wanted = Sequence[str] | Mapping[str, Mapping[str, float]]
ENGINES = ("auto", "taylor", "nested")


class Derivatives(Mapping[str, Tensor]):
    """Values and derivatives of all the fields at all the points; each is a tensor (fields, points).

    Unpack by field: ``u, v, p = d.value`` and ``u_x, v_x, p_x = d["x"]``.
    """

    def __init__(self, value: Tensor, named: Mapping[str, Tensor]) -> None:
        self.value = value
        self._named = dict(named)

    def __getitem__(self, name: str) -> Tensor:
        return self._named[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)


def differentiate(
    network: nn.Module, x: Tensor, coordinates: str, wanted: Wanted, engine: str = "auto", chunk: int | None = None
) -> Derivatives:
    """Evaluate ``network`` and its derivatives by the coordinates.

    Args:
        network: maps (points, coordinates) to (points, fields).
        x: the points, (points, coordinates).
        coordinates: one letter for each column of ``x``, such as ``"xyt"``.
        wanted: what to compute. A derivative is written as the letters it is taken by: ``"x"``, ``"xx"``, ``"xy"``,
            ``"xxxx"``. ``"xx+yy"`` is the sum, as one quantity (cheaper than its parts). A mapping gives weighted
            sums names of their own: ``{"x": {"x": 1}, "diffusion": {"xx": 0.1, "yy": 1.0}}``.
        engine: ``"taylor"`` (tanh networks: ``MLP``, or ``Sequential`` of ``Linear`` and ``Tanh``; any derivative up
            to second order, pure ones beyond), ``"nested"`` (automatic differentiation, any smooth network), or
            ``"auto"``: the first where it applies, else the second.
        chunk: points that the Taylor pass handles at a time; the default suits the cache.

    Returns:
        Derivatives, differentiable once by the network's parameters (any number of times with ``"nested"``).
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine} is unknown; choose {', '.join(ENGINES)}")
    requests = parse(coordinates, wanted)
    layers = tanh_layers(network) if engine != "nested" else None
    planned = _plan(requests) if engine != "nested" else None
    if layers is not None and planned is not None:
        return _taylor(network, layers, x, requests, planned, chunk)
    if engine == "taylor":
        lacking = "a tanh network (MLP, or Sequential of Linear and Tanh)"
        if layers is not None:
            lacking = "mixed derivatives of order two at most, and sums within one order"
        raise ValueError(f"engine=taylor needs {lacking}; use engine=nested")
    return _nested(network, x, requests)


Terms = tuple[tuple[tuple[int, ...], float], ...]
Requests = tuple[tuple[str, Terms], ...]


def parse(coordinates: str, wanted: Wanted) -> Requests:
    """Names and their weighted derivatives, each derivative as a sorted tuple of axes."""
    if len(set(coordinates)) != len(coordinates) or not coordinates.isalpha():
        raise ValueError(f"coordinates={coordinates!r}: one letter each, all different")
    if isinstance(wanted, Mapping):
        return _parse(coordinates, tuple((name, tuple(terms.items())) for name, terms in wanted.items()))
    return _parse(coordinates, tuple((name, tuple((part, 1.0) for part in name.split("+"))) for name in wanted))


@lru_cache(maxsize=256)
def _parse(coordinates: str, wanted: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]) -> Requests:
    requests = []
    for name, parts in wanted:
        total: dict[tuple[int, ...], float] = {}
        for letters, weight in parts:
            if not letters or any(letter not in coordinates for letter in letters):
                raise ValueError(f"{letters!r} is no derivative by the coordinates {', '.join(coordinates)}")
            axes = tuple(sorted(coordinates.index(letter) for letter in letters))
            total[axes] = total.get(axes, 0.0) + float(weight)
        if not total:
            raise ValueError(f"the derivative {name!r} has no terms")
        requests.append((name, tuple(total.items())))
    return tuple(requests)


Plan = tuple[JetPlan, tuple[tuple[tuple[int, float], ...], ...]]


@lru_cache(maxsize=256)
def _plan(requests: Requests) -> Plan | None:
    """The jet that holds ``requests``, and each request as weighted components of it; None if no jet can."""
    orders = [{len(axes) for axes, _ in terms} for _, terms in requests]
    for (_, terms), order in zip(requests, orders):
        pure = all(len(set(axes)) == 1 for axes, _ in terms)
        if len(order) > 1 or (max(order) > 2 and not pure):
            return None
    axes = tuple(sorted({axis for _, terms in requests for part, _ in terms for axis in part}))
    place = {axis: position for position, axis in enumerate(axes)}
    forms: dict[Quadratic, int] = {}
    highest: dict[int, int] = {}
    for _, terms in requests:
        if len(terms[0][0]) == 2:
            forms.setdefault(_form(terms, place), len(forms))
        for part, _ in terms:
            if len(part) > 2:
                highest[part[0]] = max(highest.get(part[0], 2), len(part))
    for axis in highest:
        forms.setdefault(((place[axis], place[axis], 1.0),), len(forms))
    towers = tuple((place[a], forms[((place[a], place[a], 1.0),)], order) for a, order in sorted(highest.items()))
    plan = JetPlan(axes, tuple(forms), towers)
    ladders = {axes[position]: ladder for (position, _, _), ladder in zip(towers, plan.ladders())}
    where: list[tuple[tuple[int, float], ...]] = []
    for _, terms in requests:
        if len(terms[0][0]) == 2:
            where.append(((1 + len(axes) + forms[_form(terms, place)], 1.0),))
        elif len(terms[0][0]) == 1:
            where.append(tuple((1 + place[part[0]], weight) for part, weight in terms))
        else:
            where.append(tuple((ladders[part[0]][len(part)], weight) for part, weight in terms))
    return plan, tuple(where)


def _form(terms: Terms, place: Mapping[int, int]) -> Quadratic:
    return tuple(sorted((place[part[0]], place[part[1]], weight) for part, weight in terms))


def _taylor(
    network: nn.Module, layers: list[nn.Linear], x: Tensor, requests: Requests, planned: Plan, chunk: int | None
) -> Derivatives:
    plan, where = planned
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    if isinstance(network, MLP) and network.input_scale is not None:
        weights[0] = weights[0] * network.input_scale
    parts = taylor_mlp(x, weights, biases, plan, chunk).unbind(1)
    named = {}
    for (name, _), components in zip(requests, where):
        terms = [parts[c] if weight == 1 else weight * parts[c] for c, weight in components]
        named[name] = sum(terms[1:], terms[0])
    return Derivatives(parts[0], named)


def _nested(network: nn.Module, x: Tensor, requests: Requests) -> Derivatives:
    if not x.requires_grad:
        x = x.detach().requires_grad_()
    with torch.enable_grad():
        fields = network(x).unbind(1)
        known: dict[tuple[int, tuple[int, ...]], Tensor] = {(f, ()): field for f, field in enumerate(fields)}

        def derivative(f: int, axes: tuple[int, ...]) -> Tensor:
            if (f, axes) not in known:
                inner = derivative(f, axes[:-1])
                if inner.requires_grad:
                    (slopes,) = torch.autograd.grad(
                        inner.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True
                    )
                else:
                    slopes = torch.zeros_like(x)
                for axis in range(x.shape[1]):
                    known.setdefault((f, tuple(sorted((*axes[:-1], axis)))), slopes[:, axis])
            return known[f, axes]

        def combined(f: int, terms: Terms) -> Tensor:
            return sum((w * derivative(f, axes) for axes, w in terms[1:]), terms[0][1] * derivative(f, terms[0][0]))

        everything = range(len(fields))
        named = {name: torch.stack([combined(f, terms) for f in everything]) for name, terms in requests}
        return Derivatives(torch.stack(fields), named)
