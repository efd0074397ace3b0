"""Graphs and molecules of one's own, the benchmark's files, and what is wrong with them."""

import json
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Data, InMemoryDataset

from decathlon.errors import UserError
from tests.tasks.dive.test_job import run_job


def graph(nodes: int, label: float, **more: object) -> Data:
    path = torch.stack([torch.arange(nodes - 1), torch.arange(1, nodes)])
    return Data(x=torch.rand(nodes, 3), edge_index=torch.cat([path, path.flip(0)], 1), y=torch.tensor([label]), **more)


def some_graphs(n: int = 60) -> list[Data]:
    return [graph(4 + i % 12, float(i % 2), year=torch.tensor([1990 + i // 10])) for i in range(n)]


def saved(folder: Path, graphs: object, name: str = "mine.pt") -> str:
    torch.save(graphs, folder / name)
    return f"path={folder / name}"


def test_a_list_of_data(tmp_path: Path) -> None:
    path = saved(tmp_path, some_graphs())
    metrics, _ = run_job(tmp_path, "dataset=pyg", path, "shift=size")
    assert {"test/roc_auc", "test/roc_auc_ood_test", "test/keep_rate"} <= set(metrics) and "test/f1" not in metrics
    metrics, _ = run_job(tmp_path, "dataset=pyg", path, "shift=column", "dataset.column=year", "method=vrex")
    assert "train/penalty" in metrics
    metrics, _ = run_job(tmp_path, "dataset=pyg", path, "shift=size", "split=concept", "method=erm")
    assert "test/roc_auc" in metrics


def test_other_labels_and_features(tmp_path: Path) -> None:
    graphs = some_graphs()
    for i, one in enumerate(graphs):
        one.x, one.edge_attr = torch.randint(0, 4, (len(one.x), 2)), torch.rand(one.edge_index.shape[1], 2)
        one.y = torch.tensor([[i / 7.0]])
    path = saved(tmp_path, graphs)
    metrics, _ = run_job(tmp_path, "dataset=pyg", path, "dataset.task=regression", "regression=mse")
    assert metrics["test/mae"] > 0
    for i, one in enumerate(graphs):
        one.y, one.x = torch.tensor(i % 4), None
    metrics, _ = run_job(tmp_path, "dataset=pyg", saved(tmp_path, graphs), "split=none")
    assert 0 <= metrics["test/accuracy"] <= 1


def fails(tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        run_job(tmp_path, "dataset=pyg", *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_graphs_that_cannot_be_used(tmp_path: Path) -> None:
    good = some_graphs()
    assert "needs path=" in fails(tmp_path)
    assert "there is no such file" in fails(tmp_path, "path=nowhere.pt")
    assert "needs the name of an attribute" in fails(tmp_path, saved(tmp_path, good), "shift=column")
    assert "has no month" in fails(tmp_path, saved(tmp_path, good), "shift=column", "dataset.column=month")
    assert "must hold a list" in fails(tmp_path, saved(tmp_path, {"a": 1}))
    (tmp_path / "text.pt").write_text("hello")
    assert "can be loaded safely" in fails(tmp_path, f"path={tmp_path / 'text.pt'}")
    bad = graph(5, 1.0)
    bad.edge_index[0, 0] = 7
    assert "graph 60 has 5 nodes, from 0, and an edge to node 7" in fails(tmp_path, saved(tmp_path, [*good, bad]))
    twice = graph(5, 1.0)
    twice.edge_index = torch.cat([twice.edge_index, twice.edge_index], 1)
    assert "the same edge twice" in fails(tmp_path, saved(tmp_path, [*good, twice]))
    odd = graph(5, 1.0)
    odd.x[0, 0] = float("nan")
    assert "no finite numbers" in fails(tmp_path, saved(tmp_path, [*good, odd]))
    assert "has no label y" in fails(tmp_path, saved(tmp_path, [*good, Data(x=odd.x, edge_index=odd.edge_index)]))
    halves = [graph(5, 0.5 + i) for i in range(40)]
    assert "say what they are: dataset.task=regression" in fails(tmp_path, saved(tmp_path, halves))
    assert "must be 0 and 1; there is 0.5" in fails(tmp_path, saved(tmp_path, halves), "dataset.task=binary")
    alike = [graph(5, float(i % 2)) for i in range(40)]  # one size: nothing is out of distribution
    assert "the OOD validation set is empty" in fails(tmp_path, saved(tmp_path, alike))
    bare = [
        Data(x=torch.rand(3 + i % 9, 1), edge_index=torch.zeros(2, 0, dtype=torch.int64), y=torch.tensor([i % 2]))
        for i in range(60)
    ]
    assert "no graph has an edge" in fails(tmp_path, saved(tmp_path, bare))
    assert "method=irm needs environments" in fails(tmp_path, saved(tmp_path, good), "split=none", "method=irm")


def listen(monkeypatch: pytest.MonkeyPatch, module: str) -> list[str]:
    """The warnings of a module."""
    said: list[str] = []
    monkeypatch.setattr(f"decathlon.tasks.dive.data.{module}.log.warning", lambda text, *a: said.append(text % a))
    return said


def test_some_graphs_without_edges_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = listen(monkeypatch, "shifts")
    graphs = some_graphs()
    graphs[3].edge_index = graphs[3].edge_index[:, :0]
    run_job(tmp_path, "dataset=pyg", saved(tmp_path, graphs), "shift=size")
    assert said == ["mine.pt: 1 of 60 graphs have no edge; their masks are empty"]


SMILES = ["CCO", "c1ccccc1O", "CC(=O)N", "C1CCCCC1", "CCN(CC)CC", "c1ccncc1", "OC1CCNCC1", "CC#N", "FC(F)F", "CCCCCCCC"]


def table(folder: Path, rows: list[str], header: str = "smiles,label,lab") -> str:
    (folder / "mine.csv").write_text("\n".join([header, *rows]) + "\n")
    return f"path={folder / 'mine.csv'}"


def test_a_table_of_smiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = listen(monkeypatch, "molecules")
    rows = [f"{'C' * (i % 7)}{SMILES[i % 10]},{(i // 3) % 2},{'abcdef'[i % 6]}" for i in range(90)]
    path = table(tmp_path, [*rows, "nonsense,1,a", "CC,many,a", ",1,a"])
    for shift in ("scaffold", "size", "column"):
        metrics, _ = run_job(tmp_path, "dataset=csv", path, f"shift={shift}", "dataset.column=lab", "method=coral")
        assert "test/roc_auc_train" in metrics
    assert len(said) == 6 and "2 of 93 rows cannot be used" in said[0] and "1 SMILES cannot be read" in said[1]
    said.clear()
    run_job(tmp_path, "dataset=csv", path, "+dataset.source.rows=100", "method=erm", "smoke.epochs=1")
    assert said[0] == "mine.csv has 93 rows, the published file has 100"
    for words, overrides in (
        ("has no column activity; its columns: smiles, label, lab", ["dataset.label=activity"]),
        ("needs the name of a column", ["shift=column"]),
        ("shift=basis is unknown here; choose scaffold, size, column", ["shift=basis"]),
    ):
        with pytest.raises(UserError, match=words):
            run_job(tmp_path, "dataset=csv", path, *overrides)
    with pytest.raises(UserError, match="rows cannot be used"):
        run_job(tmp_path, "dataset=csv", table(tmp_path, ["CC,x,a"] * 50))
    with pytest.raises(UserError, match="needs path="):
        run_job(tmp_path, "dataset=csv")


def test_the_benchmarks_files(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "GOODSST2" / "length" / "processed"
    folder.mkdir(parents=True)
    for name in ("train", "id_val", "id_test", "val", "test"):
        graphs = [graph(4 + i % 5, float(i % 2), env_id=torch.tensor(3 + i % 2)) for i in range(30)]
        torch.save(InMemoryDataset.collate(graphs), folder / f"covariate_{name}.pt")
    metrics, _ = run_job(tmp_path, "dataset=sst2", "method=groupdro")
    assert 0 <= metrics["test/accuracy"] <= 1
    with pytest.raises(UserError, match=r"concept_train\.pt not found"):
        run_job(tmp_path, "dataset=sst2", "split=concept")


def test_drugood(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    records = [{"smiles": SMILES[i % 10], "cls_label": i % 2, "domain_id": i % 4} for i in range(30)]
    names = ("train", "ood_val", "iid_val", "ood_test", "iid_test")
    file = tmp_path / "data" / "lbap_core_ic50_assay.json"
    file.write_text(json.dumps({"split": {name: records for name in names}}))
    metrics, _ = run_job(tmp_path, "dataset=drugood", "method=irm")
    assert "test/roc_auc" in metrics
    file.write_text("{}")
    with pytest.raises(UserError, match="no file of DrugOOD"):
        run_job(tmp_path, "dataset=drugood", "method=irm")
