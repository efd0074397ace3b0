"""Stacked members are separate networks; masks are edge weights that leave nothing behind."""

import copy

import pytest
import torch
from torch import Tensor

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.gin import Gin as PlainGin
from decathlon.graphs.gin import mean_nodes
from decathlon.graphs.stacked import Copies
from decathlon.tasks.dive.backbone import Backbone, Spec
from decathlon.tasks.dive.methods.base import Step
from decathlon.tasks.dive.methods.dive import DiveMethod
from tests.tasks.dive.toy import MOLECULE, PLAIN, a_batch, backbone, dive_method, random_graphs

BACKBONES = [(PLAIN, False), (PLAIN, True), (MOLECULE, False), (MOLECULE, True), (Spec(1, 2, 1, "regression"), True)]


def some(spec: Spec, n: int = 6, **options: bool) -> FeatureBatch:
    batch = a_batch(n, spec if isinstance(spec.edges, tuple) else PLAIN, **options)
    if isinstance(spec.edges, int) and spec.edges:
        half = torch.rand(len(batch.neighbours), spec.edges)
        batch.edge_attr = half + half[batch.reverse]
    return batch


def member(method: DiveMethod, k: int) -> DiveMethod:
    """One member as a method of its own."""
    options = dict(masking=method.masking)
    alone = DiveMethod(method.backbone, members=1)
    alone.masking = options["masking"]
    alone.load_state_dict({name: value[k : k + 1] for name, value in method.state_dict().items()})
    return alone


