"""One job on several machines: the same command on each of them, and a shared results folder where they meet.

The first machine has the job's lock and its record, as ever. It leaves in the job's folder where its processes listen;
the others wait for that, and give their processes to the job.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decathlon import files, locks
from decathlon.errors import ConfigError

PATIENCE = 600.0
"""Seconds that a machine waits for the first one."""


@dataclass(frozen=True)
class Node:
    """One of the machines of a job: number ``rank`` of ``count``, and where the first one listens."""

    rank: int = 0
    count: int = 1
    host: str = "127.0.0.1"
    port: int = 0

    def arguments(self) -> list[str]:
        """Those of torchrun."""
        if self.count == 1:
            return ["--standalone"]
        return [
            f"--nnodes={self.count}", f"--node-rank={self.rank}", f"--master-addr={self.host}",
            f"--master-port={self.port}",
        ]  # fmt: skip


def count(trainer: dict[str, Any]) -> int:
    """How many machines the trainer config asks for.

    Raises:
        ConfigError: ``num_nodes`` is no number of them.
    """
    wanted = trainer.get("num_nodes")
    wanted = 1 if wanted is None else wanted
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise ConfigError(f"trainer.num_nodes={wanted} is not a number of machines")
    return wanted


def rank(machines: int) -> int:
    """Which of a job's machines this is: ``DECATHLON_NODE`` of the environment, or ``SLURM_NODEID``; else the first.

    Raises:
        ConfigError: no number below that of the machines.
    """
    for name in ("DECATHLON_NODE", "SLURM_NODEID") if machines > 1 else ():
        text = os.environ.get(name)
        if text:
            if not text.isdigit() or int(text) >= machines:
                raise ConfigError(f"{name}={text} is not one of 0 to {machines - 1} (trainer.num_nodes={machines})")
            return int(text)
    return 0


@contextmanager
def announced(folder: Path, machines: int) -> Iterator[Node]:
    """The first machine, which others find by ``rendezvous.json`` in the job's folder as long as this lasts.

    Raises:
        ConfigError: this machine has no name that others can use.
    """
    if machines == 1:
        yield Node()
        return
    host = os.environ.get("DECATHLON_HOST") or socket.gethostname()
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        raise ConfigError(
            f"the name {host} of this machine is not known; give an address: DECATHLON_HOST=..."
        ) from None
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    place = folder / "rendezvous.json"
    files.write_text(place, json.dumps({"host": host, "port": port, "nodes": machines, "token": secrets.token_hex(8)}))
    try:
        yield Node(0, machines, host, port)
    finally:
        place.unlink(missing_ok=True)


def found(folder: Path, machines: int, number: int, anew: bool = False, patience: float = PATIENCE) -> Node | None:
    """Machine ``number``, once the first one has announced itself; None if the job has its record meanwhile.

    ``anew``: a record that is there does not count, it is to be replaced.

    Raises:
        ConfigError: the first machine did not come, or asks for another number of machines.
    """
    end, seen = time.monotonic() + patience, None
    while time.monotonic() < end:
        if not anew and (folder / "metrics.json").exists():
            return None
        now = _read(folder / "rendezvous.json")
        # What a killed attempt left is replaced as soon as the next one has the lock: only what stays is meant.
        if now is not None and now == seen and locks.is_locked(folder / "lock"):
            if now["nodes"] != machines:
                raise ConfigError(f"trainer.num_nodes={now['nodes']} on the first machine of this job, here {machines}")
            return Node(number, machines, now["host"], now["port"])
        seen = now
        time.sleep(1)
    raise ConfigError(f"the first of {machines} machines did not start this job within {patience:.0f} s ({folder})")


def awaited(record: Callable[[], dict[str, Any] | None], folder: Path, patience: float = 60.0) -> dict[str, Any]:
    """The record that the first machine writes when all processes have ended.

    Raises:
        RuntimeError: it wrote none.
    """
    end = time.monotonic() + patience
    while (found := record()) is None:
        if time.monotonic() > end:
            raise RuntimeError(f"the first machine left no record in {folder}; it says why")
        time.sleep(0.2)
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
