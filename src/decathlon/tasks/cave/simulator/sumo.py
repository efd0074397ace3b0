"""A highway simulated by Eclipse SUMO, once, and replayed. SUMO is an optional extra."""

import importlib.util
import logging
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from decathlon.errors import ConfigError, DataError
from decathlon.tasks.cave.simulator.traces import read_trace

log = logging.getLogger(__name__)


def sumo_home() -> Path:
    """The folder of SUMO: ``SUMO_HOME``, or that of the package ``eclipse-sumo``.

    Raises:
        ConfigError: it is not installed.
    """
    named = os.environ.get("SUMO_HOME")
    if named and Path(named, "bin", "sumo").exists():
        return Path(named)
    spec = importlib.util.find_spec("sumo")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    raise ConfigError("dataset=sumo needs Eclipse SUMO: pip install 'decathlon[sumo]', or set SUMO_HOME")


def simulate(options: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Build the road, run SUMO, and read its trajectories, as :func:`~.traces.read_trace` returns them.

    Args:
        options: ``length`` km, ``lanes``, ``flow`` vehicles per hour in both directions together, ``duration`` s,
            ``step`` s, ``settle`` s that are cut off at the start, ``speed`` and ``spread`` of drivers, m/s.

    Raises:
        DataError: a program of SUMO failed; its last line.
    """
    home = sumo_home()
    with tempfile.TemporaryDirectory(prefix="decathlon-sumo-") as name:
        folder = Path(name)
        _write(folder, options)
        environment = {**os.environ, "SUMO_HOME": str(home)}
        for command in (
            ["netconvert", "-n", "nodes.xml", "-e", "edges.xml", "-o", "net.xml", "--xml-validation", "never"],
            [
                "sumo", "-n", "net.xml", "-r", "flows.xml", "--seed", str(seed), "--step-length", str(options["step"]),
                "--end", str(options["duration"]), "--fcd-output", "trace.csv", "--fcd-output.attributes", "x,y,speed",
                "--no-step-log", "true", "--no-warnings", "true", "--xml-validation", "never",
            ],
        ):  # fmt: skip
            program = home / "bin" / command[0]
            log.info("running %s", command[0])
            done = subprocess.run(
                [str(program), *command[1:]], cwd=folder, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                lines = (done.stderr or done.stdout).strip().splitlines()
                raise DataError(
                    f"SUMO's {command[0]} failed: {lines[-1] if lines else f'exit status {done.returncode}'}"
                )
        return read_trace(folder / "trace.csv", start=options["settle"])


def _write(folder: Path, options: dict[str, Any]) -> None:
    metres = 1000 * options["length"]
    lanes, speed, flow = options["lanes"], options["speed"], options["flow"] / 2
    (folder / "nodes.xml").write_text(
        f'<nodes><node id="west" x="0" y="0"/><node id="east" x="{metres}" y="0"/></nodes>', encoding="utf-8"
    )
    edges = "".join(
        f'<edge id="{name}" from="{start}" to="{end}" numLanes="{lanes}" speed="{speed}"/>'
        for name, start, end in (("out", "west", "east"), ("back", "east", "west"))
    )
    (folder / "edges.xml").write_text(f"<edges>{edges}</edges>", encoding="utf-8")
    factor = f"normc(1,{options['spread'] / speed:.4f},0.67,1.27)"
    flows = "".join(
        f'<flow id="{name}" type="car" begin="0" end="{options["duration"]}" vehsPerHour="{flow}" departLane="random" '
        f'departSpeed="max"><route edges="{name}"/></flow>'
        for name in ("out", "back")
    )
    (folder / "flows.xml").write_text(
        f'<routes><vType id="car" carFollowModel="IDM" accel="1.5" decel="2" tau="1.5" minGap="2" length="4.5" '
        f'maxSpeed="60" speedFactor="{factor}"/>{flows}</routes>',
        encoding="utf-8",
    )
