"""Derivatives of a network's outputs by its inputs, by name: the fast Taylor pass where it applies, else autograd."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from decathlon.equations.jet import JetPlan, Quadratic
from decathlon.equations.nested import Requests, Terms, exact_derivatives
from decathlon.equations.plain import tanh_layers
from decathlon.equations.taylor import taylor_mlp

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
    """Evaluate ``network`` and its derivatives by the coordinates, in the precision of its weights (no autocast).

    Args:
        network: maps (points, coordinates) to (points, fields), each point by itself.
        x: the points, (points, coordinates); there may be none.
        coordinates: one letter for each column of ``x``, such as ``"xyt"``.
        wanted: what to compute. A derivative is written as the letters it is taken by: ``"x"``, ``"xx"``, ``"xy"``,
            ``"xxxx"``. ``"xx+yy"`` is the sum, as one quantity (cheaper than its parts). A mapping gives weighted
            sums names of their own: ``{"x": {"x": 1}, "diffusion": {"xx": 0.1, "yy": 1.0}}``.
        engine: ``"taylor"`` (tanh networks: ``MLP``, or ``Sequential`` of ``Linear`` and ``Tanh``; any derivative up
            to second order, pure ones beyond), ``"nested"`` (automatic differentiation, any smooth network), or
            ``"auto"``: the first where it provably gives the derivatives of ``network(x)``, else the second.
        chunk: points that the Taylor pass handles at a time; the default suits the cache.

    Returns:
        Derivatives, differentiable any number of times by the network's parameters and by ``x``.

    Raises:
        ValueError: in one line, what is wrong with the points or with ``wanted``, or why ``engine="taylor"`` cannot be.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine} is unknown; choose {', '.join(ENGINES)}")
    requests = parse(coordinates, wanted)
    if x.ndim != 2 or x.shape[1] != len(coordinates):
        raise ValueError(f"the points have the shape {tuple(x.shape)}: {coordinates!r} needs (n, {len(coordinates)})")
    if not x.is_floating_point():
        raise ValueError(f"the points are {x.dtype}: they must be floating-point numbers")
    kind = x.device.type
    if torch.is_autocast_enabled(kind):  # high derivatives need the precision of the weights
        first = next(network.parameters(), None)
        with torch.autocast(kind, enabled=False):
            return _differentiate(network, x if first is None else x.to(first.dtype), requests, engine, chunk)
    return _differentiate(network, x, requests, engine, chunk)


def _differentiate(network: nn.Module, x: Tensor, requests: Requests, engine: str, chunk: int | None) -> Derivatives:
    layers = tanh_layers(network, x) if engine != "nested" else None
    planned = _plan(requests) if engine != "nested" else None
    if layers is not None and planned is not None:
        return _taylor(x, *layers, requests, planned, chunk)
    if engine == "taylor":
        lacking = "mixed derivatives of order two at most, and sums within one order"
        if layers is None:
            lacking = "a tanh network (MLP, or Sequential of Linear and Tanh) to which nothing is attached"
        raise ValueError(f"engine=taylor needs {lacking}; use engine=nested")
    return Derivatives(*exact_derivatives(network, x, requests))


def parse(coordinates: str, wanted: Wanted) -> Requests:
    """Names and their weighted derivatives, each derivative as a sorted tuple of axes."""
    if len(set(coordinates)) != len(coordinates) or not coordinates.isalpha():
        raise ValueError(f"coordinates={coordinates!r}: one letter each, all different")
    if isinstance(wanted, str):
        raise ValueError(f"wanted={wanted!r} is one string: give a sequence of names, such as ({wanted!r},)")
    if isinstance(wanted, Mapping):
        return _parse(coordinates, tuple((name, _weighted(name, terms)) for name, terms in wanted.items()))
    return _parse(coordinates, tuple((name, tuple((part, 1.0) for part in name.split("+"))) for name in wanted))


def _weighted(name: str, terms: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    if not isinstance(terms, Mapping):
        raise ValueError(f"the derivative {name!r} is {terms!r}: give weights by derivative, such as {{'xx': 1.0}}")
    for part, weight in terms.items():
        if isinstance(weight, Tensor) and weight.requires_grad:
            raise ValueError(
                f"the weight of {part!r} in {name!r} is a tensor that is trained: ask for {part!r} and multiply it in "
                "the residual"
            )
    return tuple((part, float(weight)) for part, weight in terms.items())


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
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    requests: Requests,
    planned: Plan,
    chunk: int | None,
) -> Derivatives:
    plan, where = planned
    parts = taylor_mlp(x, weights, biases, plan, chunk).unbind(1)
    named = {}
    for (name, _), components in zip(requests, where):
        terms = [parts[c] if weight == 1 else weight * parts[c] for c, weight in components]
        named[name] = sum(terms[1:], terms[0])
    return Derivatives(parts[0], named)
