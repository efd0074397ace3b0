"""Derivatives of a tanh network along its inputs in one forward pass (truncated Taylor arithmetic).

With nested automatic differentiation every further derivative multiplies the graph. Here the network maps a *jet*, the
stack of ``h`` and its wanted derivatives, layer by layer: a linear layer acts on all of them in one matrix product,
and the activation by the rules below. One reverse pass through this, written by hand, gives the parameter gradients.

For ``h = tanh(z)``, let ``F = 1 - h^2`` (so that ``h' = F z'``) and write ``_k`` for the k-th derivative along a line.
By Leibniz' rule

    h_n   = sum_{k<n}  C(n-1, k) F_k z_{n-k}                      (forward)
    F_m   = [m = 0] - sum_j C(m, j) h_j h_{m-j}
    gz_k  = sum_{n>=k} C(n, k) F_{n-k} gh_n                       (reverse; g is the gradient of the loss)

The reverse rule holds because dh_n/dz_k = C(n, k) D^{n-k} tanh'(z); it needs the outputs only, so the pre-activations
are overwritten. The same rules at second order hold for any quadratic form ``Q = sum c_ij d_i d_j``: a Laplacian is
carried as *one* component (the forward Laplacian of Li et al. 2023, arXiv 2307.08214).
"""

from collections.abc import Sequence
from math import comb
from typing import Any

import torch
from torch import Tensor

from decathlon.equations.jet import JetPlan, Quadratic
from decathlon.equations.nested import in_transform
from decathlon.equations.second import nested_gradients

# Bytes of one layer's jet that one pass over the points handles at a time, so that it stays in a core's cache.
CHUNK_BYTES = 1_600_000
# Pre-activations below which 2 sigmoid(2 z) - 1 has too few digits: its absolute error is 6e-8 in single precision.
SMALL = 1 / 128


