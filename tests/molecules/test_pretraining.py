"""Pretraining: objectives learn, runs repeat and resume to the last bit, bad options are named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from decathlon.errors import ConfigError, DataError
from decathlon.molecules.encoders import Gin, Painn, make_encoder
from decathlon.molecules.pretraining import load_weights, parse_recipe, pretrained, source_table
from decathlon.molecules.pretraining import train as training
from decathlon.molecules.pretraining.denoise import DistanceDenoising
from decathlon.molecules.pretraining.graphcl import VIEWS, GraphCl, drop_bonds, keep_atoms, subgraph
from decathlon.molecules.pretraining.graphmae import GraphMae
from decathlon.molecules.pretraining.masking import mask_atoms
from decathlon.molecules.pretraining.properties import Properties, standardised
from decathlon.molecules.tables import Table
from tests.molecules.toy import SMILES, geometry_batch, graph_batch, packed_geometries

EVERYTHING = list(range(len(SMILES)))
SMALL_GIN = {"name": "gin_small", "width": 16, "layers": 2}


def table(n: int = 60) -> Table:
    smiles = ["C" * (1 + i % 9) + "OC" * (i % 4) + "N" * (i % 3) + "c1ccccc1" * (i % 2) for i in range(n)]
    return Table(smiles, torch.zeros(n, 0), [])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def learns(task: torch.nn.Module, batch: Any, steps: int = 60) -> bool:
    optimiser = torch.optim.Adam(task.parameters(), 3e-3)
    losses = []
    draw = generator()
    for _ in range(steps):
        loss = task(batch, draw)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_masking() -> None:
    batch = graph_batch(EVERYTHING)
    masked, places = mask_atoms(batch, 0.25, generator())
    assert len(places) == len(places.unique()) == int(0.25 * len(batch.atoms))
    assert (masked.atoms[places] == torch.tensor([118, 0])).all()
    others = torch.ones(len(batch.atoms), dtype=torch.bool).index_fill(0, places, False)
    assert torch.equal(masked.atoms[others], batch.atoms[others])
    assert len(mask_atoms(graph_batch([2]), 0.25, generator())[1]) == 1


def test_graphmae_loss_is_the_scaled_cosine_error() -> None:
    torch.manual_seed(0)
    task, batch = GraphMae(Gin(2, 16, 0.0), mask=0.5, alpha=2.0), graph_batch(EVERYTHING)
    caught: dict[str, Any] = {}
    task.types.register_forward_hook(lambda module, inputs, output: caught.update(out=output))
    task.decoder.register_forward_pre_hook(lambda module, inputs: caught.update(remasked=inputs[0]))
    loss = task(batch, generator(3))
    _, places = mask_atoms(batch, 0.5, generator(3))
    onehot = torch.nn.functional.one_hot(batch.atoms[places, 0].clamp(max=118), 119).float()
    cosine = torch.nn.functional.cosine_similarity(caught["out"], onehot, dim=1)
    torch.testing.assert_close(loss, ((1 - cosine) ** 2).mean())
    assert (caught["remasked"][places] == 0).all()


def test_objectives_learn() -> None:
    torch.manual_seed(0)
    graphs = graph_batch(EVERYTHING)
    labelled = replace(graphs, y=torch.randn(len(EVERYTHING), 4))
    assert learns(GraphMae(Gin(2, 32, 0.0)), graphs)
    assert learns(Properties(Gin(2, 32, 0.0), 4), labelled)
    assert learns(GraphCl(Gin(2, 32, 0.0)), graphs)


def test_distance_denoising_learns_where_atoms_should_be() -> None:
    torch.manual_seed(0)
    ladders = packed_geometries([8] * 16)
    ladders.positions = torch.cartesian_prod(torch.arange(4.0), torch.arange(2.0), torch.zeros(1)).repeat(16, 1) * 1.5
    ladders.numbers.fill_(6)
    assert learns(DistanceDenoising(Painn(16, 2), noise=(0.1,)), geometry_batch(ladders), steps=150)


def test_unknown_descriptors_do_not_count() -> None:
    torch.manual_seed(0)
    task = Properties(Gin(2, 16, 0.0), 2, mask=0)
    y = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    batch = replace(graph_batch([0, 4]), y=y)
    prediction = task.head(task.encoder(batch))
    expected = ((prediction - y)[~y.isnan()] ** 2).mean()
    torch.testing.assert_close(task(batch, generator()), expected)
    z = standardised(torch.tensor([[1.0, 5.0], [3.0, 5.0], [float("nan"), 5.0]]))
    assert z[:, 0].tolist()[:2] == [-1, 1] and z[:, 1].tolist() == [0, 0, 0] and z[2, 0].isnan()


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_molecules(view) -> None:
    batch = graph_batch(EVERYTHING)
    seen = view(batch, 0.2, generator())
    assert len(seen.node_starts) == len(batch.node_starts) and (seen.node_starts.diff() > 0).all()
    assert len(seen.atoms) == seen.node_starts[-1] and seen.edge_starts[-1] == len(seen.neighbours)
    ends = set(zip(seen.owner.tolist(), seen.neighbours.tolist()))
    assert ends == {(v, u) for u, v in ends}
    assert (seen.graph[seen.owner] == seen.graph[seen.neighbours]).all()
    assert not torch.equal(seen.atoms, batch.atoms) or len(seen.bonds) < len(batch.bonds)


def test_subgraphs_are_connected_and_bonds_go_as_a_whole() -> None:
    batch = graph_batch([6, 7, 9])
    part = subgraph(batch, 0.4, generator(1))
    sizes = part.node_starts.diff()
    assert sizes.tolist() == [-(-int(n) * 6 // 10) for n in batch.node_starts.diff()]
    reached = torch.zeros(len(part.atoms), dtype=torch.bool)
    reached[part.node_starts[:-1]] = True
    for _ in range(len(part.atoms)):
        reached[part.owner[reached[part.neighbours]]] = True
    assert reached.all()
    assert len(drop_bonds(batch, 0.5, generator()).bonds) % 2 == 0
    everything = keep_atoms(batch, torch.ones(len(batch.atoms), dtype=torch.bool))
    assert torch.equal(everything.neighbours, batch.neighbours)


@pytest.mark.parametrize("name", ["properties", "graphmae", "graphcl"])
def test_the_same_twice_and_another_with_another_seed(tmp_path: Path, name: str) -> None:
    def go(folder: str, **options: Any) -> dict[str, Any]:
        recipe = parse_recipe({"name": name, "epochs": 2, "batch_size": 16, **options}, "gin")
        assert recipe is not None
        before = torch.random.get_rng_state()
        state = pretrained(tmp_path / folder, SMALL_GIN, recipe, table)
        assert torch.equal(before, torch.random.get_rng_state())
        return state

    first = go("a")
    make_encoder(SMALL_GIN, {"inputs": "graph"}).load_state_dict(first)
    assert same(first, go("b")) and same(first, go("a"))
    assert not same(first, go("a", seed=1))


def test_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parse_recipe({"name": "properties", "epochs": 1}, "fp_mlp")
    assert recipe is not None
    first = pretrained(tmp_path, "fp_mlp", recipe, table)
    monkeypatch.setattr(training, "train", lambda *a, **k: pytest.fail("trained again"))
    assert same(first, pretrained(tmp_path, {"name": "fp_mlp", "dropout": 0.5}, recipe, table))


def test_an_interrupted_run_goes_on_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parse_recipe({"name": "properties", "epochs": 3, "batch_size": 16}, "gin")
    assert recipe is not None
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))  # slow enough to be kept
    whole = pretrained(tmp_path / "a", SMALL_GIN, recipe, table)
    epochs: list[int] = []
    real = training.run_epoch

    def stopping(task: Any, optimiser: Any, dataset: Any, recipe: Any, epoch: int, device: Any = "cpu") -> float:
        epochs.append(epoch)
        if epochs == [0, 1]:
            raise KeyboardInterrupt
        return real(task, optimiser, dataset, recipe, epoch, device)

    monkeypatch.setattr(training, "run_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrained(tmp_path / "b", SMALL_GIN, recipe, table)
    assert same(pretrained(tmp_path / "b", SMALL_GIN, recipe, table), whole)
    assert epochs == [0, 1, 1, 2]
    assert not list(tmp_path.glob("b/processed/*.partial"))


def test_recipes() -> None:
    assert parse_recipe("none", "gin") is None and parse_recipe(None, "gin") is None
    recipe = parse_recipe("properties", "fp_mlp")
    assert recipe is not None and (recipe.epochs, recipe.lr, recipe.dropout) == (8, 1e-3, 0.1)
    for model, name in {"gin": "graphmae", "gin_small": "properties", "fp_mlp": "properties"}.items():
        assert parse_recipe("default", model) == parse_recipe(name, model)
    assert parse_recipe("default", "painn") is None
    weights = parse_recipe("some/weights.safetensors", "gin")
    assert weights is not None and weights.name == "checkpoint"


@pytest.mark.parametrize(
    ("pretrain", "model", "says"),
    [
        ("graphmea", "gin", "choose default, none, properties, graphmae"),
        ("graphmae", "fp_mlp", "for graph encoders"),
        ({"name": "graphmae", "epoch": 3}, "gin", "pretrain.epoch is unknown"),
        ({"name": "graphmae", "mask": 1.5}, "gin", "pretrain.mask"),
        ({"name": "graphmae", "epochs": 0}, "gin", "pretrain.epochs"),
    ],
)
def test_bad_recipes_are_named(pretrain: Any, model: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_recipe(pretrain, model)


def test_sources(tmp_path: Path) -> None:
    (tmp_path / "zinc_29k.csv.gz").write_bytes(__import__("gzip").compress(b"smiles,logP\nCCO,1\nCC,2\nC,3\n"))
    zinc = source_table(tmp_path, "zinc", None, table())
    assert zinc.smiles == ["CCO", "CC", "C"] and zinc.y.shape == (3, 0)
    assert len(source_table(tmp_path, "train", None, table(), limit=10)) == 10
    with pytest.raises(ConfigError, match="choose remainder, train, chembl"):
        source_table(tmp_path, "zink", None, table())
    with pytest.raises(ConfigError, match="has none"):
        source_table(tmp_path, "remainder", object(), table())


def test_checkpoints_of_the_users(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    encoder = make_encoder(SMALL_GIN, {"inputs": "graph"})
    state = encoder.state_dict()
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": {f"online.encoder.{name}": value for name, value in state.items()}}, tmp_path / "l.ckpt")
    save_file({f"encoder.{name}": value for name, value in state.items()}, tmp_path / "s.safetensors")
    for name in ("plain.pt", "l.ckpt", "s.safetensors"):
        assert same(load_weights(tmp_path / name, encoder), dict(state))
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pt")
    torch.save(make_encoder("gin_small", {"inputs": "graph"}).state_dict(), tmp_path / "wide.pt")
    torch.save({"model": Path("/")}, tmp_path / "pickle.pt")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name, says in {
        "other.pt": "it has no element.weight",
        "wide.pt": "element.weight is",
        "pickle.pt": "cannot be loaded as plain weights",
        "broken.pt": "cannot be loaded",
        "broken.safetensors": "no readable safetensors",
        "missing.pt": "no such file",
    }.items():
        with pytest.raises(DataError, match=says) as caught:
            load_weights(tmp_path / name, encoder)
        assert name in str(caught.value) and "\n" not in str(caught.value)
