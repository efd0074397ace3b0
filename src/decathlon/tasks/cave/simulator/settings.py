"""All that defines a simulation beside the traffic and the planner, checked."""

import math
from dataclasses import dataclass

from decathlon.tasks.cave.simulator.channel import PRESETS

SHARING = ("work_conserving", "reserved", "fixed")
CHANNELS = ("dedicated", "shared")


@dataclass(frozen=True)
class Settings:
    """Numbers and switches of a simulation; times in s, data in Mbit, work in Gcycle, distances in m.

    Attributes:
        rate: arrivals of tasks per second.
        target: the reliability that each task asks for.
        warmup, counted, drain: arrivals of the first span load the system, those of the second are measured, those of
            the third load it again until the measured ones have come back.
        dt: tick. epoch: time between decisions, a multiple of ``dt``.
        candidates: vehicles that a decision may use, the ego among them.
        local: whether the ego's own computer is one of them. local_speed, local_hazard, local_reliability: of it.
        participation: share of the vehicles that lend compute. speed, hazard: of a lender, uniform and log-uniform.
        upload, density: size of a task and its cycles per bit (uniform); result: size of the answer over that.
        radio: a preset of :data:`~.channel.PRESETS`. range: of the radio; None: the preset's. shadowing: dB; decay: m.
        blockage: whether vehicles block the line of sight (``nlosv``).
        channel: ``dedicated`` gives every link its own band, ``shared`` divides it among the active ones.
        sharing: ``work_conserving`` gives a vehicle's compute to those replicas that are in their compute phase,
            ``reserved`` keeps shares for those that are uploading, ``fixed`` holds the shares until the next decision.
        cancel: whether the first returned replica ends its siblings. retry: further attempts of a failed task.
        deadline: soft deadline, for ``latency_effective``.
        longest: cap of predicted contact times.
        inflation: of nominal latencies, see ``Epoch``.
    """

    rate: float = 10.0
    target: float = 0.99
    warmup: float = 5.0
    counted: float = 17.0
    drain: float = 8.0
    dt: float = 0.1
    epoch: float = 0.2
    candidates: int = 12
    local: bool = True
    local_speed: float = 2.0
    local_hazard: float = 0.001
    local_reliability: float = 0.999
    participation: float = 0.3
    speed: tuple[float, float] = (2.0, 8.0)
    hazard: tuple[float, float] = (0.02, 0.6)
    upload: tuple[float, float] = (0.5, 3.0)
    density: tuple[float, float] = (300.0, 700.0)
    result: float = 0.1
    radio: str = "cv2x"
    range: float | None = None
    shadowing: float = 3.0
    decay: float = 25.0
    blockage: bool = False
    channel: str = "dedicated"
    sharing: str = "work_conserving"
    cancel: bool = True
    retry: int = 0
    deadline: float = 5.0
    longest: float = 60.0
    inflation: float = 1.0

    def __post_init__(self) -> None:
        for name in ("speed", "hazard", "upload", "density"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            pair = getattr(self, name)
            least = 0 if name != "hazard" else 1e-300
            if len(pair) != 2 or not all(map(math.isfinite, pair)) or not least <= pair[0] <= pair[1]:
                raise ValueError(f"{name}={list(pair)} must be a smallest and a largest number, not negative")
        for name in ("rate", "warmup", "drain", "local_hazard", "local_speed", "shadowing", "result", "retry"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        for name in ("counted", "dt", "epoch", "decay", "deadline", "longest", "inflation"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.range is not None and not self.range > 0:
            raise ValueError(f"range={self.range} must be positive, or null for the radio's own")
        for name in ("target", "local_reliability"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie between 0 and 1, both excluded")
        if not 0 <= self.participation <= 1:
            raise ValueError(f"participation={self.participation} is a share of the vehicles, from 0 to 1")
        if not _multiple(self.epoch, self.dt):
            raise ValueError(f"epoch={self.epoch} is no multiple of the tick dt={self.dt}")
        if self.candidates < 1:
            raise ValueError(f"candidates={self.candidates} must be at least 1")
        for name, choices in (("radio", PRESETS), ("channel", CHANNELS), ("sharing", SHARING)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)} is unknown; choose {', '.join(choices)}")

    @property
    def horizon(self) -> float:
        """Seconds that are simulated."""
        return self.warmup + self.counted + self.drain

    @property
    def ticks(self) -> int:
        """Ticks that are simulated."""
        return max(1, round(self.horizon / self.dt))

    @property
    def ticks_per_epoch(self) -> int:
        """Ticks from one decision to the next."""
        return round(self.epoch / self.dt)

    @property
    def reach(self) -> float:
        """Radio range, m."""
        return self.range if self.range is not None else PRESETS[self.radio].reach


def _multiple(large: float, small: float) -> bool:
    ratio = large / small
    return round(ratio) >= 1 and abs(ratio - round(ratio)) < 1e-6
