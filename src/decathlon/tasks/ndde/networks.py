"""Networks of time, 1 -> widths -> 1, on flat parameter vectors, with their derivative by time in the same pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FIRST = ("tanh", "sin")
RECIPES = ("journal", "arxiv")


@dataclass(frozen=True)
class Architecture:
    """A fully connected tanh network with a linear output.

    Attributes:
        widths: of the hidden layers.
        first: of the first one: tanh, or sin: ``sin(kappa (t W) + b)`` with a trained scalar kappa.
        kappa: where kappa starts. log_kappa: its logarithm is trained.
    """

    widths: tuple[int, ...] = (20, 40, 20)
    first: str = "tanh"
    kappa: float = 1.0
    log_kappa: bool = False

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths={list(self.widths)}: a network needs hidden layers of at least one unit")
        if self.first not in FIRST:
            raise ValueError(f"first={self.first} is unknown; choose {', '.join(FIRST)}")
        if self.log_kappa and not self.kappa > 0:
            raise ValueError(f"kappa={self.kappa} must be positive if its logarithm is trained")

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the parameters in their order: weight, bias of each layer, and at last kappa of a sin layer."""
        sizes = [1, *self.widths, 1]
        found: list[tuple[int, ...]] = []
        for a, b in pairwise(sizes):
            found += [(b, a), (b,)]
        return [*found, ()] if self.first == "sin" else found

    @property
    def count(self) -> int:
        """How many parameters there are."""
        return sum(math.prod(shape) for shape in self.shapes)

    def split(self, flat: Tensor) -> list[Tensor]:
        """The parameters in a flat vector (..., count), as views with the same leading axes."""
        parts = flat.split([math.prod(shape) for shape in self.shapes], dim=-1)
        return [part.reshape((*flat.shape[:-1], *shape)) for part, shape in zip(parts, self.shapes)]

    def initial(self, recipe: str, random: torch.Generator) -> Tensor:
        """Start values (count,).

        ``journal``: weights normal, cut at two standard deviations, times ``sqrt(2/(fan_in + fan_out))``; biases 0.
        ``arxiv``: weights uniform on ``[-1/sqrt(fan_in), 1/sqrt(fan_out)]``, biases on [0, 1).
        """
        if recipe not in RECIPES:
            raise ValueError(f"init={recipe} is unknown; choose {', '.join(RECIPES)}")
        parts = []
        for shape in self.shapes:
            part = torch.zeros(shape, dtype=torch.float64)
            if len(shape) == 2:
                fan_out, fan_in = shape
                if recipe == "journal":
                    torch.nn.init.trunc_normal_(part, 0.0, 1.0, -2.0, 2.0, generator=random)
                    part *= math.sqrt(2 / (fan_in + fan_out))
                else:
                    part.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_out), generator=random)
            elif len(shape) == 1 and recipe == "arxiv":
                part.uniform_(0.0, 1.0, generator=random)
            elif shape == ():
                part.fill_(math.log(self.kappa) if self.log_kappa else self.kappa)
            parts.append(part.reshape(-1))
        return torch.cat(parts)


def evaluate(architecture: Architecture, flat: Tensor, t: Tensor, slopes: int) -> tuple[Tensor, Tensor]:
    """A network's values at times ``t`` (N,), and its slopes at the first ``slopes`` of them.

    One pass forward and, for gradients, one by hand backward: differentiable once, by the parameters and by ``t``.
    """
    return _Pass.apply(flat, t, slopes, architecture)


