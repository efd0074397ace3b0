"""Random numbers without a state: each is a hash of what it is for (a seed, a scenario, a task, a vehicle, a step).

So a scenario draws the same numbers alone or in any batch, every method meets the same arrivals and failures, and
nothing is lost when a run is killed. All scenarios of a batch are drawn at once.
"""

import torch
from torch import Tensor

from decathlon.randomness import seed_of

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_FAST_FIRST, _FAST_SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)


def _mix(h: Tensor) -> Tensor:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the argument."""
    h = (h ^ ((h >> 30) & 0x3FFFFFFFF)) * _FIRST
    h = (h ^ ((h >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return h ^ ((h >> 31) & 0x1FFFFFFFF)


def key(scenarios: Tensor, *name: object) -> Tensor:
    """One 64-bit key per scenario (S,), for a seed and a purpose, for example ``key(ids, seed, "arrivals")``."""
    return _mix(_mix(scenarios.long() * _GOLDEN) + seed_of("cave", *name))


def bits(keys: Tensor, *places: Tensor | int) -> Tensor:
    """64 random bits for each combination of ``keys`` and ``places``, which are broadcast against each other."""
    h = keys
    for place in places:
        step = _signed(place * _GOLDEN) if isinstance(place, int) else place.long() * _GOLDEN
        h = _mix(h + step + 1)
    return h


def _signed(number: int) -> int:
    """A whole number modulo 2^64, as a signed one: what 64-bit arithmetic would make of it."""
    return (number + 2**63) % 2**64 - 2**63


def uniform(keys: Tensor, *places: Tensor | int) -> Tensor:
    """float64 numbers in (0, 1), as :func:`bits`."""
    return (((bits(keys, *places) >> 12) & 0xFFFFFFFFFFFFF).double() + 0.5) * 2.0**-52


class FastUniform:
    """Two uniform numbers of 16 bits for every element of a swarm (K, N, S, P) in every step, by 32-bit arithmetic.

    Args:
        keys: (S,) as of :func:`key`.
        steps: how many steps there will be.
        shape: tasks K, vehicles N, particles P. An element's numbers depend on its own (k, n, p), not on the shape.
    """

    def __init__(self, keys: Tensor, steps: int, shape: tuple[int, int, int]) -> None:
        tasks, vehicles, particles = shape
        device = keys.device
        k, n, p = (torch.arange(size, device=device) for size in shape)
        zero = torch.zeros((), dtype=torch.int64, device=device)
        self._elements = _low(bits(zero, k[:, None, None, None], n[:, None, None], p))
        self._steps = _low(bits(keys, torch.arange(steps, device=device)[:, None]))[..., None]
        full = (tasks, vehicles, len(keys), particles)
        self._hash = torch.empty(full, dtype=torch.int32, device=device)
        self._other = torch.empty(full, dtype=torch.int32, device=device)
        self._halves = self._hash.view(torch.int16)
        self._numbers = torch.empty(self._halves.shape, dtype=torch.float32, device=device)
        self.first, self.second = self._numbers[..., :particles], self._numbers[..., particles:]

    def draw(self, step: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Two tensors (K, N, S, P) of numbers in (0, ``scale``), overwritten by the next call."""
        h, other = self._hash, self._other
        torch.bitwise_xor(self._elements, self._steps[step], out=h)
        h.mul_(_FAST_FIRST)
        torch.bitwise_right_shift(h, 15, out=other)
        h.bitwise_xor_(other).mul_(_FAST_SECOND)
        torch.mul(self._halves, scale * 2.0**-16, out=self._numbers)  # both halves are signed: from -1/2 to 1/2
        self._numbers.add_(scale * (0.5 + 2.0**-17))
        return self.first, self.second


def _low(h: Tensor) -> Tensor:
    """The low 32 bits as a signed number."""
    low = h & 0xFFFFFFFF
    return (low - ((low >> 31) << 32)).to(torch.int32)
