"""The deployed state is the best of all members and epochs by validation, the earliest of equals."""

import itertools

import torch

from decathlon.tasks.dive.metrics import MaskSums, mask_quality, measure
from decathlon.tasks.dive.selection import Selection
from tests.tasks.dive.toy import a_batch, dive_method

NAN = float("nan")


def mark(method: torch.nn.Module, value: float) -> None:
    for k, weight in enumerate(method.classifier.head.bias.data):
        weight.fill_(value + 100 * k)


def offered(table: list[list[float]], higher: bool) -> tuple[int, int, float]:
    """Winner, its epoch, and the mark of its weights, after each epoch's values (rows) of the members (columns)."""
    method = dive_method(len(table[0]))
    selection = Selection(higher)
    for epoch, values in enumerate(table):
        mark(method, epoch)
        selection.offer(epoch, {"ood": values, "id": [-v for v in values]}, method)
    fresh = dive_method(len(table[0]), seed=9)
    again = Selection(higher)
    again.load(selection.state())
    again.restore("ood", fresh)
    winner = again.winner("ood")
    return winner, again.kept["ood"][winner].epoch, float(fresh.classifier.head.bias[winner][0].detach())


def test_the_argmax_over_members_and_epochs() -> None:
    values = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).tolist()
    for higher in (True, False):
        best = (max if higher else min)(
            itertools.product(range(6), range(3)), key=lambda place: values[place[0]][place[1]]
        )
        winner, epoch, weights = offered(values, higher)
        assert (epoch, winner) == best and weights == epoch + 100 * winner


def test_ties_go_to_the_earliest_epoch_then_to_the_lowest_member() -> None:
    assert offered([[0.1, 0.5, 0.2], [0.5, 0.5, 0.3], [0.5, 0.4, 0.5]], True)[:2] == (1, 0)
    assert offered([[0.5, 0.5], [0.5, 0.5]], True)[:2] == (0, 0)
    assert offered([[0.5, 0.2], [0.2, 0.5]], False)[:2] == (1, 0)


def test_no_number_is_not_the_best() -> None:
    assert offered([[NAN, NAN], [NAN, 0.1], [0.05, NAN]], True)[:2] == (1, 1)
    assert offered([[NAN, NAN], [NAN, NAN]], False)[:2] == (0, 0)


def test_metrics_of_known_predictions() -> None:
    y = torch.tensor([[0.0], [1], [2], [1]])
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 0], [1, 1, 1, 1]]), 3).float()
    assert measure("accuracy", logits, y).tolist() == [0.75, 0.5]
    binary = torch.tensor([[[1.0], [-1], [2], [-3]]])
    truth = torch.tensor([[1.0], [0], [0], [0]])
    assert measure("accuracy", binary, truth).tolist() == [0.75]
    assert abs(float(measure("roc_auc", binary, truth)) - 2 / 3) < 1e-9
    assert measure("roc_auc", binary, torch.zeros(4, 1)).isnan().all()
    assert measure("mae", torch.tensor([[[1.0], [3.0]]]), torch.tensor([[0.0], [float("nan")]])).tolist() == [1.0]


def test_mask_quality_graph_by_graph() -> None:
    batch = a_batch(5)
    truth = batch.more["edge_gt"]
    hard = (torch.rand(2, len(truth), generator=torch.Generator().manual_seed(0)) < 0.5).float()
    hard[1] = 0
    found = mask_quality(hard, truth, batch)
    graph = batch.graph[batch.owner]
    for b in range(5):
        kept, true = hard[0][graph == b].bool(), truth[graph == b]
        hits = float((kept & true).sum())
        precision = hits / max(float(kept.sum()), 1)
        recall = hits / max(float(true.sum()), 1)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert torch.allclose(found[:, 0, b], torch.tensor([precision, recall, f1]), atol=1e-6)
    assert not found[:, 1].any()  # an empty mask
    sums = MaskSums()
    sums.add(hard, batch)
    assert torch.allclose(sums.summary()["keep_rate"], hard.mean(1).double(), atol=1e-6)
    assert sums.summary()["jaccard"] == 0
