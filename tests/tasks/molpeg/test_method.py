"""MolPeg itself: scores, selection, the reference, in a plain loop."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from decathlon.tasks.molpeg import MolPeg, Reference


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Problem:
    """Noisy half-spaces, a small network, and the loop that the README shows."""

    def __init__(self, prune: float = 0.6, epochs: int = 5, dropout: float = 0.3, sgd: bool = False, **options) -> None:
        draw = generator(1)
        self.x = torch.randn(100, 6, generator=draw)
        self.y = (self.x[:, 0] + 0.4 * torch.randn(100, generator=draw) > 0).float()
        torch.manual_seed(2)
        self.encoder = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(12, 1)
        self.pruner = MolPeg(100, prune, generator(), **options)
        self.reference = self.pruner.reference(self.encoder)
        self.start = [p.clone() for p in self.encoder.parameters()]
        parameters = [*self.encoder.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(parameters, 0.1) if sgd else torch.optim.Adam(parameters, 0.01)
        self.scored: list[tuple[Tensor, Tensor]] = []
        for _ in range(epochs):
            self.epoch()

    def losses(self, encoder: nn.Module, batch: Tensor) -> Tensor:
        logits = self.head(encoder(self.x[batch])).squeeze(1)
        return nn.functional.binary_cross_entropy_with_logits(logits, self.y[batch], reduction="none")

    def epoch(self) -> None:
        indices, weights = self.pruner.select()
        order = torch.randperm(len(indices), generator=generator(3))
        for batch, weight in zip(indices[order].split(16), weights[order].split(16), strict=True):
            online = self.losses(self.encoder, batch)
            reference = self.losses(self.reference, batch).detach()
            self.pruner.update(batch, online, reference)
            self.scored.append((batch, (online - reference).detach()))
            self.optimizer.zero_grad()
            (weight * online).mean().backward()
            self.optimizer.step()
            self.reference.update()


def test_importing_the_method_needs_torch_only() -> None:
    heavy = "lightning", "hydra", "omegaconf", "rdkit", "torch_geometric", "sklearn", "pandas", "decathlon.molecules"
    code = (
        "import sys; from decathlon.tasks.molpeg import MolPeg, Reference; import decathlon.pruning;"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_five_lines() -> None:
    x, y = torch.randn(50, 3), torch.rand(50)
    model = nn.Linear(3, 1)
    reference, optimizer = Reference(model), torch.optim.Adam(model.parameters())

    pruner = MolPeg(len(x), prune=0.6, generator=torch.Generator().manual_seed(0))
    for _ in range(4):
        indices, weights = pruner.select()
        assert indices.dtype == torch.int64 and indices.shape == weights.shape == (20,)
        for batch in indices[torch.randperm(len(indices))].split(8):
            losses = (model(x[batch]).squeeze(1) - y[batch]).square()
            pruner.update(batch, losses, (reference(x[batch]).squeeze(1) - y[batch]).square())
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            reference.update()
    assert (pruner.count > 0).all()


@pytest.mark.parametrize(("selection", "kept"), [("both", {0, 4}), ("easy", {0, 1}), ("hard", {3, 4})])
def test_tails(selection: str, kept: set[int]) -> None:
    """Differences -3, -1, 0, 1, 2."""
    difference = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0])
    for order in (torch.arange(5), torch.tensor([3, 1, 4, 0, 2])):
        pruner = MolPeg(5, 0.6, generator(), selection=selection)
        pruner.update(torch.arange(5), 5 + difference[order], torch.full((5,), 5.0))
        assert set(order[pruner.select()[0]].tolist()) == kept


def test_unseen_samples_come_first_and_pruned_ones_keep_their_score_bit_for_bit() -> None:
    """A score changes when its sample is trained on, and only then."""
    problem = Problem(epochs=3)
    before = problem.pruner.score.clone()
    done = len(problem.scored)
    problem.epoch()
    trained = torch.cat([batch for batch, _ in problem.scored[done:]])
    left_out = torch.ones(100, dtype=torch.bool)
    left_out[trained] = False
    assert torch.equal(problem.pruner.score[left_out], before[left_out])
    for batch, difference in problem.scored[done:]:
        assert torch.equal(problem.pruner.score[batch], difference.abs())
    fresh = MolPeg(10, 0.5, generator())
    fresh.update(torch.arange(5), torch.full((5,), 100.0), torch.zeros(5))  # |difference| far above 1
    assert fresh.select()[0].tolist() == [5, 6, 7, 8, 9]


def test_beta_0_and_beta_1() -> None:
    """In eval mode: no dropout, no BatchNorm statistics of the batch."""
    copy = Problem(beta=0.0, dropout=0.0, score_mode="eval", epochs=0)
    copy.encoder.eval()
    copy.reference.eval()
    for _ in range(3):
        copy.epoch()
        pairs = zip(copy.encoder.parameters(), copy.reference.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert (copy.pruner.score == 0).all()
    frozen = Problem(beta=1.0)
    assert all(torch.equal(a, b) for a, b in zip(frozen.start, frozen.reference.parameters(), strict=True))
    assert not torch.equal(frozen.start[0], next(frozen.encoder.parameters()))


def test_scores_are_at_most_the_logit_differences() -> None:
    """Binary cross-entropy is 1-Lipschitz in the logit."""
    a, b = 20 * torch.randn(2, 10000, dtype=torch.float64, generator=generator(4))
    y = (torch.rand(10000, generator=generator(5)) < 0.5).double()
    loss = nn.functional.binary_cross_entropy_with_logits
    pruner = MolPeg(10000, 0.6, generator())
    for batch in torch.randperm(10000, generator=generator(6)).split(256):
        online, reference = (loss(z[batch], y[batch], reduction="none") for z in (a, b))
        pruner.update(batch, online, reference)
    assert (pruner.score.double() <= (a - b).abs() + 1e-4).all()  # scores are float32 differences of losses up to 80
    assert pruner.score.isfinite().all() and pruner.score.median() > 1


def test_a_common_weight_changes_sgd_and_not_adam() -> None:
    """Adam divides it out; SGD takes it for a larger step."""

    def end(sgd: bool, rescale: bool) -> Tensor:
        problem = Problem(sgd=sgd, rescale=rescale, dropout=0.0, epochs=4)
        return torch.cat([p.detach().flatten() for p in problem.head.parameters()])

    assert torch.allclose(end(False, False), end(False, True), rtol=1e-4)
    assert not torch.allclose(end(True, False), end(True, True), rtol=1e-2)
    _, weights = MolPeg(10, 0.6, generator(), rescale=True).select()
    assert torch.equal(weights, torch.full((4,), 2.5))


def test_what_is_kept_reacts_most() -> None:
    problem = Problem(epochs=6)
    score = problem.pruner.score.clone()
    indices, weights = problem.pruner.select()
    left_out = torch.ones(100, dtype=torch.bool)
    left_out[indices] = False
    assert score[indices].min() >= score[left_out].max() and (weights == 1).all()


def test_the_selection_goes_on_from_a_state() -> None:
    one = Problem(epochs=4)
    two = MolPeg(100, 0.6, generator(77))
    two.load_state_dict(one.pruner.state_dict())
    for _ in range(3):
        assert torch.equal(one.pruner.select()[0], two.select()[0])
    assert all(a.sum() >= 0 for a, _ in pairwise(one.scored[0]))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"prune": 1.2}, "prune=1.2"), ({"prune": "abc"}, "prune='abc'"), ({"beta": 2}, "beta=2"),
        ({"beta": "x"}, "beta='x'"), ({"selection": "easiest"}, "selection='easiest' is none; choose both, easy, hard"),
        ({"score_mode": "test"}, "choose train, eval"), ({"reference_init": "x"}, "choose pretrained, random"),
        ({"score_norm": "x"}, "choose all, known"), ({"rescore": "x"}, "choose none, epoch"),
    ],
)  # fmt: skip
def test_bad_options(options: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as error:
        MolPeg(100, **options)
    assert "\n" not in str(error.value)


def test_the_reference_losses_are_needed() -> None:
    with pytest.raises(ValueError, match="reference"):
        MolPeg(10).update(torch.arange(2), torch.ones(2))
