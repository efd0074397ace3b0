"""Static pruners against their definitions: brute force, autograd, closed forms."""

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import decathlon.pruning as pruning
from decathlon.pruning import Evidence, coverage, geometry, influence, scores
from decathlon.pruning.evidence import mean_gradient, random_parts, residual, shares, with_one

INFORMED = [
    "Entropy", "LeastConfidence", "EL2N", "GraNd", "Forgetting", "DeepFool", "Influence", "Herding", "KMeans",
    "ContextualDiversity", "Craig", "Glister", "DatasetPruning",
]  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def evidence(n: int = 80, d: int = 5, tasks: int = 1, seed: int = 0, missing: float = 0.0) -> Evidence:
    draw = generator(seed)
    head = torch.randn(d, tasks, generator=draw)

    def part(size: int) -> tuple[Tensor, Tensor, Tensor]:
        z = torch.randn(size, d, generator=draw)
        logits = z @ head
        labels = (torch.rand(size, tasks, generator=draw) < logits.sigmoid()).float()
        labels[torch.rand(size, tasks, generator=draw) < missing] = torch.nan
        return z, logits, labels

    events = torch.randint(0, 5, (n,), generator=draw)
    learned = torch.rand(n, generator=draw) > 0.1
    boundary = torch.rand(n, generator=draw)
    return Evidence(*part(n), *part(30), events, learned, boundary=boundary)


@pytest.mark.parametrize("name", INFORMED)
@pytest.mark.parametrize(("tasks", "missing"), [(1, 0.0), (3, 0.3)])
def test_a_static_method_keeps_the_same_k_every_epoch(name: str, tasks: int, missing: float) -> None:
    found = evidence(tasks=tasks, missing=missing)
    pruner = getattr(pruning, name)(80, 0.7, generator(), evidence=found)
    indices, weights = pruner.select()
    assert len(indices) == len(indices.unique()) == pruner.k == 24
    assert torch.equal(indices, indices.sort().values) and torch.isfinite(weights).all()
    assert torch.equal(pruner.select()[0], indices)
    again = getattr(pruning, name)(80, 0.7, generator(), evidence=found)
    assert torch.equal(again.select()[0], indices)
    copy = pruning.Fixed(80, torch.arange(3))
    copy.load_state_dict(pruner.state_dict())
    assert torch.equal(copy.select()[0], indices) and torch.equal(copy.select()[1], weights)


@pytest.mark.parametrize("name", [name for name in INFORMED if name not in ("KMeans", "ContextualDiversity")])
def test_the_selection_does_not_depend_on_the_order_of_the_data(name: str) -> None:
    """The same samples of permuted data are kept (the two left out start from random samples)."""
    found = evidence()
    mixed = torch.randperm(80, generator=generator(9))
    moved = Evidence(**{
        key: value[mixed] if isinstance(value, Tensor) and not key.startswith("val_") else value
        for key, value in found.state_dict().items()
    })  # fmt: skip
    if name == "Forgetting":  # counts tie
        found.forgotten, moved.forgotten = torch.arange(80), torch.arange(80)[mixed]
        found.learned[:] = moved.learned[:] = True
    kind = getattr(pruning, name)
    before = kind(80, 0.7, generator(), evidence=found).select()[0]
    after = kind(80, 0.7, generator(), evidence=moved).select()[0]
    assert set(mixed[after].tolist()) == set(before.tolist())


def test_full_hard_random_and_given_scores() -> None:
    assert torch.equal(pruning.Full(10, 0.9).select()[0], torch.arange(10))
    first = pruning.HardRandom(1000, 0.9, generator(1))
    assert len(first.select()[0].unique()) == 100 and torch.equal(first.select()[0], first.select()[0])
    assert not torch.equal(first.select()[0], pruning.HardRandom(1000, 0.9, generator(2)).select()[0])
    assert pruning.ByScore(torch.tensor([3.0, 1.0, 2.0, 5.0]), prune=0.5).select()[0].tolist() == [0, 3]


