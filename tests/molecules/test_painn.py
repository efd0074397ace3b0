"""PaiNN's symmetries, and its layers against the formulas, written pair by pair."""

from dataclasses import replace

import torch
from torch import Tensor

from decathlon.molecules.batches import GeometryBatch
from decathlon.molecules.encoders import Painn, make_encoder
from decathlon.molecules.packing import PackedGeometries
from tests.molecules.toy import geometry_batch, packed_geometries

COUNTS = [5, 1, 9, 2]


def painn(width: int = 16) -> Painn:
    torch.manual_seed(0)
    return Painn(width, layers=3)


def rotation(seed: int = 0) -> Tensor:
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(matrix)
    q = q * r.diagonal().sign()
    return (q if torch.det(q) > 0 else q * torch.tensor([1.0, 1.0, -1.0])).float()


def moved(batch: GeometryBatch, matrix: Tensor) -> GeometryBatch:
    return replace(batch, positions=batch.positions @ matrix.T + torch.tensor([3.0, -2.0, 0.5]))


def close(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_scalars_are_invariant_and_vectors_turn_along() -> None:
    encoder, batch = painn(), geometry_batch(packed_geometries(COUNTS))
    q, v = encoder.encode_atoms(batch)
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    for matrix in (rotation(1), rotation(2), mirror, rotation(3) @ mirror):
        other_q, other_v = encoder.encode_atoms(moved(batch, matrix))
        close(other_q, q)
        close(other_v, torch.einsum("xy,nyf->nxf", matrix, v))
        close(encoder(moved(batch, matrix)), encoder(batch))
    assert v.abs().max() > 1e-2  # there is something to turn


def test_permutation() -> None:
    packed = packed_geometries([7])
    order = torch.randperm(7)
    shuffled = PackedGeometries(packed.numbers[order], packed.positions[order], packed.atom_count)
    encoder = painn()
    close(encoder(geometry_batch(shuffled)), encoder(geometry_batch(packed)))
    q, _ = encoder.encode_atoms(geometry_batch(packed))
    close(encoder.encode_atoms(geometry_batch(shuffled))[0], q[order])


def test_molecules_of_a_batch_do_not_see_each_other() -> None:
    packed, encoder = packed_geometries(COUNTS), painn()
    together = encoder(geometry_batch(packed))
    for i in range(len(COUNTS)):
        close(encoder(geometry_batch(packed.select(torch.tensor([i]))))[0], together[i])


def test_nothing_beyond_the_cutoff() -> None:
    encoder = painn()
    far = PackedGeometries(
        torch.tensor([6, 8], dtype=torch.uint8), torch.tensor([[0.0, 0, 0], [5.0, 0, 0]]), torch.tensor([2])
    )
    alone = [PackedGeometries(far.numbers[i : i + 1], far.positions[i : i + 1], torch.tensor([1])) for i in range(2)]
    apart = sum(encoder(geometry_batch(one)) for one in alone)
    close(encoder(geometry_batch(far)), apart)
    near = replace(geometry_batch(far), positions=torch.tensor([[0.0, 0, 0], [4.0, 0, 0]]))
    assert (encoder(near) - apart).abs().max() > 1e-4


def test_a_block_follows_the_formulas() -> None:
    encoder, batch = painn(), geometry_batch(packed_geometries([4]))
    block, edges = encoder.blocks[0], encoder.edges(batch)
    q = torch.randn(4, 16)
    v = torch.randn(4, 3, 16)
    new_q, new_v = block(q, v, edges)
    mq, mv = q.clone(), v.clone()
    for i in range(4):
        for j in range(4):
            r = batch.positions[j] - batch.positions[i]
            d = r.norm()
            if i == j or d >= 5:
                continue
            rbf, inside = encoder.radial(d[None])
            a, b, c = (block.message(q[j]) * block.filter(rbf[0]) * inside[0]).split(16)
            mq[i] += a
            mv[i] += b * (r / d)[:, None] + c * v[j]
    big_v, big_u = block.mix(mv).split(16, dim=2)
    norm = (big_v.square().sum(1) + 1e-8).sqrt()
    a, b, c = block.update(torch.cat([mq, norm], 1)).split(16, dim=1)
    torch.testing.assert_close(new_q, mq + a + c * (big_v * big_u).sum(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(new_v, mv + b[:, None] * big_u, atol=1e-4, rtol=1e-4)


def test_the_default_recipe() -> None:
    encoder = make_encoder("painn", {"inputs": "geometry"})
    assert isinstance(encoder, Painn)
    assert encoder.out_dim == 128 and len(encoder.blocks) == 3 and len(encoder.radial.centres) == 20
    encoder(geometry_batch(packed_geometries(COUNTS))).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
