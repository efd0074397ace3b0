"""The generator of GOOD-Motif: counts, laws of the splits, oracles."""

from functools import cache

import networkx as nx
import numpy as np
import pytest
import torch

from decathlon.graphs.packing import PackedGraphs
from decathlon.tasks.dive.data.motif import MOTIF_EDGES, PATH, STAR, base_nodes
from decathlon.tasks.dive.data.parts import Parts
from decathlon.tasks.dive.data.sources import Motif


@cache
def data(shift: str = "basis", split: str = "concept", graphs: int = 15_000, seed: int = 0) -> Parts:
    return Motif(shift, split, seed, graphs).read(".")


def as_networkx(graphs: PackedGraphs, row: int) -> nx.Graph:
    batch = graphs.batch(torch.tensor([row]))
    graph = nx.Graph()
    graph.add_nodes_from(range(len(batch.x)))
    graph.add_edges_from(batch.edge_index.T.tolist())
    assert graph.number_of_edges() * 2 == len(batch.neighbours)  # no parallel edges
    return graph


def part(name: str, key: str, **of: str) -> torch.Tensor:
    parts = data(**of)
    return parts.graphs.graphs[key][parts.rows[name]].squeeze()


def test_labels_are_motifs_with_a_tenth_of_noise() -> None:
    for name in ("train", "ood_val", "ood_test"):
        agree = (part(name, "y") == part(name, "motif")).float().mean()
        assert abs(agree - (1 - 0.1 * 2 / 3)) < 0.015  # the motif oracle, everywhere


def test_motifs() -> None:
    house, cycle, crane = (nx.Graph(edges) for edges in MOTIF_EDGES)
    assert [g.number_of_edges() for g in (house, cycle, crane)] == [6, 5, 6]
    assert sum(nx.triangles(house).values()) == 3 and not nx.is_bipartite(cycle)
    assert nx.is_isomorphic(crane, nx.complete_bipartite_graph(2, 3)) and nx.is_isomorphic(cycle, nx.cycle_graph(5))


@pytest.mark.parametrize(("shift", "split"), [("basis", "concept"), ("basis", "covariate"), ("size", "covariate")])
def test_graphs(shift: str, split: str) -> None:
    parts = data(shift, split)
    graphs, motifs = parts.graphs, [nx.Graph(edges) for edges in MOTIF_EDGES]
    rng = np.random.default_rng(0)
    for row in rng.choice(len(graphs), 200, replace=False).tolist():
        graph, one = as_networkx(graphs, row), graphs.batch(torch.tensor([row]))
        kind = int(graphs.graphs["motif"][row])
        assert nx.is_connected(graph) and not nx.number_of_selfloops(graph)
        assert int(one.more["edge_gt"].sum()) == 2 * motifs[kind].number_of_edges()
        true = [(u, v) for (u, v), good in zip(one.edge_index.T.tolist(), one.more["edge_gt"].tolist()) if good]
        assert nx.is_isomorphic(nx.Graph(true), motifs[kind])
        inside = one.more["node_gt"].nonzero().flatten().tolist()
        assert len(inside) == 5
        assert graph.subgraph(inside).number_of_edges() == motifs[kind].number_of_edges()  # no noise in the motif
        base = int(graphs.graphs["base"][row])
        if base in (STAR, PATH):  # noise starts at the hub, or at an inner node of the path
            crossing = [(u, v) for u, v in graph.edges if (u in inside) != (v in inside)]
            size = len(graph) - 5
            free = {0} if base == STAR else set(range(1, size - 1))
            assert sum(not ({u, v} & free) for u, v in crossing) <= 1  # the bridge may begin anywhere


def test_bases_are_those_of_networkx() -> None:
    for width in range(1, 24):
        drawn = np.arange(5)
        sizes = base_nodes(drawn, np.full(5, width))
        height = max(1, int(np.log2(width)) - 1)
        # networkx gives a wheel of three nodes or fewer loops and double edges: as simple graphs they are the same
        wheel = nx.Graph([(u, v) for u, v in nx.wheel_graph(width).edges if u != v])
        wheel.add_nodes_from(range(width))
        expected = [
            wheel,
            nx.balanced_tree(2, height),
            nx.ladder_graph(width),
            nx.star_graph(width),
            nx.path_graph(width),
        ]
        assert sizes.tolist() == [len(graph) for graph in expected]
        graphs = bases(width)
        for kind, graph in enumerate(expected):
            assert nx.is_isomorphic(graphs[kind], graph), (width, kind)


