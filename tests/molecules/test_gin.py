"""GIN against an independent dense reading of its equations."""

import pytest
import torch
from torch import Tensor, nn

from decathlon.errors import ConfigError
from decathlon.molecules.batches import FingerprintBatch, MoleculeBatch
from decathlon.molecules.encoders import Gin, make_encoder
from tests.molecules.toy import SMILES, graph_batch, packed_graphs

GRAPH = {"inputs": "graph"}
EVERYTHING = list(range(len(SMILES)))


def gin(width: int = 16, layers: int = 3) -> Gin:
    torch.manual_seed(0)
    encoder = Gin(layers, width, dropout=0.5)
    for layer in encoder.layers:  # statistics that are not the identity
        layer.norm.running_mean.uniform_(-0.3, 0.3)
        layer.norm.running_var.uniform_(0.5, 2)
    return encoder.eval()


def dense(encoder: Gin, batch: MoleculeBatch) -> Tensor:
    """The equations of the layer (``GinLayer``) with a dense adjacency, one molecule at a time."""
    vectors = []
    for first, last in zip(batch.node_starts[:-1].tolist(), batch.node_starts[1:].tolist()):
        n = last - first
        inside = (batch.owner >= first) & (batch.owner < last)
        target, source = batch.owner[inside] - first, batch.neighbours[inside] - first
        adjacency, kind = torch.eye(n), torch.full((n, n), 4 * 3)  # self loops: type 4, direction 0
        adjacency[target, source] = 1
        kind[target, source] = batch.bonds[inside]
        atoms = batch.atoms[first:last]
        h = encoder.element.weight[atoms[:, 0]] + encoder.chirality.weight[atoms[:, 1]]
        for i, layer in enumerate(encoder.layers):
            bond = layer.bond_type.weight[kind // 3] + layer.bond_direction.weight[kind % 3]
            a = (adjacency[:, :, None] * (h[None] + bond)).sum(1)
            h = layer.norm(layer.mlp[2](torch.relu(layer.mlp[0](a))))
            h = torch.relu(h) if i < len(encoder.layers) - 1 else h
        vectors.append(h.mean(0))
    return torch.stack(vectors)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_numbers_of_parameters() -> None:
    assert count(make_encoder("gin", GRAPH)) == 1_857_900
    assert count(make_encoder("gin_small", GRAPH)) == 59_712
    assert make_encoder("gin", GRAPH).out_dim == 300
    assert count(nn.Linear(300, 1)) == 301


def test_equals_the_dense_oracle() -> None:
    batch, encoder = graph_batch(EVERYTHING), gin()
    torch.testing.assert_close(encoder(batch), dense(encoder, batch), atol=1e-5, rtol=1e-5)


def test_gradients_equal_the_dense_oracle() -> None:
    batch, encoder = graph_batch(EVERYTHING), gin()
    (encoder(batch) ** 2).sum().backward()
    ours = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    (dense(encoder, batch) ** 2).sum().backward()
    assert len(ours) == len(list(encoder.parameters()))
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_does_not_depend_on_the_order_of_atoms() -> None:
    from rdkit import Chem

    mol = Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O")
    order = torch.randperm(mol.GetNumAtoms(), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False)
    packed = packed_graphs(["CC(=O)Oc1ccccc1C(=O)O", shuffled])
    assert not torch.equal(packed.cut(torch.tensor([0]))["neighbours"], packed.cut(torch.tensor([1]))["neighbours"])
    z = gin()(graph_batch([0, 1], packed))
    torch.testing.assert_close(z[0], z[1], atol=1e-5, rtol=1e-5)


def test_does_not_depend_on_the_rest_of_the_batch() -> None:
    encoder = gin()
    together = encoder(graph_batch(EVERYTHING))
    for row in EVERYTHING:
        torch.testing.assert_close(encoder(graph_batch([row]))[0], together[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [[2], [1], [2, 2]])
def test_molecules_without_bonds_train(rows: list[int]) -> None:
    encoder = gin().train()
    encoder(graph_batch(rows)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    assert encoder.eval()(graph_batch(rows)).isfinite().all()


def test_embed_and_encode_are_the_forward() -> None:
    encoder, batch = gin(), graph_batch(EVERYTHING)
    torch.testing.assert_close(encoder.encode(encoder.embed(batch), batch), encoder(batch))
    change = torch.zeros_like(encoder.embed(batch), requires_grad=True)
    encoder.encode(encoder.embed(batch) + change, batch).sum().backward()
    assert change.grad is not None and change.grad.abs().sum() > 0


def test_the_fingerprint_encoder() -> None:
    encoder = make_encoder({"name": "fp_mlp", "dropout": 0.1}, {"inputs": "fingerprint", "bits": 1024})
    assert encoder.out_dim == 128
    assert count(encoder) == 1024 * 128 + 128 + 128 * 128 + 128 + 4 * 128
    for size in (1, 2):
        batch = FingerprintBatch(torch.arange(size), torch.zeros(size, 1), torch.ones(size, 1024))
        assert encoder.train()(batch).shape == (size, 128)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("gim", "choose gin"),
        ({"name": "gin", "depth": 3}, "depth"),
        ({"name": "gin", "dropout": 1.5}, "dropout"),
        ("fp_mlp", "reads fingerprint data"),
    ],
)
def test_bad_models_are_named(model: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_encoder(model, GRAPH)  # type: ignore[arg-type]