def test_bad_options_and_evidence_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no option varant; its options: chunk, herding_variant"):
        pruning.Herding(80, 0.5, evidence=evidence(), varant="argmax")
    with pytest.raises(ValueError, match="is none; choose argmin or argmax"):
        pruning.Herding(80, 0.5, evidence=evidence(), herding_variant="min")
    with pytest.raises(ValueError, match="of 80 samples, not of 90"):
        pruning.EL2N(90, 0.5, evidence=evidence())
    with pytest.raises(ValueError, match="needs evidence"):
        pruning.EL2N(90, 0.5)
    real = evidence()
    real.regression = True
    with pytest.raises(ValueError, match="regression"):
        pruning.Entropy(80, 0.5, evidence=real)


def test_scores_of_several_models_are_averaged() -> None:
    models = [evidence(seed=1), evidence(seed=2)]
    mean = sum(scores.el2n(model.residual) for model in models)
    assert isinstance(mean, Tensor)
    chosen = pruning.EL2N(80, 0.9, evidence=models).select()[0]
    assert set(chosen.tolist()) == set(mean.topk(8).indices.tolist())


def test_grand_and_el2n_against_autograd() -> None:
    """The norm of the gradient by the head's weight and bias."""
    found = evidence(n=20, d=4)
    head = nn.Linear(4, 1)
    logits = head(found.embeddings)
    error = residual(logits.detach(), found.labels)
    expected = []
    for i in range(20):
        loss = nn.functional.binary_cross_entropy_with_logits(logits[i], found.labels[i])
        grads = torch.autograd.grad(loss, list(head.parameters()), retain_graph=True)
        expected.append(torch.cat([grad.flatten() for grad in grads]).norm())
    assert torch.allclose(scores.grand(error, found.embeddings), torch.stack(expected), atol=1e-5)
    closed = error.abs()[:, 0] * (1 + found.embeddings.square().sum(1)).sqrt()
    assert torch.allclose(scores.grand(error, found.embeddings), closed, atol=1e-6)
    assert torch.allclose(scores.el2n(error), (logits.detach().sigmoid() - found.labels).abs()[:, 0])


def test_entropy_and_least_confidence_order_alike_for_one_task() -> None:
    """Both fall with |p - 1/2|."""
    logits = torch.randn(500, 1, dtype=torch.float64, generator=generator(3))
    labels = torch.zeros(500, 1, dtype=torch.float64)
    order = (logits.sigmoid() - 0.5).abs()[:, 0].argsort()
    assert torch.equal(scores.entropy(logits, labels).argsort(descending=True), order)
    assert torch.equal(scores.least_confidence(logits, labels).argsort(descending=True), order)


def test_unknown_tasks_count_nothing() -> None:
    logits = torch.randn(4, 2, generator=generator(3))
    labels = torch.tensor([[0.0, torch.nan], [1.0, torch.nan], [torch.nan, 1.0], [torch.nan, torch.nan]])
    for score in (scores.entropy(logits, labels), scores.least_confidence(logits, labels)):
        assert score[3] == 0 and (score[:3] > 0).all()
    assert scores.el2n(residual(logits, labels))[3] == 0


def test_forgetting_events() -> None:
    """A scripted run of right and wrong, and a sample that never was right."""
    counter = scores.Forgetting(3)
    for a, b in zip([1, 0, 1, 0, 0], [1, 1, 1, 1, 1], strict=True):
        counter.update(torch.tensor([0, 2, 1]), torch.tensor([[a], [0], [b]]))
    assert counter.events.tolist() == [2, 0, 0]
    assert counter.score().tolist() == [2.0, 0.0, float("inf")]
    tasks = scores.Forgetting(1)
    for right in ([1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]):  # 2, 1, 1, 0 of the two known tasks
        tasks.update(torch.tensor([0]), torch.tensor([right]), torch.tensor([[True, True, False]]))
    assert tasks.events.tolist() == [2] and tasks.learned.tolist() == [True]


