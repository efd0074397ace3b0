"""Which weights of which models are projected; the paper's models; the optimizer in other people's loops."""

from typing import Any

import pytest
import torch
from torch import nn

from decathlon.language.tiny import tiny_model
from decathlon.tasks.osd import OnlineSubspaceDescent, low_rank_groups
from decathlon.tasks.osd.models import SIZES, meta_model
from tests.tasks.osd.helpers import batch, llama

COUNTS = {
    "60m": (58_073_600, 25_296_896), "130m": (134_105_856, 84_934_656), "350m": (367_969_280, 302_383_104),
    "1b": (1_339_082_752, 1_207_910_400), "7b": (6_738_415_616, 6_476_005_376),
}  # fmt: skip


@pytest.mark.parametrize("size", COUNTS)
def test_the_papers_models_have_its_numbers_of_parameters(size: str) -> None:
    model = meta_model(size, torch.bfloat16)
    hidden, rest = low_rank_groups(model)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[size][0]
    assert sum(p.numel() for _, p in hidden["params"]) == COUNTS[size][1]
    assert len(hidden["params"]) == 7 * SIZES[size][2]
    assert len(rest["params"]) == 2 + 2 * SIZES[size][2] + 1


@pytest.mark.parametrize(("size", "millions", "hidden"), [("9m", 9.0, 0.8), ("20m", 19.5, 3.2)])
def test_small_models(size: str, millions: float, hidden: float) -> None:
    model = meta_model(size, torch.float32)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert sum(p.numel() for _, p in low_rank_groups(model)[0]["params"]) / 1e6 == pytest.approx(hidden, abs=0.05)


@pytest.mark.parametrize(
    ("family", "count"), [("gpt2", 4), ("gptj", 6), ("gpt_neox", 4), ("llama", 7), ("qwen2", 7), ("phi3", 4)]
)
def test_groups_of_other_families(family: str, count: int) -> None:
    model = tiny_model(family, 40, layers=2).requires_grad_(True)
    hidden, rest = low_rank_groups(model, rank=4)
    assert len(hidden["params"]) == 2 * count
    assert all(p.ndim == 2 for _, p in hidden["params"])
    together = {id(p) for _, p in [*hidden["params"], *rest["params"]]}
    assert together == {id(p) for p in model.parameters() if p.requires_grad}


def test_groups_of_any_module_by_a_pattern() -> None:
    model = nn.ModuleDict({"body": nn.Linear(6, 4), "twin": nn.Linear(6, 4, bias=False), "head": nn.Linear(4, 2)})
    model["twin"].weight = model["body"].weight
    hidden, rest = low_rank_groups(model, rank=2, match="^(body|twin)$", scale=0.5)
    assert [name for name, _ in hidden["params"]] == ["body.weight"] and hidden["scale"] == 0.5
    assert [name for name, _ in rest["params"]] == ["body.bias", "head.weight", "head.bias"]


def test_with_lightning() -> None:
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.losses = llama(), []

        def training_step(self, ids: torch.Tensor, index: int) -> Any:
            loss = self.model(input_ids=ids, labels=ids).loss
            self.losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            return OnlineSubspaceDescent(low_rank_groups(self.model, rank=8), lr=0.01)

    module = Module()
    loader = torch.utils.data.DataLoader([batch(step) for step in range(40)], batch_size=None)  # type: ignore[arg-type]
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        gradient_clip_val=1.0, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    assert module.losses[-1] < 0.8 * module.losses[0]


def test_with_the_trainer_of_transformers(tmp_path: Any) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model = llama()
    optimizer = OnlineSubspaceDescent(low_rank_groups(model, rank=8), lr=0.01)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    rows = [{"input_ids": row, "labels": row} for step in range(30) for row in batch(step)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=30, per_device_train_batch_size=2, report_to=[], save_steps=15, logging_steps=5,
        use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, rates))  # type: ignore[arg-type]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    saved = torch.load(tmp_path / "checkpoint-15" / "optimizer.pt", weights_only=True)
    assert "projection" in saved["state"][0]
