"""The README's Python blocks run as they stand, given the objects that their surroundings would have."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def surroundings_molpeg() -> dict[str, Any]:
    model, reference = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)
    train = torch.utils.data.TensorDataset(torch.randn(40, 4), torch.randint(0, 2, (40,)).float())

    def loss_of(net: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        inputs, labels = train[rows]
        return torch.nn.functional.binary_cross_entropy_with_logits(net(inputs)[:, 0], labels, reduction="none")

    return {
        "model": model, "reference": reference, "train": train, "epochs": 3, "loss_of": loss_of, "batch_size": 8,
        "torch": torch, "optimizer": torch.optim.Adam(model.parameters()),
    }  # fmt: skip


def surroundings_pinn() -> dict[str, Any]:
    model = torch.nn.Linear(3, 1)
    x = torch.randn(16, 3)
    losses = [lambda: model(x).square().mean(), lambda: (model(x) - 1).square().mean(), lambda: model(x).abs().mean()]
    return {"model": model, "gradients": torch.randn(3, 50), "closures": losses, "steps": 5}


def surroundings_kele() -> dict[str, Any]:
    from decathlon.language.tiny import tiny_model, word_tokenizer

    tokenizer = word_tokenizer(["Paris", "The", "city", "of", "is", "in", "France", "Italy"])
    model = tiny_model("gpt2", len(tokenizer), layers=6)
    model.generation_config.max_new_tokens = 3
    return {"model": model, "tokenizer": tokenizer}


def surroundings_jregnet() -> dict[str, Any]:
    return {"torch": torch}


def surroundings_ndde() -> dict[str, Any]:
    times = torch.tensor([2.0, 4.0, 6.0, 8.0, 10.0])
    return {"torch": torch, "times": times, "values": torch.exp(-times / 5)}


def surroundings_cave() -> dict[str, Any]:
    tasks, vehicles, scenarios = 3, 5, 4
    of_tasks = {name: torch.rand(scenarios, tasks) + 0.2 for name in "CDO"}
    of_tasks |= {"w": torch.ones(scenarios, tasks), "R": torch.full((scenarios, tasks), 0.95)}
    lows = {"F": 2, "r": 20, "lam": 0.02, "tau": 5, "B0": 0}
    of_vehicles = {name: torch.rand(scenarios, vehicles) + low for name, low in lows.items()}
    shares = {"work": torch.rand(2, 6), "weight": torch.ones(2, 6), "active": torch.ones(2, 6, dtype=torch.bool)}
    return of_tasks | of_vehicles | shares


def surroundings_osd() -> dict[str, Any]:
    from decathlon.language import new_llama

    return {"model": new_llama(64, width=32, layers=2, heads=2)}


def surroundings_dive() -> dict[str, Any]:
    from tests.tasks.dive.toy import Edge, Sum

    edge_index = torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]])
    return {
        "torch": torch, "make_mask": Edge, "make_predictor": Sum, "x": torch.rand(5, 1), "edge_index": edge_index,
        "batch": torch.tensor([0, 0, 0, 1, 1]), "y": torch.tensor([0, 2]),
    }  # fmt: skip


def surroundings_ckd() -> dict[str, Any]:
    def scores(size: int) -> dict[str, torch.Tensor]:
        return {name: torch.randn(size, requires_grad=True) for name in ("image", "text")}

    found = {"bpr": torch.tensor(0.7), "joint": torch.randn(16), "alone": scores(16), "teachers": scores(16)}
    return found | {"generic_alone": scores(40), "generic_teachers": scores(40)}


def surroundings_cora() -> dict[str, Any]:
    from decathlon.language.tiny import tiny_model

    ids = torch.randint(0, 40, (3, 7))
    vectors = {"user_vectors": torch.randn(3, 64), "item_vectors": torch.randn(3, 64)}
    return {"llm": tiny_model("llama", 40), "input_ids": ids, "attention_mask": torch.ones_like(ids), **vectors}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.search(r"decathlon\.tasks\.(\w+)", block).group(1))  # type: ignore[union-attr]
def test_block(block: str) -> None:
    task = re.search(r"decathlon\.tasks\.(\w+)", block).group(1)  # type: ignore[union-attr]
    exec(compile(block, "README.md", "exec"), globals()[f"surroundings_{task}"]())
