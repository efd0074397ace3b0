"""What each of two processes runs in ``test_distributed.py``: ``ddp.py <folder>``."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from decathlon.pruning.callback import Pruning
from tests.pruning.toy import Lines, Plain

METHODS = {
    "molpeg": {"class": "decathlon.tasks.molpeg.MolPeg", "beta": 0.9},
    "molpeg_rescored": {"class": "decathlon.tasks.molpeg.MolPeg", "beta": 0.9, "rescore": "epoch"},
    "ucb": {"class": "decathlon.pruning.UCB"},
}


def run(method: str) -> dict[str, Any]:
    module, data = Plain(), Lines(n=61)
    pruning = Pruning(METHODS[method], prune=0.6)
    trainer = pl.Trainer(
        max_epochs=5, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=[pruning],
    )  # fmt: skip
    trainer.fit(module, data)
    assert pruning.pruner is not None
    return {
        "pruner": pruning.pruner.state_dict(),
        "trained": module.trained,
        "samples": pruning.samples,
        "sampler": type(trainer.train_dataloader.sampler).__name__,
    }


if __name__ == "__main__":
    torch.save({method: run(method) for method in METHODS}, Path(sys.argv[1]) / f"rank{os.environ['RANK']}.pt")
