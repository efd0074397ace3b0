"""What a job keeps of its classifier of graphs: the same labels and masks, from SMILES and from ``Data``."""

import random
import shutil
from pathlib import Path

import pytest
import torch

import decathlon as package
from decathlon.errors import DataError
from tests.conftest import Door
from tests.test_trained import answered, finished


def table_of_molecules(path: Path) -> list[str]:
    draw = random.Random(0)
    smiles = [f"{'C' * draw.randint(1, 8)}{draw.choice(('O', 'N', 'c1ccccc1', 'C(=O)O'))}" for _ in range(90)]
    lines = [f"{one},{int('O' in one)}" for one in smiles]
    path.write_text("SMI,active\n" + "\n".join(lines))
    return smiles


def test_molecules(here: Path, decathlon_here: Door, caplog: pytest.LogCaptureFixture) -> None:
    smiles = table_of_molecules(here / "mine.csv")
    own = ["dataset=csv", "path=mine.csv", "shift=size", "dataset.smiles=SMI", "dataset.label=active", "figures=false"]
    job, module = finished(here, "task=dive", *own, "members=2")
    shutil.copytree(job.folder / "trained", here / "sent")
    (here / "mine.csv").unlink()
    shutil.rmtree(here / "data")
    found = package.load(here / "sent")
    assert found.molecules and found.labels == ["active"] and found.members == 2 and found.metric == "roc_auc"
    parts, chosen = module.parts, module._chosen["ood"]
    rows = parts.rows["ood_test"]
    batch = parts.graphs.batch(rows)
    with torch.no_grad():
        expected = chosen.predict(batch)[found.member].double().sigmoid()
        masks = chosen.masks(batch)
    texts = [smiles[row] for row in rows.tolist()]
    assert torch.equal(found.predict(texts), expected)
    kept = found.masks([*texts, "nonsense"])
    assert kept.pop() is None and torch.equal(torch.cat([one.kept for one in kept], 1), masks)
    assert all(one.edges.min() == 0 and one.edges.shape[1] == one.kept.shape[1] for one in kept)
    values = found.predict(["nonsense", "CCO", "C"])
    assert values[0].isnan().all() and ((values[1:] > 0) & (values[1:] < 1)).all()
    assert torch.allclose(values[1:2], found.predict(["CCO"]), atol=1e-6)  # batches of another shape
    assert found.predict([]).shape == (0, 1) and found.predict(["nonsense"]).isnan().all()
    rows, said = answered(decathlon_here, job, "name,smi\na,CCO\nb,nonsense\nc,C\n")
    assert [row["name"] for row in rows] == ["a", "b", "c"] and rows[1]["active"] == ""
    assert float(rows[0]["active"]) == pytest.approx(float(values[1]), rel=1e-4)
    assert "1 of 3 rows" in said and "line 3: 'nonsense' is no molecule" in said
    (here / "other.csv").write_text("name\na\n")
    assert "has no column SMI; its columns: name" in decathlon_here("predict", str(job.folder), "other.csv").stderr


def test_graphs(here: Path, decathlon_here: Door) -> None:
    from torch_geometric.data import Data

    from decathlon.graphs.pyg import to_pyg

    job, module = finished(here, "task=dive", "figures=false")
    shutil.copytree(job.folder / "trained", here / "sent")
    found = package.load(here / "sent")
    parts, chosen = module.parts, module._chosen["ood"]
    rows = parts.rows["ood_test"]
    graphs = to_pyg(parts.graphs.select(rows))
    with torch.no_grad():
        expected = chosen.predict(parts.graphs.batch(rows))[found.member].double().softmax(1)
        masks = chosen.masks(parts.graphs.batch(rows))
    assert torch.equal(found.predict(graphs), expected)
    kept = found.masks(graphs)
    assert torch.equal(torch.cat([one.kept for one in kept if one], 1), masks)
    assert torch.equal(kept[0].edges, graphs[0].edge_index)  # type: ignore[union-attr]
    for graph in graphs:
        del graph.y
    wide = Data(x=torch.ones(2, 3), edge_index=torch.tensor([[0, 1], [1, 0]]))
    far = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0, 5], [5, 0]]))
    torch.save([wide, *graphs[:3], far], here / "new.pt")
    said = decathlon_here("predict", str(job.folder), "new.pt")
    assert said.status == 0, said.stderr
    header, *lines = [line.split(",") for line in said.stdout.splitlines()]
    assert header == ["entry", "label", "label 0", "label 1", "label 2"] and len(lines) == 5
    assert [line[0] for line in lines] == ["0", "1", "2", "3", "4"] and lines[0][1:] == lines[4][1:] == [""] * 4
    assert float(lines[1][2]) == pytest.approx(float(expected[0, 0]), abs=1e-5)
    assert int(lines[1][1]) == int(expected[0].argmax())
    assert "entry 0: has 3 node features; there were 1 in training" in said.stderr
    assert "entry 4: has 2 nodes, from 0, and an edge to node 5" in said.stderr
    (here / "new.csv").write_text("smiles\nC\n")
    assert (
        "give a .pt file, a list of torch_geometric Data"
        in decathlon_here("predict", str(job.folder), "new.csv").stderr
    )
    with pytest.raises(DataError, match="not both at a time"):
        found.predict([graphs[0], "C"])


def test_whole_numbers_beyond_the_tables_are_named(here: Path) -> None:
    from torch_geometric.data import Data

    draw = torch.Generator().manual_seed(0)
    ring = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    edges = torch.cat([ring, ring.flip(0)], 1)
    graphs = [
        Data(
            x=torch.randint(3, (4, 2), generator=draw),
            edge_index=edges,
            edge_attr=torch.rand(8, 2),
            y=torch.tensor(k % 2),
        )
        for k in range(60)
    ]
    for graph in graphs:
        graph.x[0] = 2
    torch.save(graphs, here / "mine.pt")
    job, _ = finished(here, "task=dive", "dataset=pyg", "path=mine.pt", "split=none", "method=erm", "figures=false")
    found = package.load(job.folder)
    good = found._answers(graphs[:1])
    assert set(good[0]) == {"label"} and 0 < good[0]["label"] < 1
    strange = [graph.clone() for graph in graphs[:3]]
    strange[0].x[1, 1] = 7
    strange[1].edge_attr = None
    strange[2].x = strange[2].x.float()
    said = found._answers(strange)
    assert said[0] == "has 7 as node feature 1; training had 0 to 2"
    assert said[1] == "has no edge features; there were 2 in training"
    assert said[2] == "has node features that are real numbers; in training they were whole"
    with pytest.raises(ValueError, match="no masks"):
        found.masks(graphs[:1])
