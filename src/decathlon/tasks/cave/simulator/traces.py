"""Recorded vehicles: a table of positions becomes frames, and frames become the traffic around chosen egos."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decathlon.errors import DataError
from decathlon.tasks.cave import streams

log = logging.getLogger(__name__)
COLUMNS = ("time", "id", "x", "y", "speed")
FOOT = 0.3048
_NEAR = 1000.0
_AWAY = 1e9
_MOST = 1 << 28
# Other people's names for the columns, and the factors to s, m and m/s.
_SUMO = {"timestep_time": "time", "vehicle_id": "id", "vehicle_x": "x", "vehicle_y": "y", "vehicle_speed": "speed"}
_NGSIM = {"global_time": "time", "vehicle_id": "id", "local_y": "x", "local_x": "y", "v_vel": "speed"}
_NGSIM_UNITS = {"time": 1e-3, "x": FOOT, "y": FOOT, "speed": FOOT}


def read_trace(path: str | Path, start: float | None = None, end: float | None = None) -> dict[str, Tensor]:
    """Read a table of vehicle positions, csv (``,`` or ``;``) or parquet.

    Columns time (s), id, x, y (m), speed (m/s); also SUMO's names, and NGSIM's, which are in feet and milliseconds.
    A row that cannot be used is counted and reported.

    Args:
        start, end: keep this span of the file's time, s.

    Returns:
        ``frames`` float32 (T, M, 4): x, y, speed, and 1 where the vehicle is there, NaN and 0 elsewhere; ``step``, s
        between frames; ``refused``, how many rows were left out.

    Raises:
        DataError: no such file, columns missing, no usable rows, too large.
    """
    path = Path(path)
    table, broken = _read(path)
    units: dict[str, float] = {}
    names = {str(name).strip().lower(): name for name in table.columns}
    if not set(COLUMNS) <= set(names):
        for known, factors in ((_SUMO, {}), (_NGSIM, _NGSIM_UNITS)):
            if set(known) <= set(names):
                names, units = {ours: names[theirs] for theirs, ours in known.items()}, factors
                break
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise DataError(
            f"{path.name} has no column {', '.join(missing)}; a trace has {', '.join(COLUMNS)} (or SUMO's or NGSIM's)"
        )
    numbers = {
        name: pd.to_numeric(table[names[name]], errors="coerce").to_numpy(dtype=np.float64) * units.get(name, 1.0)
        for name in COLUMNS
        if name != "id"
    }
    identity = table[names["id"]].astype("string").fillna("").to_numpy(dtype=object)
    finite = np.all([np.isfinite(column) for column in numbers.values()], axis=0)
    named = np.array([bool(str(value).strip()) for value in identity], dtype=bool) if len(identity) else finite
    refused = Counter(
        {"wrong number of fields": broken, "not a number": int((~finite & named).sum()), "no id": int((~named).sum())}
    )
    usable = finite & named
    negative = usable & (numbers["speed"] < 0)
    refused["negative speed"] = int(negative.sum())
    usable &= ~negative
    if start is not None:
        usable &= numbers["time"] >= start
    if end is not None:
        usable &= numbers["time"] <= end
    frames, step = _frames({name: column[usable] for name, column in numbers.items()}, identity[usable], path, refused)
    for reason, count in refused.items():
        if count:
            log.warning("%s: %d rows left out: %s", path.name, count, reason)
    return {
        "frames": frames,
        "step": torch.tensor(step, dtype=torch.float64),
        "refused": torch.tensor(sum(refused.values())),
    }


def _read(path: Path) -> tuple[pd.DataFrame, int]:
    """The table, and how many lines had another number of fields than its header."""
    if not path.is_file():
        raise DataError(f"{path} is no file")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path), 0
        with open(path, "rb") as file:
            header = file.readline().decode("utf-8", "replace")
            lines = sum(1 for line in file if line.strip())
        separator = ";" if header.count(";") > header.count(",") else ","
        fields = header.count(separator) + 1
        table = pd.read_csv(
            path, sep=separator, dtype=str, on_bad_lines="skip", index_col=False, encoding_errors="replace"
        )
        whole = table.shape[1] == fields
        return table, (lines - len(table)) if whole else 0
    except (ValueError, OSError, pd.errors.ParserError, ImportError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _frames(
    numbers: dict[str, np.ndarray], identity: np.ndarray, path: Path, refused: Counter[str]
) -> tuple[Tensor, float]:
    times = np.unique(numbers["time"])
    if len(times) < 2:
        raise DataError(f"{path.name} has {len(times)} usable times; a trace needs two at least")
    step = float(np.median(np.diff(times)))
    place = np.rint((numbers["time"] - times[0]) / step).astype(np.int64)
    off = np.abs(numbers["time"] - times[0] - place * step) > 0.1 * step
    refused["off the grid of times"] = int(off.sum())
    names, vehicle = np.unique(identity.astype(str), return_inverse=True)
    seen = pd.DataFrame({"place": place, "vehicle": vehicle}).duplicated().to_numpy()
    refused["a vehicle twice at one time"] = int((seen & ~off).sum())
    good = ~off & ~seen
    count = int(place[good].max()) + 1
    if count * len(names) * 4 > _MOST:
        raise DataError(
            f"{path.name}: {count} times of {len(names)} vehicles are too many; cut it with dataset.start, dataset.end"
        )
    frames = torch.full((count, len(names), 4), torch.nan)
    frames[..., 3] = 0
    at = (torch.from_numpy(place[good]), torch.from_numpy(vehicle[good]))
    columns = [numbers["x"], numbers["y"], numbers["speed"], np.ones(len(good))]
    frames[at] = torch.from_numpy(np.stack([column[good] for column in columns], 1)).float()
    return frames, step


class Replay:
    """Traffic from a trace; each scenario is one vehicle's view during one window, drawn from all that fit.

    Args:
        frames: (T, M, 4) as of :func:`read_trace`. step: s between them.
        seed: of the draw. name: of the trace, for messages.
    """

    def __init__(self, frames: Tensor, step: float, seed: int = 0, name: str = "the trace") -> None:
        self.frames, self.step, self.seed, self.name = frames, step, seed, name
        there = frames[..., 3] > 0
        # Frames from each on for which the vehicle stays, backwards.
        run = torch.zeros(there.shape[1], dtype=torch.int64)
        stays = torch.zeros(there.shape, dtype=torch.int64)
        for time in range(len(frames) - 1, -1, -1):
            run = (run + 1) * there[time]
            stays[time] = run
        self.stays = stays

    def begin(self, scenarios: Tensor, dt: float, horizon: float) -> "ReplayTraffic":
        """See ``TrafficModel``.

        Raises:
            DataError: no vehicle stays for so long.
        """
        needed = int(np.ceil(horizon / self.step - 1e-9)) + 1
        starts, egos = (self.stays >= needed).nonzero(as_tuple=True)
        if not len(starts):
            longest = (int(self.stays.max()) - 1) * self.step
            raise DataError(
                f"{self.name}: no vehicle stays for {horizon:g} s, the longest for {longest:g} s; shorten the run"
            )
        uniform = streams.uniform(streams.key(scenarios.cpu(), self.seed, "ego"))
        chosen = (uniform * len(starts)).long().clamp(max=len(starts) - 1)
        windows = [self._window(int(starts[place]), int(egos[place]), needed) for place in chosen]
        return ReplayTraffic(windows, dt, self.step, scenarios.device)

    def _window(self, start: int, ego: int, needed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (T, 4) of the ego, frames (T, m, 4) of the vehicles that come near it, and their numbers (m,)."""
        part = self.frames[start : start + needed]
        away = part[..., :2] - part[:, ego : ego + 1, :2]
        near = (away.square().sum(2) <= _NEAR * _NEAR).any(0)
        near[ego] = False
        ids = near.nonzero()[:, 0]
        return part[:, ego], part[:, ids], ids


