"""Radio links between the ego and other vehicles: path loss, shadowing, blockage, rate."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from decathlon.tasks.cave import steady, streams


@dataclass(frozen=True)
class Radio:
    """A radio technology.

    Attributes:
        frequency: GHz. bandwidth: MHz per link. power: dBm. gain: dBi at each side.
        cap: largest spectral efficiency, bit/s/Hz. reach: m, beyond it a link is down. figure: receiver noise, dB.
    """

    frequency: float = 5.9
    bandwidth: float = 10.0
    power: float = 23.0
    gain: float = 3.0
    cap: float = 7.4
    reach: float = 250.0
    figure: float = 9.0

    @property
    def noise(self) -> float:
        """Noise power, dBm."""
        return -174 + 10 * math.log10(self.bandwidth * 1e6) + self.figure


PRESETS = {
    "cv2x": Radio(),
    "80211p": Radio(cap=2.7),
    "mmwave": Radio(frequency=60.0, bandwidth=400.0, gain=15.0, reach=120.0),
}
_EFFICIENCY = 0.75
_TEN = math.log(10) / 10


def path_loss(distance: Tensor, frequency: float) -> Tensor:
    """dB at ``distance`` m and ``frequency`` GHz on a highway with line of sight (3GPP TR 37.885)."""
    return 32.4 + 20 / math.log(10) * steady.log(distance.clamp(min=1)) + 20 * math.log10(frequency)


def link_rate(radio: Radio, distance: Tensor, loss: Tensor) -> Tensor:
    """Mbit/s at ``distance`` m with ``loss`` dB beyond the path loss: bandwidth min(cap, 0.75 log2(1 + SNR))."""
    budget = radio.power + 2 * radio.gain - radio.noise - 32.4 - 20 * math.log10(radio.frequency)
    reach = distance.clamp(min=1)
    snr = steady.exp(_TEN * (budget - loss)) / (reach * reach)
    efficiency = _EFFICIENCY / math.log(2) * steady.log(1 + snr)
    return radio.bandwidth * efficiency.clamp(max=radio.cap)


class Shadowing:
    """Log-normal shadowing of every link, correlated as exp(-travelled distance / decay): first-order autoregressive.

    Args:
        keys: (S,) random streams. vehicles: (S, M) ids.
        deviation: dB. decay: m.
    """

    def __init__(self, keys: Tensor, vehicles: Tensor, deviation: float, decay: float) -> None:
        self.keys, self.vehicles = keys[:, None], vehicles
        self.deviation, self.decay = deviation, decay
        self.value = torch.zeros(vehicles.shape, dtype=torch.float64, device=keys.device)
        self.value += deviation * self._normal(-1)

    def _normal(self, tick: int) -> Tensor:
        return steady.normal_quantile(streams.uniform(self.keys, self.vehicles, tick + 1))

    def advance(self, travelled: Tensor, tick: int) -> Tensor:
        """(S, M) dB after every vehicle has travelled so many metres."""
        if self.deviation > 0:
            kept = steady.exp(-travelled / self.decay)
            fresh = torch.sqrt((1 - kept * kept).clamp(min=0))
            self.value = kept * self.value + self.deviation * fresh * self._normal(tick)
        return self.value


def blockage_loss(keys: Tensor, vehicles: Tensor, distance: Tensor, second: int) -> Tensor:
    """(S, M) dB lost where another vehicle blocks the line of sight, redrawn every second.

    P(line of sight) = min(1, 2.1013e-6 d^2 - 0.002 d + 1.0193) up to 475 m; the loss is
    N(5 + max(0, 15 log10 d - 41), 4) dB, not below 0.
    """
    near = distance.clamp(1, 475)
    clear = (2.1013e-6 * near * near - 0.002 * near + 1.0193).clamp(0, 1)
    blocked = streams.uniform(keys[:, None], vehicles, second, 1) > clear
    mean = 5 + (15 / math.log(10) * steady.log(near) - 41).clamp(min=0)
    normal = steady.normal_quantile(streams.uniform(keys[:, None], vehicles, second, 2))
    return torch.where(blocked, (mean + 4 * normal).clamp(min=0), 0.0)
