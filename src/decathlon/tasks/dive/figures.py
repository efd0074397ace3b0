"""Pictures of a job: the members' masks on test graphs, their metrics and F1 over epochs."""

from pathlib import Path
from typing import Any

import networkx as nx
import torch
from matplotlib.figure import Figure
from torch import Tensor

from decathlon.graphs.batches import FeatureBatch
from decathlon.tasks.dive.data.parts import Parts
from decathlon.tasks.dive.methods.base import Method
from decathlon.tasks.dive.reports import History
from decathlon.tasks.dive.selection import Selection

GRAPHS = 4


def draw_job(folder: Path, parts: Parts, method: Method, selection: Selection, history: History) -> list[Path]:
    """``masks.png`` where the method has masks, and ``curves.png``; the paths of what was drawn."""
    drawn = [folder / "curves.png"]
    curves_figure(parts, method, history).savefig(drawn[0], dpi=100)
    if method.has_masks:
        drawn.insert(0, folder / "masks.png")
        masks_figure(parts, method, selection).savefig(drawn[0], dpi=100)
    return drawn


def shown_graphs(parts: Parts) -> Tensor:
    """Rows of some OOD test graphs of middle size, one of each class first."""
    rows = parts.rows["ood_test"]
    nodes = parts.graphs.node_count[rows]
    rows = rows[(nodes - nodes.float().median()).abs().argsort(stable=True)]
    y = parts.graphs.graphs["y"][rows][:, 0]
    if parts.spec.task == "regression":
        return rows[:GRAPHS]
    firsts = torch.stack([(y == label).nonzero()[0, 0] for label in y[~y.isnan()].unique()[:GRAPHS]])
    rest = torch.ones(len(rows), dtype=torch.bool)
    rest[firsts] = False
    return torch.cat([rows[firsts], rows[rest]])[:GRAPHS]


@torch.no_grad()
def masks_figure(parts: Parts, method: Method, selection: Selection) -> Figure:
    """One row for each member, one column for each graph: edges as wide and dark as they are likely to be kept."""
    batch = parts.graphs.batch(shown_graphs(parts)).to(next(method.parameters()).device)
    masks = method.masks(batch).float().cpu()
    batch = batch.to("cpu")
    count, winner = len(batch), selection.winner("ood")
    figure = Figure(figsize=(2.6 * count, 2.5 * len(masks) + 0.5), layout="constrained")
    panels = figure.subplots(len(masks), count, squeeze=False)
    for place in range(count):
        graph, layout = _layout(batch, place)
        for member, mask in enumerate(masks):
            _draw_graph(panels[member][place], batch, place, graph, layout, mask)
    for member in range(len(masks)):
        chosen = " (chosen)" if member == winner and len(masks) > 1 else ""
        panels[member][0].set_ylabel(f"member {member}{chosen}", fontsize=9)
    for place in range(count):
        panels[0][place].set_title(f"label {batch.y[place, 0].item():g}", fontsize=9)
    truth = "; the true motif in orange" if "node_gt" in batch.more else ""
    figure.suptitle(f"edges of OOD test graphs by their probability to be kept{truth}", fontsize=10)
    return figure


def _layout(batch: FeatureBatch, place: int) -> tuple[nx.Graph, dict[int, Any]]:
    first, last = int(batch.node_starts[place]), int(batch.node_starts[place + 1])
    begin, end = int(batch.edge_starts[first]), int(batch.edge_starts[last])
    graph = nx.Graph()
    graph.add_nodes_from(range(first, last))
    graph.add_edges_from(batch.edge_index[:, begin:end].T.tolist())
    return graph, nx.kamada_kawai_layout(graph) if graph.number_of_nodes() < 150 else nx.spring_layout(graph, seed=0)


def _draw_graph(
    panel: Any, batch: FeatureBatch, place: int, graph: nx.Graph, layout: dict[int, Any], mask: Tensor
) -> None:
    first, last = int(batch.node_starts[place]), int(batch.node_starts[place + 1])
    begin, end = int(batch.edge_starts[first]), int(batch.edge_starts[last])
    ends = batch.edge_index[:, begin:end].T.tolist()
    kept = {(u, v): float(p) for (u, v), p in zip(ends, mask[begin:end])}
    edges = [edge for edge in graph.edges if edge in kept]
    strength = [kept[edge] for edge in edges]
    motif = batch.more["node_gt"] if "node_gt" in batch.more else torch.zeros(last, dtype=torch.bool)
    colours = ["tab:orange" if bool(motif[node]) else "lightgray" for node in graph.nodes]
    nx.draw_networkx_nodes(graph, layout, node_size=28, node_color=colours, ax=panel)
    nx.draw_networkx_edges(
        graph, layout, edgelist=edges, width=[0.6 + 2.4 * p for p in strength], edge_color=strength,
        edge_cmap=_blues(), edge_vmin=-0.15, edge_vmax=1, ax=panel,
    )  # fmt: skip
    panel.set_xticks([])
    panel.set_yticks([])
    for side in panel.spines.values():
        side.set_visible(False)


def _blues() -> Any:
    from matplotlib import colormaps

    return colormaps["Blues"]


def curves_figure(parts: Parts, method: Method, history: History) -> Figure:
    """For each member the metric over epochs on every part that was watched, and the F1 of its masks where known."""
    names = {name for row in history.rows for name in row}
    watched = [part for part in parts.rows if f"{part}/{parts.metric}" in names]
    quality = next((f"{part}/f1" for part in ("ood_test", "ood_val") if f"{part}/f1" in names), None)
    panels_wanted = method.members + (quality is not None)
    figure = Figure(figsize=(3.4 * panels_wanted, 3.0), layout="constrained")
    panels = figure.subplots(1, panels_wanted, squeeze=False)[0]
    for member in range(method.members):
        for part in watched:
            panels[member].plot(*history.curve(f"{part}/{parts.metric}", member), label=part.replace("_", " "))
        panels[member].set_title(f"member {member}: {parts.metric}", fontsize=10)
        panels[member].legend(fontsize=7)
        if quality is not None:
            panels[-1].plot(*history.curve(quality, member), label=f"member {member}")
    if quality is not None:
        panels[-1].set_title(f"mask F1, {quality.split('/')[0].replace('_', ' ')}", fontsize=10)
        panels[-1].legend(fontsize=7)
    for panel in panels:
        panel.set_xlabel("epoch")
    return figure