def test_herding_follows_the_mean() -> None:
    """Closer to the mean than 95 % of random subsets; the other variant is farther than most."""
    z = torch.randn(300, 6, generator=generator(4)).exp()
    k = 30

    def gap(rows: Tensor) -> float:
        return float((z[rows].mean(0) - z.mean(0)).norm())

    rivals = torch.tensor([gap(torch.randperm(300, generator=generator(s))[:k]) for s in range(200)])
    near, far = geometry.herding(z, k), geometry.herding(z, k, "argmax")
    assert len(near.unique()) == len(far.unique()) == k
    assert (gap(near) < rivals).float().mean() >= 0.95
    assert (gap(far) > rivals).float().mean() >= 0.95
    mean, chosen = z.mean(0), [int(near[0])]
    for t in range(1, k):  # the definition, step by step
        left = [i for i in range(300) if i not in chosen]
        goal = (t + 1) * mean - z[chosen].sum(0)
        chosen.append(min(left, key=lambda i: float((goal - z[i]).norm())))
    assert chosen == near.tolist()


def test_k_center_is_the_brute_force_greedy() -> None:
    """Step by step the brute-force algorithm."""
    logits = torch.randn(50, 3, generator=generator(5))
    p = logits.sigmoid()

    def divergence(i: int, j: int) -> float:
        def kl(a: Tensor, b: Tensor) -> Tensor:
            return (a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()).sum()

        return float(kl(p[i], p[j]) + kl(p[j], p[i]))

    chosen = [7]
    while len(chosen) < 12:
        left = [i for i in range(50) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(divergence(i, j) for j in chosen)))
    assert geometry.k_center(50, 12, geometry.symmetric_kl(logits), 7).tolist() == chosen
    one = logits[:, :1]
    assert torch.allclose(geometry.symmetric_kl(one)(3), ((one - one[3]) * (one.sigmoid() - one[3].sigmoid()))[:, 0])


def test_facility_location_is_the_greedy_one_and_nearly_optimal() -> None:
    """At least 1 - 1/e of the optimum, and step by step the naive greedy algorithm."""
    z = torch.randn(12, 3, dtype=torch.float64, generator=generator(6))
    distance = torch.cdist(z, z)
    similarity = (distance.max() - distance).float()

    def value(rows: Any) -> float:
        return float(similarity[:, list(rows)].max(1).values.sum())

    chosen = coverage.facility_location(similarity, 4)
    best = max(value(rows) for rows in combinations(range(12), 4))
    assert value(chosen.tolist()) >= (1 - 1 / torch.e) * best
    z = torch.randn(300, 4, generator=generator(7))
    distance = torch.cdist(z, z)
    similarity = distance.max() - distance
    naive: list[int] = []
    for _ in range(40):
        left = [i for i in range(300) if i not in naive]
        naive.append(max(left, key=lambda i: value([*naive, i])))
    assert value(coverage.facility_location(similarity, 40, width=8).tolist()) == pytest.approx(value(naive), rel=1e-6)


def test_facility_location_chooses_different_samples_among_duplicates() -> None:
    z = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert sorted(coverage.facility_location(1 - torch.cdist(z, z), 4).tolist()) == [0, 1, 2, 3]
    z = torch.randn(25, 2, generator=generator(8)).repeat(2, 1)
    distance = torch.cdist(z, z)
    for k in (10, 30, 50):
        chosen = coverage.facility_location(distance.max() - distance, k, width=8)
        assert len(chosen.unique()) == k and len((chosen % 25).unique()) == min(k, 25)


def test_craig_weights_are_cluster_sizes_per_class() -> None:
    found = evidence(n=120)
    classes = (found.labels == 1).any(1).long()
    indices, weights = coverage.craig(found.embeddings, found.residual, classes, 30, generator())
    assert len(indices.unique()) == 30 and weights.mean().item() == pytest.approx(1)
    share = int(classes.sum()) / 4
    assert abs(int(classes[indices].sum()) - share) <= 1
    assert torch.allclose(weights * 120 / 30, (weights * 120 / 30).round(), atol=1e-4)