def plain(architecture: Architecture, flat: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Values and slopes (N,) by plain operations, differentiable any number of times.

    Args:
        flat: (count,), or (N, count): a network of its own for each time.
    """
    parameters = architecture.split(flat if flat.ndim == 2 else flat[None])
    weights, biases = (
        parameters[0 : 2 * len(architecture.widths) + 2 : 2],
        parameters[1 : 2 * len(architecture.widths) + 2 : 2],
    )
    scale = torch.ones_like(t)
    if architecture.first == "sin":
        scale = parameters[-1].exp() if architecture.log_kappa else parameters[-1]
        scale = scale.expand(t.shape)
    z = (scale * t)[:, None] * weights[0][..., 0] + biases[0]
    dz = scale[:, None] * weights[0][..., 0]
    if architecture.first == "sin":
        h, dh = torch.sin(z), torch.cos(z) * dz
    else:
        h = torch.tanh(z)
        dh = (1 - h * h) * dz
    for weight, bias in zip(weights[1:-1], biases[1:-1]):
        h = torch.tanh((weight @ h[..., None])[..., 0] + bias)
        dh = (1 - h * h) * (weight @ dh[..., None])[..., 0]
    value = (weights[-1] @ h[..., None])[..., 0] + biases[-1]
    return value[:, 0], (weights[-1] @ dh[..., None])[:, 0, 0]


def _tanh_(z: Tensor) -> Tensor:
    """tanh in place by one exponential: on a CPU several times faster than torch.tanh, to the same absolute error."""
    return z.mul_(2).exp_().add_(1).reciprocal_().mul_(-2).add_(1)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, t: Tensor, slopes: int, architecture: Architecture) -> tuple[Tensor, Tensor]:
        parameters = architecture.split(flat)
        depth = len(architecture.widths)
        weights, biases = parameters[0 : 2 * depth + 2 : 2], parameters[1 : 2 * depth + 2 : 2]
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        if architecture.first == "sin":
            kappa = parameters[-1].exp() if architecture.log_kappa else parameters[-1]
            z = torch.addmm(biases[0][:, None], kappa * weights[0], t[None])
            h, cosine = torch.sin(z), torch.cos(z)
            dh = cosine[:, :slopes] * (kappa * weights[0])
            kept.append((h, cosine, dh))
        else:
            h = _tanh_(torch.addmm(biases[0][:, None], weights[0], t[None]))
            front = h[:, :slopes]
            dh = (1 - front * front).mul_(weights[0])
            kept.append((h, weights[0], dh))
        for weight, bias in zip(weights[1:-1], biases[1:-1]):
            h = _tanh_(torch.addmm(bias[:, None], weight, h))
            dz = weight @ dh
            front = h[:, :slopes]
            dh = (1 - front * front).mul_(dz)
            kept.append((h, dz, dh))
        value = torch.addmv(biases[-1], h.t(), weights[-1][0])
        slope = dh.t() @ weights[-1][0]
        ctx.architecture, ctx.slopes, ctx.kept = architecture, slopes, kept
        ctx.save_for_backward(flat, t)
        return value, slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, g_slope: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        flat, t = ctx.saved_tensors
        architecture, count, kept = ctx.architecture, ctx.slopes, ctx.kept
        parameters = architecture.split(flat)
        depth = len(architecture.widths)
        weights = parameters[0 : 2 * depth + 2 : 2]
        h, _, dh = kept[-1]
        found = [(h @ g + dh @ g_slope)[None], g.sum()[None]]
        gh, gdh = weights[-1][0][:, None] * g, weights[-1][0][:, None] * g_slope
        for layer in range(depth - 1, 0, -1):
            h, dz, _ = kept[layer]
            below, d_below = kept[layer - 1][0], kept[layer - 1][2]
            flat_part = torch.addcmul(torch.ones((), dtype=h.dtype), h, h, value=-1)
            gdz = gdh.mul_(flat_part[:, :count])
            gz = gh.mul_(flat_part)
            gz[:, :count].addcmul_(gdz, h[:, :count] * dz, value=-2)
            found += [torch.addmm(gz @ below.t(), gdz, d_below.t()), gz.sum(dim=1)]
            gh, gdh = weights[layer].t() @ gz, weights[layer].t() @ gdz
        h, other, dh = kept[0]
        first = weights[0]
        if architecture.first == "sin":
            kappa = parameters[-1].exp() if architecture.log_kappa else parameters[-1]
            gz = gh * other
            gz[:, :count] -= gdh * h[:, :count] * (kappa * first)
            along = gz @ t + (gdh * other[:, :count]).sum(dim=1)
            g_kappa = along @ first[:, 0]
            found += [kappa * along[:, None], gz.sum(dim=1)]
            found.insert(0, (g_kappa * kappa if architecture.log_kappa else g_kappa)[None])
            g_t = (kappa * first[:, 0]) @ gz if ctx.needs_input_grad[1] else None
        else:
            flat_part = 1 - h * h
            gdz = gdh.mul_(flat_part[:, :count])
            gz = gh.mul_(flat_part)
            gz[:, :count].addcmul_(gdz, h[:, :count] * first, value=-2)
            found += [(gz @ t + gdz.sum(dim=1))[:, None], gz.sum(dim=1)]
            g_t = first[:, 0] @ gz if ctx.needs_input_grad[1] else None
        # Collected from the last layer to the first, weight before bias; a kappa was put in front.
        tail = [found.pop(0)] if architecture.first == "sin" else []
        pairs = [found[k : k + 2] for k in range(0, len(found), 2)]
        ordered = [part.reshape(-1) for pair in reversed(pairs) for part in pair]
        return torch.cat([*ordered, *(part.reshape(-1) for part in tail)]), g_t, None, None


def start_values(architecture: Architecture, networks: int, recipe: str, init: str, seed: int) -> Tensor:
    """Start values of all networks, (networks * count,).

    ``init=shared``: all alike, as in the paper's code; ``independent``: each its own. They are separate parameters in
    either case.
    """
    from decathlon.randomness import generator

    if init not in ("shared", "independent"):
        raise ValueError(f"init={init} is unknown; choose shared or independent")
    drawn = [
        architecture.initial(recipe, generator("network", seed, 0 if init == "shared" else number))
        for number in range(networks)
    ]
    return torch.cat(drawn)


def output_scales(scale: float | Sequence[float] | str | None, size: int) -> Tensor:
    """Factors of the networks' outputs, (n,)."""
    if isinstance(scale, str):
        raise ValueError(f"output_scale={scale} is unknown; give numbers, or data")
    given = [1.0] * size if scale is None else [scale] * size if isinstance(scale, (int, float)) else list(scale)
    if len(given) != size or not all(float(value) > 0 for value in given):
        raise ValueError(f"output_scale={scale}: give one positive number, or one for each of {size} unknowns")
    return torch.tensor([float(value) for value in given], dtype=torch.float64)