class ReplayTraffic:
    """Vehicles of a trace around the egos of a batch, with positions between frames by linear interpolation."""

    def __init__(
        self, windows: list[tuple[Tensor, Tensor, Tensor]], dt: float, step: float, device: torch.device
    ) -> None:
        count = max((len(ids) for _, _, ids in windows), default=0)
        length = len(windows[0][0]) if windows else 1
        frames = torch.full((len(windows), length, count + 1, 4), torch.nan)
        frames[..., 3] = 0
        ids = torch.zeros(len(windows), count, dtype=torch.int64)
        for place, (ego, others, numbers) in enumerate(windows):
            frames[place, :, 0] = ego
            frames[place, :, 1 : len(numbers) + 1] = others
            ids[place, : len(numbers)] = numbers
            # Padding has numbers of its own, which no random stream shares with a vehicle.
            ids[place, len(numbers) :] = -2 - torch.arange(count - len(numbers))
        self.frames, self.ids = frames.to(device), ids.to(device)
        self.dt, self.step, self.tick = dt, step, 0

    def advance(self) -> None:
        """One tick."""
        self.tick += 1

    def relative(self, columns: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """See ``Traffic``."""
        time = self.tick * self.dt / self.step
        last = self.frames.shape[1] - 1
        before = min(int(time + 1e-9), max(last - 1, 0))
        after = min(before + 1, last)
        part = min(max(time - before, 0.0), 1.0)
        first, second = self.frames[:, before].double(), self.frames[:, after].double()
        there = (first[..., 3] > 0) & ((second[..., 3] > 0) | (part < 1e-9))
        follow = torch.where(second[..., 3:] > 0, second, first)
        now = first + part * (follow - first)
        moved = follow[..., :2] - first[..., :2]
        length = torch.sqrt(moved[..., 0] * moved[..., 0] + moved[..., 1] * moved[..., 1])
        direction = moved / torch.where(length > 0, length, 1.0)[..., None]
        velocity = direction * now[..., 2:3]
        delta = torch.where(there[:, 1:, None], now[:, 1:, :2] - now[:, :1, :2], _AWAY)
        relative = torch.where(there[:, 1:, None], velocity[:, 1:] - velocity[:, :1], 0.0)
        speed = torch.where(there[:, 1:], now[:, 1:, 2], 0.0)
        parts = (delta[..., 0], delta[..., 1], relative[..., 0], relative[..., 1], speed)
        dx, dy, dvx, dvy, speed = parts if columns is None else [part.gather(1, columns) for part in parts]
        return dx, dy, dvx, dvy, speed
