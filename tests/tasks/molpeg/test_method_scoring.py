"""The evidence of the static methods: computed once, shared, by position, and without a trace in the run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from decathlon.pruning import Evidence, scores
from decathlon.tasks.molpeg import scoring
from decathlon.tasks.molpeg.predictor import Predictor
from decathlon.tasks.molpeg.scoring import Scoring, everything
from tests.tasks.molpeg.toy import MODEL, Bits, make

OPTIONS = {"name": "fp_mlp", "widths": [16], "dropout": 0.2}


def score(data: Bits, seed: int = 0, **options: Any) -> Evidence:
    return Scoring(data, OPTIONS, 0.01, 0.0, seed).evidence(**{"epochs": 3, **options})[0]


def test_evidence_is_by_position_and_of_the_trained_model(tmp_path: Path) -> None:
    data = Bits(tmp_path, tasks=2, missing=0.2)
    found = score(data, epochs=30)
    assert torch.equal(found.labels.nan_to_num(-1), data.y[:120].nan_to_num(-1))
    state = torch.load(next((tmp_path / "processed").glob("*.pt")), weights_only=True)
    model = Predictor(OPTIONS, data.encoder_spec(), 2)
    model.load_state_dict(state["weights"])
    model.eval()
    with torch.no_grad():
        batch = data.batch("train", torch.arange(120))
        assert torch.allclose(found.embeddings, model.encoder(batch), atol=1e-6)
        assert torch.allclose(found.logits, model(batch), atol=1e-6)
        assert torch.allclose(found.val_logits, model(data.batch("val", torch.arange(60))), atol=1e-6)
    known = ~torch.isnan(found.labels)
    right = ((found.logits > 0).float() == found.labels)[known].float().mean()
    assert right > 0.9 and found.learned.float().mean() > 0.5 and found.forgotten.max() > 0


def test_it_is_computed_once_per_seed_and_number_of_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    train = Scoring._train
    monkeypatch.setattr(Scoring, "_train", lambda self, *a: calls.append(a) or train(self, *a))
    first, again = score(Bits(tmp_path)), score(Bits(tmp_path))
    assert len(calls) == 1 and torch.equal(first.embeddings, again.embeddings)
    score(Bits(tmp_path), epochs=4)
    score(Bits(tmp_path), seed=1)
    score(Bits(tmp_path, tasks=2))
    assert len(calls) == 4
    assert len(Scoring(Bits(tmp_path), OPTIONS, 0.01, 0.0, 0).evidence(epochs=3, repeats=2)) == 2
    assert len(calls) == 5
    swapped = Bits(tmp_path)
    swapped.y[120:180] = swapped.y[120:180].flip(0)  # the validation part alone, and no sum tells
    score(swapped)
    assert len(calls) == 6


def test_boundary_and_fingerprints(tmp_path: Path) -> None:
    found = score(Bits(tmp_path), boundary=True, fingerprints=True)
    assert found.boundary is not None and found.boundary.shape == (120,) and (found.boundary > 0).all()
    near, far = found.logits.abs()[:, 0].argsort()[[0, -1]]
    assert found.boundary[near] < found.boundary[far]
    assert found.features is not None and found.features.shape == (120, 32)
    assert score(Bits(tmp_path)).boundary is None


def test_it_leaves_no_trace_in_the_run(tmp_path: Path) -> None:
    """A run whose scores are cached and one that computes them are the same run."""
    method = {"name": "el2n", "class": "decathlon.pruning.EL2N", "scoring": {"epochs": 2}}
    ends = []
    for _ in range(2):
        trainer, module, data, _, record = make(tmp_path, method, epochs=3)
        trainer.fit(module, data)
        assert len({frozenset(epoch) for epoch in record.trained.values()}) == 1
        ends.append(record.losses)
    assert ends[0] == ends[1]


def test_a_resumed_static_run_keeps_its_subset_without_scores(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    method = {"name": "craig", "class": "decathlon.pruning.Craig", "scoring": {"epochs": 2}}
    trainer, module, data, _, whole = make(tmp_path, method, epochs=4)
    trainer.fit(module, data)
    save = ModelCheckpoint(tmp_path, "last", save_top_k=-1, save_on_train_epoch_end=True, enable_version_counter=False)
    trainer, module, data, _, _ = make(tmp_path, method, epochs=2, callbacks=[save])
    trainer.fit(module, data)
    trainer, module, data, _, rest = make(tmp_path, method, epochs=4)
    module.evidence = lambda **scoring: pytest.fail("scored again")  # type: ignore[method-assign]
    trainer.fit(module, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert rest.losses == whole.losses[-len(rest.losses) :]


def test_everything_is_put_back(tmp_path: Path) -> None:
    sampler = Bits(tmp_path).sampler
    sampler.set_selection(torch.tensor([3, 5]), torch.tensor([2.0, 3.0]))
    sampler.set_epoch(4)
    before = list(sampler)
    with pytest.raises(RuntimeError), everything(sampler):
        assert len(sampler) == 120 and not sampler.sharded
        raise RuntimeError
    assert list(sampler) == before and sampler.weight[5] == 3 and sampler.sharded and sampler.weighted


def test_grand_of_the_evidence_is_the_gradient_of_its_head(tmp_path: Path) -> None:
    data = Bits(tmp_path)
    found = score(data)
    state = torch.load(next((tmp_path / "processed").glob("*.pt")), weights_only=True)["weights"]
    head = nn.Linear(16, 1)
    head.load_state_dict({"weight": state["head.weight"], "bias": state["head.bias"]})
    for i in (0, 7, 33):
        loss = nn.functional.binary_cross_entropy_with_logits(head(found.embeddings[i]), found.labels[i])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(head.parameters()))])
        assert gradient.norm().item() == pytest.approx(
            scores.grand(found.residual, found.embeddings)[i].item(), abs=1e-5
        )
    assert scoring.Scoring(data, MODEL, 0.01, 0.0, 0).regression is False