def test_gradient_distances_against_the_gradients_themselves() -> None:
    found = evidence(n=15, tasks=3, missing=0.2)
    g = torch.einsum("nt,nd->ntd", found.residual, with_one(found.embeddings)).flatten(1)
    assert torch.allclose(coverage.gradient_distances(found.embeddings, found.residual), torch.cdist(g, g), atol=1e-3)
    assert torch.allclose(mean_gradient(found.embeddings, found.residual).flatten(), g.mean(0), atol=1e-6)


def test_k_means_keeps_the_far_ones_and_some_of_each_cluster() -> None:
    label = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    own = torch.cat([torch.linspace(0, 0.3, 50), torch.linspace(0.5, 0.9, 30), torch.linspace(0.95, 1, 20)])
    chosen = geometry.least_prototypical(label, own, 20, balance=0.5)
    counts = torch.bincount(label[chosen]).tolist()
    assert counts == [15, 3, 2]  # minima 5, 3, 2; the rest are the least similar of all
    assert chosen.tolist() == [*range(15), 50, 51, 52, 80, 81]


def test_clusters_and_tanimoto_of_bits() -> None:
    bits = (torch.rand(40, 64, generator=generator(8)) < 0.3).to(torch.uint8)
    a, b = bits[0].bool(), bits[1].bool()
    expected = float((a & b).sum() / (a | b).sum())
    assert geometry.similarity(bits[:1], bits[1:2], "tanimoto").item() == pytest.approx(expected)
    centres = torch.eye(4).repeat_interleave(10, 0) + 0.05 * torch.randn(40, 4, generator=generator(9))
    label, own = geometry.cluster(centres, 4, generator(1), "cosine", 20)
    assert own.min() > 0.5 and len({tuple(label[i * 10 : (i + 1) * 10].tolist()) for i in range(4)}) <= 4
    assert all(len(label[i * 10 : (i + 1) * 10].unique()) == 1 for i in range(4))