def bases(width: int) -> list[nx.Graph]:
    from decathlon.tasks.dive.data.motif import Draw, _base_edges

    draw = Draw(np.zeros(5, np.int64), np.arange(5), np.full(5, width))
    size = base_nodes(draw.base, draw.width)
    graph, u, v = _base_edges(draw, size)
    found = []
    for kind in range(5):
        one = nx.Graph(list(zip(u[graph == kind].tolist(), v[graph == kind].tolist())))
        one.add_nodes_from(range(int(size[kind])))
        found.append(one)
    return found


def test_sizes_of_the_splits() -> None:
    sizes = {name: len(rows) for name, rows in data("basis", "covariate", 30_000).rows.items()}
    assert [sizes[name] for name in ("train", "id_val", "id_test", "ood_val", "ood_test")] == [
        18000,
        3000,
        3000,
        3000,
        3000,
    ]
    sizes = {name: len(rows) for name, rows in data("basis", "concept", 30_000).rows.items()}
    assert [sizes[name] for name in ("train", "id_val", "id_test", "ood_val", "ood_test")] == [
        12600,
        2700,
        2700,
        6000,
        6000,
    ]
    for split in ("covariate", "concept", "none"):
        rows = data("basis", split, 1000).rows
        disjoint = [rows[name] for name in (("train", "id_val", "id_test") if split == "none" else rows)]
        assert len(torch.cat(disjoint).unique()) == sum(map(len, disjoint)) == 1000
        assert all(len(part) for part in rows.values())


def test_covariate_bases_and_sizes() -> None:
    of = {"shift": "basis", "split": "covariate", "graphs": 30_000}
    assert set(part("train", "base", **of).tolist()) == {0, 1, 2}
    assert set(part("ood_val", "base", **of).tolist()) == {STAR} and set(part("ood_test", "base", **of).tolist()) == {
        PATH
    }
    for name, nodes, edges in (("train", 17.07, 24.45), ("ood_val", 15.8, 16.5), ("ood_test", 15.0, 15.8)):
        parts = data(**of)  # type: ignore[arg-type]
        rows = parts.rows[name]
        assert abs(parts.graphs.node_count[rows].float().mean() / nodes - 1) < 0.03
        assert abs(parts.graphs.edge_count[rows].float().mean() / 2 / edges - 1) < 0.03
    of = {"shift": "size", "split": "covariate"}
    for name, low, high in (("train", 1, 20), ("ood_val", 25, 35), ("ood_test", 65, 75)):
        width = part(name, "width", **of)
        assert int(width.min()) == low and int(width.max()) == high


def test_concept_correlations_and_the_base_oracle() -> None:
    for name, share, tolerance in (("train", 0.98, 0.01), ("ood_val", 0.533, 0.02), ("ood_test", 0.333, 0.02)):
        assert abs((part(name, "base") == part(name, "motif")).float().mean() - share) < tolerance
    for name, share in (("ood_val", 0.513), ("ood_test", 0.333)):  # who predicts the label by the base alone
        assert abs((part(name, "base") == part(name, "y")).float().mean() - share) < 0.02
    for environment, share in enumerate((0.993, 0.98, 0.967)):
        here = part("train", "env") == environment
        assert abs((part("train", "base") == part("train", "motif"))[here].float().mean() - share) < 0.01
    assert part("train", "width").min() == 5 and part("train", "width").max() == 15


def test_a_fully_confounded_training_set() -> None:
    parts = Motif("basis", "concept", 0, 2000, (1.0, 1.0, 1.0, 0.3, 0.0)).read(".")
    pool = torch.cat([parts.rows[name] for name in ("train", "id_val", "id_test")])
    assert torch.equal(parts.graphs.graphs["base"][pool], parts.graphs.graphs["motif"][pool])


def test_a_seed_repeats_the_graphs() -> None:
    a, b, c = (Motif("size", "concept", seed, 300).read(".") for seed in (3, 3, 4))
    assert torch.equal(a.graphs.neighbours, b.graphs.neighbours) and torch.equal(a.rows["train"], b.rows["train"])
    assert not torch.equal(a.graphs.node_count, c.graphs.node_count)


def test_what_cannot_be_is_one_line() -> None:
    for options, words in (
        ({"shift": "colour"}, "shift=colour is unknown here; choose basis, size"),
        ({"split": "odd"}, "split=odd is unknown; choose covariate, concept, none"),
        ({"graphs": 10}, "graphs=10 are too few"),
        ({"ratios": [2, 1, 1]}, "must be three or more shares"),
    ):
        with pytest.raises(ValueError, match=words):
            Motif(**{"shift": "basis", "split": "concept", **options})  # type: ignore[arg-type]