def taylor_mlp(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], plan: JetPlan, chunk: int | None = None
) -> Tensor:
    """Outputs of a tanh MLP and their derivatives by the inputs.

    Args:
        x: (points, inputs).
        weights: of each linear layer, (out, in); tanh stands between the layers and not after the last.
        biases: of each layer, (out,) or None. Only the last may be None.
        plan: the derivatives wanted.
        chunk: points handled at a time; by default as many as suit the cache (all of them on a GPU).

    Returns:
        (outputs, components, points), the components in the order of ``plan``; differentiable by ``x``, weights and
        biases. Once is fast; the gradient of a gradient goes through nested automatic differentiation.
    """
    if len(weights) < 2 or any(bias is None for bias in biases[:-1]):
        raise ValueError("taylor_mlp needs a hidden layer at least, and a bias in each hidden layer")
    if chunk is None:
        widest = max(weight.shape[0] for weight in weights)
        fits = max(64, CHUNK_BYTES // (x.element_size() * plan.components * widest))
        chunk = fits if x.device.type == "cpu" else len(x)
    # Chunks of equal size, so that the last one is no crumb.
    pieces = max(1, round(len(x) / max(1, chunk)))
    last_bias = biases[-1]
    if last_bias is None:
        last_bias = weights[-1].new_zeros(weights[-1].shape[0])
    bias_list = [bias for bias in biases[:-1] if bias is not None] + [last_bias]
    return _TaylorMLP.apply(x, plan, max(1, -(-len(x) // pieces)), *weights, *bias_list)


class _TaylorMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: JetPlan, chunk: int, *parameters: Tensor) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(x, *parameters)
        result, ctx.jets = _forward(x, plan, chunk, parameters)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled() or in_transform():
                needed = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
                x_gradient, *sums = nested_gradients(ctx.plan, (x, *parameters), needed, gradient)
            else:
                x_gradient = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
                sums = [*_backward(x, ctx.plan, parameters, ctx.jets, gradient, x_gradient)]
        return x_gradient, None, None, *sums


def _forward(x: Tensor, plan: JetPlan, chunk: int, parameters: Sequence[Tensor]) -> tuple[Tensor, list[list[Tensor]]]:
    """The output jet, and for the reverse pass the jets after each hidden layer, chunk by chunk."""
    depth = len(parameters) // 2
    weights, biases = parameters[:depth], parameters[depth:]
    outputs = len(weights[-1])
    result = x.new_empty(outputs, plan.components, len(x))
    saved: list[list[Tensor]] = []
    for start in range(0, len(x), chunk):
        points = x[start : start + chunk]
        jet = _first_layer(points, weights[0], biases[0], plan)
        jets = [jet]
        for weight, bias in zip(weights[1:-1], biases[1:-1]):
            jet = torch.mm(weight, jet.flatten(1)).view(len(weight), plan.components, len(points))
            _tanh_forward(jet, bias, plan)
            jets.append(jet)
        last = torch.mm(weights[-1], jet.flatten(1)).view(outputs, plan.components, len(points))
        last[:, 0].add_(biases[-1][:, None])
        result[:, :, start : start + chunk] = last
        saved.append(jets)
    return result, saved


def _backward(
    x: Tensor,
    plan: JetPlan,
    parameters: Sequence[Tensor],
    saved: list[list[Tensor]],
    gradient: Tensor,
    x_gradient: Tensor | None,
) -> list[Tensor]:
    """Gradients by the parameters, from the gradient by the output jet; fills ``x_gradient`` if it is wanted."""
    depth = len(parameters) // 2
    weights = parameters[:depth]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    weight_sums, bias_sums = sums[:depth], sums[depth:]
    used = _used(gradient)
    end = 0
    for jets in saved:
        start, end = end, end + jets[0].shape[-1]
        places: slice | Tensor = slice(start, end)
        if used is not None:
            inside = used[start:end].nonzero()[:, 0]
            if len(inside) == 0:
                continue
            places, jets = start + inside, [jet[:, :, inside] for jet in jets]
        g, points = gradient[:, :, places], x[places]
        for layer in range(depth - 1, 0, -1):
            flat = g.flatten(1)
            weight_sums[layer].addmm_(flat, jets[layer - 1].flatten(1).t())
            bias_sums[layer].add_(g[:, 0].sum(1))
            g = torch.mm(weights[layer].t(), flat).view_as(jets[layer - 1])
            if layer > 1:
                _tanh_backward(jets[layer - 1], g, plan)
        value = _first_layer_backward(points, jets[0], g, weights[0], plan, weight_sums[0])
        bias_sums[0].add_(value.sum(1))
        if x_gradient is not None:
            x_gradient[places] = torch.mm(value.t(), weights[0])
    return sums


def _used(gradient: Tensor) -> Tensor | None:
    """The points that have a gradient, if they are few: in a Jacobian each row has one."""
    if gradient.device.type != "cpu":
        return None
    used = gradient.flatten(0, 1).any(0)
    return used if 2 * int(used.sum()) < len(used) else None


def _squash(value: Tensor, bias: Tensor) -> Tensor:
    """Overwrite ``value`` (units, points) with h = tanh(value + bias), and return F = 1 - h^2.

    torch's sigmoid is several times faster than its tanh on CPUs, and tanh(z) = 2 sigmoid(2 z) - 1 to the same absolute
    error. Units whose values are all so small that their relative error would suffer have the tanh itself.
    """
    if value.device.type != "cpu":
        value.add_(bias[:, None]).tanh_()
    else:
        torch.add(2 * bias[:, None], value, alpha=2, out=value)
        small = torch.maximum(value.amax(1), -value.amin(1)) < 2 * SMALL
        if bool(small.any()):
            exact = torch.tanh(value[small] / 2)
            value.sigmoid_().mul_(2).sub_(1)[small] = exact
        else:
            value.sigmoid_().mul_(2).sub_(1)
    slope = value * value
    return slope.neg_().add_(1)


def _quadratic(first: Tensor, form: Quadratic) -> Tensor:
    """``sum c_ij first_i first_j`` for ``first`` (units, axes, points)."""
    (i, j, factor), *others = form
    total = first[:, i] * first[:, j]
    if factor != 1:
        total.mul_(factor)
    for i, j, c in others:
        total.addcmul_(first[:, i], first[:, j], value=c)
    return total


def _tanh_forward(jet: Tensor, bias: Tensor, plan: JetPlan) -> None:
    """Overwrite the pre-activation jet (units, components, points) with the jet of its tanh."""
    h, axes = jet[:, 0], len(plan.axes)
    slope = _squash(h, bias)
    ladders = plan.ladders()
    raw = [[jet[:, c].clone() for c in ladder[1:]] for ladder in ladders]
    squares = [_quadratic(jet[:, 1 : 1 + axes], form) for form in plan.quadratics]
    jet[:, 1:].mul_(slope[:, None])
    if squares:
        slope.mul_(h)
        for number, square in enumerate(squares):
            jet[:, 1 + axes + number].addcmul_(slope, square, value=-2)
    for ladder, z in zip(ladders, raw):
        for n in range(3, len(ladder)):
            for k in range(1, n):
                jet[:, ladder[n]].addcmul_(_slope_order(jet, ladder, k), z[n - k - 1], value=comb(n - 1, k))


def _slope_order(jet: Tensor, ladder: Sequence[int], m: int) -> Tensor:
    """F_m for m >= 1, the m-th derivative of 1 - h^2 along one axis, from the jet of h."""
    total = jet[:, 0] * jet[:, ladder[m]]
    total.mul_(-2)
    for j in range(1, (m + 1) // 2):
        total.addcmul_(jet[:, ladder[j]], jet[:, ladder[m - j]], value=-2 * comb(m, j))
    if m % 2 == 0:
        middle = jet[:, ladder[m // 2]]
        total.addcmul_(middle, middle, value=-comb(m, m // 2))
    return total


def _tanh_backward(jet: Tensor, g: Tensor, plan: JetPlan) -> None:
    """Overwrite ``g``, the gradient by the jet of h = tanh(z), with the gradient by the jet of z."""
    h, axes = jet[:, 0], len(plan.axes)
    first, second = jet[:, 1 : 1 + axes], 1 + axes
    low = second + len(plan.quadratics)
    extra: list[tuple[int, Tensor]] = []
    for ladder in plan.ladders():
        for m in range(1, len(ladder)):
            slope_m = _slope_order(jet, ladder, m)
            for n in range(max(m, 3), len(ladder)):
                extra.append((ladder[n - m], (slope_m * g[:, ladder[n]]).mul_(comb(n, m))))
    across = None
    if low > 1:
        across = jet[:, 1] * g[:, 1]
        for component in range(2, low):
            across.addcmul_(jet[:, component], g[:, component])
        across.mul_(h)
        for number, form in enumerate(plan.quadratics):
            across.addcmul_(_quadratic(first, form), g[:, second + number])
    weighted = [h * g[:, second + number] for number in range(len(plan.quadratics))]
    slope = h * h
    g.mul_(slope.neg_().add_(1)[:, None])
    if across is not None:
        g[:, 0].add_(across, alpha=-2)
    for form, product in zip(plan.quadratics, weighted):
        for i, j, c in form:
            g[:, 1 + i].addcmul_(first[:, j], product, value=-2 * c)
            g[:, 1 + j].addcmul_(first[:, i], product, value=-2 * c)
    for component, term in extra:
        g[:, component].add_(term)


def _first_layer(points: Tensor, weight: Tensor, bias: Tensor, plan: JetPlan) -> Tensor:
    """Jet after the first hidden layer: there z is linear in x, so its derivatives are the weights themselves."""
    axes = len(plan.axes)
    jet = points.new_empty(len(weight), plan.components, len(points))
    h = jet[:, 0]
    h.copy_(torch.mm(weight, points.t()))
    slope = _squash(h, bias)
    along = _columns(weight, plan.axes)
    torch.mul(slope[:, None], along[:, :, None], out=jet[:, 1 : 1 + axes])
    if plan.quadratics:
        slope.mul_(h)
    for number, form in enumerate(plan.quadratics):
        square = _quadratic(along[:, :, None], form)
        torch.mul(slope, square.mul_(-2), out=jet[:, 1 + axes + number])
    for (axis, _, _), ladder in zip(plan.towers, plan.ladders()):
        for n in range(3, len(ladder)):
            torch.mul(_slope_order(jet, ladder, n - 1), along[:, axis, None], out=jet[:, ladder[n]])
    return jet


def _first_layer_backward(
    points: Tensor, jet: Tensor, g: Tensor, weight: Tensor, plan: JetPlan, weight_sum: Tensor
) -> Tensor:
    """Add the gradient by the first weights to ``weight_sum``; return that by the pre-activation, (units, points)."""
    _tanh_backward(jet, g, plan)
    value = g[:, 0]
    weight_sum.addmm_(value, points)
    by_axis = g[:, 1 : 1 + len(plan.axes)].sum(2)
    for position, axis in enumerate(plan.axes):
        weight_sum[:, axis].add_(by_axis[:, position])
    return value


def _columns(weight: Tensor, axes: Sequence[int]) -> Tensor:
    """``weight[:, axes]``, without the host-device synchronisation of an index list."""
    return torch.stack([weight[:, axis] for axis in axes], dim=1) if axes else weight[:, :0]
