"""What ``dataset=`` stands for: where vehicles come from, or random decisions without any."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decathlon.build import check_options
from decathlon.errors import ConfigError, DataError
from decathlon.files import sha256
from decathlon.storage import cached_state
from decathlon.tasks.cave.instances import random_epoch
from decathlon.tasks.cave.optimum import lower_bound, optimum
from decathlon.tasks.cave.simulator.sumo import simulate, sumo_home
from decathlon.tasks.cave.simulator.traces import Replay, read_trace
from decathlon.tasks.cave.simulator.traffic import Ring, TrafficModel

SOURCES = ("ring", "trace", "sumo", "instances")
_VERSION = 1


class Source:
    """The data of a dataset config.

    Args:
        root: the data folder.
        dataset: ``source`` and ``traffic``, its options; ``file``, ``start``, ``end`` of a trace.
        seed: of the job; a trace's windows and a road's vehicles depend on it.
        size: tasks, vehicles, count and target of random decisions.
        density: vehicles per km and lane of a generated road, instead of the dataset's.
    """

    def __init__(
        self,
        root: str,
        dataset: Mapping[str, Any],
        seed: int,
        size: Mapping[str, Any],
        density: float | None = None,
    ) -> None:
        self.root, self.dataset, self.seed, self.size = Path(root), dict(dataset), seed, dict(size)
        self.kind = self.dataset.get("source")
        self.name = str(self.dataset.get("name"))
        if self.kind not in SOURCES:
            raise ConfigError(f"dataset.source={self.kind} is none of {', '.join(SOURCES)}")
        self.options: dict[str, Any] = dict(self.dataset.get("traffic") or {})
        if density is not None and self.kind == "ring":
            self.options["density"] = density
        if self.kind == "ring":
            check_options(Ring, self.options, f"dataset={self.name}")
            Ring(seed=seed, **self.options)
        elif self.kind == "sumo":
            self._check_sumo()
        elif self.kind == "trace" and not self.dataset.get("file"):
            raise ConfigError(
                "dataset=trace needs dataset.file, a csv or parquet table with columns time, id, x, y, speed"
            )

    def _check_sumo(self) -> None:
        for name in ("length", "lanes", "flow", "duration", "step", "speed"):
            value = self.options.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"dataset=sumo: traffic.{name}={value} must be a positive number")
        sumo_home()

    def prepare(self) -> None:
        """Make what takes time, once, in the data folder."""
        if self.kind == "instances":
            self.instances()
        elif self.kind != "ring":
            self._frames()

    def traffic(self) -> TrafficModel:
        """Where the vehicles are."""
        if self.kind == "ring":
            return Ring(seed=self.seed, **self.options)
        state = self._frames()
        return Replay(state["frames"], float(state["step"]), self.seed, f"dataset={self.name}")

    def _frames(self) -> dict[str, Any]:
        if self.kind == "sumo":
            seed = int(self.dataset.get("sumo_seed", 0))
            key = {"version": _VERSION, "options": self.options, "seed": seed}
            return cached_state(self.root, "cave-sumo", key, lambda: simulate(self.options, seed))
        path = self._file()
        span = (self.dataset.get("start"), self.dataset.get("end"))
        key = {"version": _VERSION, "file": sha256(path), "kind": path.suffix, "span": list(span)}
        return cached_state(self.root, "cave-trace", key, lambda: read_trace(path, *span))

    def _file(self) -> Path:
        name = str(self.dataset["file"])
        for path in (Path(name).expanduser(), self.root / name):
            if path.is_file():
                return path
        raise DataError(f"dataset.file={name} is no file, neither here nor in {self.root}")

    def instances(self) -> tuple[Any, dict[str, Any]]:
        """The random decisions and what is known of them: ``optimum``, ``proven``, ``bound``, cached."""
        epoch = random_epoch(**self.size, seed=self.seed)
        inputs = [epoch.work, epoch.upload, epoch.target, epoch.speed, epoch.rate, epoch.load, epoch.success]
        key = {"version": _VERSION, "size": self.size, "inputs": inputs}

        def make() -> dict[str, Any]:
            best = optimum(epoch)
            return {"optimum": best.objective, "proven": best.exact, "bound": lower_bound(epoch)}

        return epoch, cached_state(self.root, "cave-optimum", key, make)
