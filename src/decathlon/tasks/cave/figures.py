"""Pictures of one scenario, and of many jobs: latency against load and against the reliability target.

The latter two are drawn from finished jobs.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decathlon.errors import DataError
from decathlon.tasks.cave.simulator.outcome import Recording
from decathlon.tasks.cave.simulator.settings import Settings

SPAN = 4.0
PANELS = 6
FRAMES = 30
_COLOURS = {"upload": "tab:blue", "compute": "tab:green", "return": "tab:orange"}
_ENDS = {
    "returned first": ("o", "black"),
    "cancelled": ("|", "tab:gray"),
    "failed": ("x", "tab:red"),
    "out of range": ("x", "tab:purple"),
}


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _start(settings: Settings) -> float:
    """Where pictures begin: with the counted span, or earlier if that is shorter than a picture."""
    return max(0.0, min(settings.warmup, settings.horizon - SPAN))


def draw_timeline(path: Path, recording: Recording, settings: Settings) -> None:
    """A Gantt chart of the replicas in a few seconds: one line per replica, grouped by task."""
    pyplot = _pyplot()
    start = _start(settings)
    shown = [r for r in recording.replicas if r["ended"] > start and r["began"] < start + SPAN]
    shown.sort(key=lambda r: (r["task"], r["began"], r["vehicle"]))
    figure, axis = pyplot.subplots(figsize=(9, max(2.5, min(12.0, 0.18 * len(shown) + 1.2))), layout="constrained")
    for line, r in enumerate(shown):
        marks = [r["began"], min(r["sent"], r["ended"]), min(r["computed"], r["ended"]), r["ended"]]
        for name, left, right in zip(("upload", "compute", "return"), marks, marks[1:]):
            axis.barh(line, right - left, left=left, color=_COLOURS[name], height=0.8)
        marker, colour = _ENDS[r["fate"]]
        axis.plot([r["ended"]], [line], marker, color=colour, markersize=5)
    labels = [f"task {r['task']} on {'ego' if r['vehicle'] == 0 else r['vehicle']}" for r in shown]
    axis.set_yticks(range(len(shown)), labels, fontsize=6)
    axis.invert_yaxis()
    axis.set(xlim=(start, start + SPAN), xlabel="time (s)", title=f"replicas of scenario {recording.scenario}")
    for name, colour in _COLOURS.items():
        axis.barh([0], [0], color=colour, label=name)
    for name, (marker, colour) in _ENDS.items():
        axis.plot([], [], marker, color=colour, label=name)
    axis.legend(fontsize="x-small", ncols=2, loc="lower left")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _paint(axis: Any, frame: Mapping[str, Any], recording: Recording) -> None:
    """One moment: the ego, the lenders, the range, and a line to every vehicle that runs one of the ego's tasks."""
    axis.clear()
    place = dict(zip(frame["vehicle"], zip(frame["x"], frame["y"])))
    counts = {vehicle: frame["running"].count(vehicle) for vehicle in set(frame["running"])}
    sending = {v for v, still in zip(frame["running"], frame["sending"]) if still}
    for vehicle, (x, y) in place.items():
        if vehicle in counts:
            axis.plot(
                [0, x], [0, y], "-" if vehicle not in sending else ":", color="tab:green", lw=0.5 + counts[vehicle]
            )
    inside = [(x, y) for (x, y), near in zip(place.values(), frame["in_range"]) if near]
    outside = [(x, y) for (x, y), near in zip(place.values(), frame["in_range"]) if not near]
    for spots, colour in ((inside, "tab:blue"), (outside, "lightgray")):
        if spots:
            axis.scatter(*zip(*spots), s=18, color=colour, zorder=3)
    axis.scatter([0], [0], s=60, marker="*", color="tab:red", zorder=4)
    for vehicle, count in counts.items():
        if vehicle in place:
            axis.annotate(str(count), place[vehicle], fontsize=7, xytext=(2, 3), textcoords="offset points")
    reach = recording.reach
    axis.axvline(-reach, color="gray", lw=0.5, ls="--")
    axis.axvline(reach, color="gray", lw=0.5, ls="--")
    title = f"t = {frame['time']:.1f} s, {counts.get(0, 0)} on the ego, {frame['waiting']} waiting"
    axis.set(xlim=(-1.5 * reach, 1.5 * reach), title=title, yticks=[])
    low, high = min([0.0, *frame["y"]]), max([0.0, *frame["y"]])
    axis.set_ylim(low - 8, high + 8)
    axis.title.set_fontsize(8)


def _frames(recording: Recording, settings: Settings, count: int) -> list[dict[str, Any]]:
    start = _start(settings)
    shown = [frame for frame in recording.frames if start <= frame["time"] < start + SPAN] or recording.frames
    step = max(1, len(shown) // count)
    return shown[::step][:count]


def draw_scene(path: Path, recording: Recording, settings: Settings) -> None:
    """A series of pictures: vehicles, links, and how many tasks each runs. The numbers are replicas."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(PANELS, 1, figsize=(9, 1.5 * PANELS), sharex=True, layout="constrained")
    for axis, frame in zip(axes, _frames(recording, settings, PANELS)):
        _paint(axis, frame, recording)
    axes[-1].set_xlabel(
        "m ahead of the ego (star); blue: lends and is in range; lines: it runs tasks (dotted: uploading)"
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def animate_scene(path: Path, recording: Recording, settings: Settings) -> None:
    """The same as a short animation."""
    from matplotlib.animation import FuncAnimation, PillowWriter

    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(8, 2.2), layout="constrained")
    frames = _frames(recording, settings, FRAMES)
    film = FuncAnimation(figure, lambda number: _paint(axis, frames[number], recording), frames=len(frames))
    film.save(path, writer=PillowWriter(fps=10), dpi=80)
    pyplot.close(figure)


def read_jobs(results: Path) -> list[dict[str, Any]]:
    """Method, rate, target and metrics of the finished simulations under ``results``.

    Raises:
        DataError: there are none.
    """
    rows = []
    for path in sorted(results.glob("**/metrics.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        config, metrics = record["config"], record["metrics"]
        if config["task"]["name"] == "cave" and metrics.get("test/latency_effective") is not None:
            setting = {name: config[name] for name in ("rate", "target")}
            rows.append(
                {"method": config["method"]["name"], "dataset": config["dataset"]["name"], **setting, **metrics}
            )
    if not rows:
        raise DataError(f"no finished simulations under {results}")
    return rows


def draw_against(path: Path, rows: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    """Effective latency, reliability and redundancy against ``key``, one line per method, means over jobs."""
    pyplot = _pyplot()
    metrics = {
        "latency_effective": "effective latency (s)",
        "reliability": "reliability",
        "redundancy": "replicas per task",
    }
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, (metric, words) in zip(axes, metrics.items()):
        for method in sorted({row["method"] for row in rows}):
            groups: dict[float, list[float]] = {}
            for row in rows:
                if row["method"] == method:
                    groups.setdefault(row[key], []).append(row[f"test/{metric}"])
            where = sorted(groups)
            places = [-math.log10(1 - value) for value in where] if key == "target" else where
            axis.plot(places, [sum(groups[value]) / len(groups[value]) for value in where], marker="o", label=method)
        axis.set(xlabel=label, ylabel=words)
    axes[0].legend(fontsize="x-small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