@pytest.mark.parametrize(("spec", "virtual"), BACKBONES)
@pytest.mark.parametrize("jaccard", ["batch", "graph"])
def test_stacked_members_are_separate_modules(
    spec: Spec, virtual: bool, jaccard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = some(spec)
    method = dive_method(3, spec, virtual_node=virtual, jaccard=jaccard)
    noise = torch.rand(3, len(batch.neighbours)).clamp(1e-6, 1 - 1e-6)
    noise = torch.minimum(noise, noise[:, batch.reverse])
    monkeypatch.setattr("decathlon.tasks.dive.masks.Pairs.uniform", lambda self, members, like, generator=None: noise)
    singles = [member(method, k) for k in range(3)]
    out = method(batch)
    outs = []
    for k, single in enumerate(singles):
        row = noise[k : k + 1]
        monkeypatch.setattr(
            "decathlon.tasks.dive.masks.Pairs.uniform", lambda self, members, like, generator=None, row=row: row
        )
        outs.append(single(batch))
    together = torch.cat([one.predictions for one in outs])
    masks = torch.cat([one.masks for one in outs])
    assert torch.equal(out.masks, masks)
    assert torch.allclose(out.predictions, together, atol=1e-5)
    overlap = method.masking.overlap(masks, lambda: batch.graph[batch.owner])
    method.losses(out.predictions, batch.y).mean(1).mean().add(0.5 * out.overlap).backward()
    method.losses(together, batch.y).mean(1).mean().add(0.5 * overlap).backward()
    for k, single in enumerate(singles):
        for (name, stacked), own in zip(method.named_parameters(), single.parameters(), strict=True):
            assert torch.allclose(stacked.grad[k], own.grad[0], atol=1e-5), name
        for (name, stacked), own in zip(method.named_buffers(), single.buffers(), strict=True):
            if name.endswith(("mean", "var")):
                assert torch.allclose(stacked[k], own[0], atol=1e-6), name


def test_sizes() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    plain = Backbone(PLAIN, 300, 3)
    assert count(plain.classifier()) == 909_603
    one, three = (DiveMethod(Backbone(PLAIN, 16, 3), members=m) for m in (1, 3))
    assert count(three) == 3 * count(one)
    d = 16
    extractor = 2 * d * d + d + d + 1
    assert count(one) == 2 * count(Backbone(PLAIN, d, 3).encoder()) + extractor + 3 * d + 3


def test_members_begin_differently_and_a_seed_repeats_them() -> None:
    a, b, c = dive_method(2, seed=0), dive_method(2, seed=0), dive_method(2, seed=1)
    weight = a.extractor.first.weight
    assert not torch.equal(weight[0], weight[1]) and not torch.equal(weight, c.extractor.first.weight)
    batch, losses = a_batch(), []
    for method in (a, b):
        torch.manual_seed(3)
        optimizer = torch.optim.Adam(method.parameters(), 1e-2)
        for _ in range(3):
            loss = method.loss(batch, Step(0, 0.0))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    assert losses[:3] == losses[3:]


@pytest.mark.parametrize(("spec", "virtual"), BACKBONES)
def test_full_and_empty_masks(spec: Spec, virtual: bool) -> None:
    batch = some(spec)
    net = backbone(spec, virtual_node=virtual).classifier(2)
    edges = len(batch.neighbours)
    for training in (True, False):
        net.train(training)
        whole, ones = net(batch, Copies(batch, 2)), net(batch, Copies(batch, 2), torch.ones(2, edges))
        assert torch.allclose(whole, ones, atol=1e-6)
        bare = without_edges(batch)
        zeros = net(batch, Copies(batch, 2), torch.zeros(2, edges))
        assert torch.allclose(zeros, net(bare, Copies(bare, 2)), atol=1e-6)
        assert not torch.allclose(whole, zeros, atol=1e-3)


def without_edges(batch: FeatureBatch) -> FeatureBatch:
    bare = copy.copy(batch)
    bare.neighbours, bare.edge_starts = batch.neighbours[:0], torch.zeros_like(batch.edge_starts)
    bare.edge_attr = None if batch.edge_attr is None else batch.edge_attr[:0]
    return bare


def test_the_encoder_is_gin() -> None:
    batch = some(PLAIN)
    torch.manual_seed(0)
    net = backbone(PLAIN).classifier(2)
    weight = torch.rand(2, len(batch.neighbours))
    found = net.represent(batch, Copies(batch, 2), weight)
    for k in range(2):
        plain = PlainGin(1, 8, 3, 0.0)
        load_plain(plain, net.encoder.gin, k)
        assert torch.allclose(found[k], mean_nodes(plain(batch.x, batch, weight[k]), batch), atol=1e-5)


def load_plain(plain: PlainGin, stacked: torch.nn.Module, k: int) -> None:
    """The weights of one member, in a ``graphs.gin.Gin``."""
    state = plain.state_dict()
    for name, value in stacked.state_dict().items():
        kind, layer, rest = name.split(".", 2)
        other = f"layers.{layer}.mlp.{rest}" if kind == "mlps" else f"norms.{layer}.{rest}"
        one = value[k]
        state[other] = one.T if other.endswith("weight") and one.dim() == 2 else one
    plain.load_state_dict(state)


def test_the_encoder_is_pyg_with_a_hard_mask_as_the_subgraph() -> None:
    from torch_geometric.nn import GINConv, GINEConv

    for spec in (PLAIN, MOLECULE):
        batch = some(spec)
        torch.manual_seed(0)
        encoder = backbone(spec).encoder(1).eval()
        keep = torch.rand(len(batch.neighbours)) < 0.6
        keep = keep & keep[batch.reverse]
        x = batch.x.float() if encoder.nodes is None else encoder.nodes(batch.x)[0]
        found = encoder(batch, Copies(batch, 1), keep.float()[None])[0]
        for i in range(3):
            mlp = sequential(encoder.gin.mlps[i])
            if encoder.edges is None:
                conv = GINConv(torch.nn.Identity())
                conv.nn = mlp
                x = conv(x, batch.edge_index[:, keep])
            else:
                conv = GINEConv(torch.nn.Linear(1, 1))
                conv.nn = mlp
                x = conv(x, batch.edge_index[:, keep], encoder.edges[i](batch.edge_attr[keep])[0])
            x = encoder.gin.norms[i](x[None])[0]
            x = x.relu() if i < 2 else x
        assert torch.allclose(found, x, atol=1e-5)


def sequential(stacked: torch.nn.Module) -> torch.nn.Module:
    class One(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return stacked(x[None])[0]

    return One()


def test_logits_are_those_of_the_concatenation() -> None:
    for spec in (PLAIN, MOLECULE):
        batch = some(spec)
        extractor = backbone(spec).extractor(2)
        copies = Copies(batch, 2)
        z = extractor.encoder(batch, copies)
        source, target = batch.edge_index
        ends = [z[:, source], z[:, target]]
        if extractor.edges is not None:
            e = extractor.edges(batch.edge_attr)
            ends = [end + e for end in ends]
        by_hand = extractor.last(extractor.first(torch.cat(ends, 2)).relu())[..., 0]
        assert torch.allclose(extractor(batch, copies), by_hand, atol=1e-5)
        weights = list(extractor.first.parameters())
        one = torch.autograd.grad(
            extractor(batch, copies).square().sum(), [*weights, extractor.encoder.gin.mlps[0][0].weight]
        )
        two = torch.autograd.grad(by_hand.square().sum(), [*weights, extractor.encoder.gin.mlps[0][0].weight])
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(one, two))


@pytest.mark.parametrize(("spec", "virtual"), BACKBONES[:4])
def test_predictions_know_neither_order_nor_company(spec: Spec, virtual: bool) -> None:
    graphs = random_graphs(8, spec)
    method = dive_method(2, spec, virtual_node=virtual).eval()
    everything = method(graphs.batch(torch.arange(8)))
    for row in range(8):  # alone as in company
        alone = method(graphs.batch(torch.tensor([row])))
        assert torch.allclose(alone.predictions[:, 0], everything.predictions[:, row], atol=1e-5)
    batch = graphs.batch(torch.tensor([3]))
    size = len(batch.x)
    new = torch.randperm(size, generator=torch.Generator().manual_seed(0))  # node v becomes node new[v]
    renamed = relabelled(batch, new)
    out, other = method(batch), method(renamed)
    assert torch.allclose(out.predictions, other.predictions, atol=1e-5)
    assert torch.equal(out.masks, out.masks[:, batch.reverse])


def relabelled(batch: FeatureBatch, new: Tensor) -> FeatureBatch:
    from decathlon.graphs.packing import packed_graphs

    source, target = batch.edge_index
    order = new.argsort()
    edges = {} if batch.edge_attr is None else {"edge_attr": batch.edge_attr}
    packed = packed_graphs(
        torch.tensor([len(batch.x)]), torch.tensor([len(source)]), torch.stack([new[source], new[target]]),
        {"x": batch.x[order]}, edges, {"y": batch.y},
    )  # fmt: skip
    return packed.batch(torch.tensor([0]))


@pytest.mark.parametrize("eval_mask", ["soft", "hard", "sample"])
def test_evaluation_is_deterministic_and_leaves_the_random_state_alone(eval_mask: str) -> None:
    batch = some(PLAIN)
    method = dive_method(2, eval_mask=eval_mask).eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = method.predict(batch), method.predict(batch)
    assert torch.equal(first, second) and torch.equal(before, torch.get_rng_state())


def test_one_step_changes_all_members_and_its_loss_is_the_sum() -> None:
    batch = some(PLAIN)
    method = dive_method(3, diversity=0.7)
    torch.manual_seed(1)
    losses = method.loss(batch, Step(0, 0.0))
    torch.manual_seed(1)
    out = method(batch)
    each = [torch.nn.functional.cross_entropy(one, batch.y[:, 0].long()) for one in out.predictions]
    pairs = [(0, 1), (0, 2), (1, 2)]
    hard = out.masks.detach()
    jaccard = [float((hard[i] * hard[j]).sum() / torch.maximum(hard[i], hard[j]).sum()) for i, j in pairs]
    assert abs(float(losses["loss"].detach()) - float(sum(each).detach()) / 3 - 0.7 * sum(jaccard) / 3) < 1e-6
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    optimizer = torch.optim.Adam(method.parameters(), 1e-3)
    losses["loss"].backward()
    optimizer.step()
    for k in range(3):
        assert any(not torch.equal(value[k], before[name][k]) for name, value in method.named_parameters())


def test_a_single_graph_and_one_without_edges() -> None:
    for n, edgeless in ((1, False), (3, True), (1, True)):
        batch = a_batch(n, PLAIN, edgeless=edgeless)
        losses = dive_method(2).loss(batch, Step(0, 0.0))
        assert all(value.isfinite() for value in losses.values())


def test_directed_edges() -> None:
    from decathlon.graphs.packing import packed_graphs

    edges = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 2]])
    packed = packed_graphs(
        torch.tensor([3]), torch.tensor([4]), edges, {"x": torch.rand(3, 1)}, {}, {"y": torch.zeros(1, 1)}
    )
    batch = packed.batch(torch.tensor([0]))
    assert not batch.symmetric
    method = dive_method(2)
    out = method(batch)
    both = [i for i, (u, v) in enumerate(batch.edge_index.T.tolist()) if {u, v} == {0, 2}]
    assert torch.equal(out.masks[:, both[0]], out.masks[:, both[1]])
    method.loss(batch, Step(0, 0.0))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