def test_influence_is_the_change_of_the_validation_loss() -> None:
    """Against retraining: weight one sample up a little, refit the head, measure the validation loss."""
    found = evidence(n=60, d=3, seed=11)
    z, y = with_one(found.embeddings).double(), found.labels.double()[:, 0]
    vz, vy = with_one(found.val_embeddings).double(), found.val_labels.double()[:, 0]

    def fit(weights: Tensor) -> Tensor:
        w = torch.zeros(4, dtype=torch.float64)
        for _ in range(50):
            p = (z @ w).sigmoid()
            gradient = z.T @ (weights * (p - y)) / 60
            w = w - torch.linalg.solve(z.T @ (z * (weights * p * (1 - p))[:, None]) / 60, gradient)
        return w

    def loss(w: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(vz @ w, vy)

    w = fit(torch.ones(60, dtype=torch.float64))
    found.logits, found.val_logits = (z @ w)[:, None].float(), (vz @ w)[:, None].float()
    mine = influence.influence(found, damping=1e-6)
    change = []
    for i in range(10):
        weights = torch.ones(60, dtype=torch.float64)
        weights[i] += 1e-3
        change.append((loss(fit(weights)) - loss(w)) / 1e-3 * 60)
    assert torch.allclose(mine[:10].double(), torch.stack(change), rtol=0.02, atol=1e-3)


def test_glister_takes_the_best_aligned_first() -> None:
    found = evidence(n=60)
    goal = mean_gradient(found.val_embeddings, residual(found.val_logits, found.val_labels))
    g = torch.einsum("nt,nd->ntd", found.residual, with_one(found.embeddings)).flatten(1)
    chosen = influence.glister(found, 10, rounds=10)
    assert int(chosen[0]) == int((g @ goal.flatten()).argmax())
    assert set(influence.glister(found, 10, rounds=1).tolist()) == set((g @ goal.flatten()).topk(10).indices.tolist())
    before = nn.functional.binary_cross_entropy_with_logits(found.val_logits, found.val_labels)
    step = mean_gradient(found.embeddings[chosen], found.residual[chosen])
    moved = found.val_logits - 0.1 * with_one(found.val_embeddings) @ step.T
    assert nn.functional.binary_cross_entropy_with_logits(moved, found.val_labels) < before


def test_the_pruned_set_moves_the_parameters_least() -> None:
    changes = torch.randn(200, 8, generator=generator(12)) + 0.3
    chosen = influence.smallest_sum(changes, 60, rounds=60)
    length = changes[chosen].sum(0).norm()
    rivals = torch.stack([changes[torch.randperm(200, generator=generator(s))[:60]].sum(0).norm() for s in range(200)])
    assert len(chosen.unique()) == 60 and length < 0.2 * rivals.min()
    first = int(changes.norm(dim=1).argmin())
    assert int(chosen[0]) == first
    assert len(influence.smallest_sum(changes, 150, rounds=7).unique()) == 150


def test_parameter_changes_and_their_projection() -> None:
    found = evidence(n=40, d=6, tasks=2, missing=0.2)
    inverse = influence.inverse_hessian(found, 0.01)
    g = torch.einsum("nt,nd->ntd", found.residual, with_one(found.embeddings))
    exact = torch.einsum("tij,ntj->nti", inverse, g).flatten(1)
    assert torch.allclose(influence.parameter_changes(found, generator()), exact, rtol=1e-3, atol=1e-4)
    wide = evidence(n=40, d=300, tasks=2)
    wide.logits /= 10  # away from errors of exactly 0
    projected = influence.parameter_changes(wide, generator(), width=256)
    assert projected.shape == (40, 256)
    inverse = influence.inverse_hessian(wide, 0.01)
    g = torch.einsum("nt,nd->ntd", wide.residual, with_one(wide.embeddings))
    ratio = projected.norm(dim=1) / torch.einsum("tij,ntj->nti", inverse, g).flatten(1).norm(dim=1)
    assert (ratio - 1).abs().max() < 0.25


def test_deepfool_finds_the_distance_to_a_plane_and_to_a_circle() -> None:
    x = torch.randn(20, 3, generator=generator(13))
    w, b = torch.tensor([1.0, -2.0, 0.5]), 0.3
    known = torch.ones(20, 1, dtype=torch.bool)
    found = scores.deepfool(lambda c: ((x + c) @ w + b)[:, None], (20, 3), torch.arange(20), known)
    assert torch.allclose(found, 1.02 * (x @ w + b).abs() / w.norm(), rtol=1e-3)
    circle = scores.deepfool(
        lambda c: ((x + c).square().sum(1) - 1)[:, None], (20, 3), torch.arange(20), known, overshoot=0.001
    )
    outside = x.norm(dim=1) > 1  # from inside the steps of the linearisation are too long
    assert torch.allclose(circle[outside], (x.norm(dim=1) - 1)[outside], atol=0.01)
    assert (circle >= 0.99 * (x.norm(dim=1) - 1).abs()).all()
    rows = torch.arange(20).repeat_interleave(2)  # samples of two rows each
    pair = torch.randn(40, 3, generator=generator(14))
    sums = scores.deepfool(lambda c: ((pair + c) @ w).view(20, 2).sum(1, keepdim=True), (40, 3), rows, known)
    assert torch.allclose(sums, 1.02 * (pair @ w).view(20, 2).sum(1).abs() / (w.norm() * 2**0.5), rtol=1e-3)
    dead = scores.deepfool(lambda c: (0 * c).sum(1, keepdim=True) + 1, (20, 3), torch.arange(20), known)
    assert torch.isinf(dead).all()


def test_quotas_and_parts() -> None:
    assert shares([50, 30, 20], 10) == [5, 3, 2]
    assert sum(shares([3, 3, 3], 4)) == 4 and shares([1, 1, 98], 100) == [1, 1, 98]
    parts = random_parts(torch.arange(10, 35), 10, generator())
    assert sorted(torch.cat(parts).tolist()) == list(range(10, 35)) and {len(p) for p in parts} <= {8, 9}
