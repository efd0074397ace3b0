"""Weights shared out over two processes: the same steps as in one, and states that pass from one number to another."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from decathlon.tasks.osd import Apollo, Fira, FullRank, GaLore, OnlineSubspaceDescent, low_rank_groups, shard
from decathlon.tasks.osd.measures import state_bytes, subspace_quality
from decathlon.tasks.osd.optimizers import ProjectedOptimizer
from tests.tasks.osd.helpers import batch, llama

METHODS: dict[str, Any] = {
    "osd": lambda model: OnlineSubspaceDescent(low_rank_groups(model, rank=8), lr=0.01, weight_decay=0.1),
    "lion": lambda model: OnlineSubspaceDescent(
        low_rank_groups(model, rank=8), lr=1e-3, inner="lion", variant="official", init="qr", reproject_moments=True
    ),
    "galore": lambda model: GaLore(low_rank_groups(model, rank=8), lr=0.01, gap=2),
    "whole rank": lambda model: OnlineSubspaceDescent(low_rank_groups(model, rank=32), lr=0.01, p_optimizer="sgd"),
    "full": lambda model: FullRank(list(model.named_parameters()), lr=0.01),
}  # fmt: skip
STEPS = 3


def train(model: Any, optimizer: ProjectedOptimizer, steps: range, rank: int = 0, world: int = 1) -> list[Tensor]:
    losses = []
    for step in steps:
        ids = batch(step, rows=4)[rank::world]
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return losses


def whole(model: Any) -> list[Tensor]:
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.detach().clone() for p in model.parameters()]


def refusals(model: Any) -> list[str]:
    found = []
    for make in (
        lambda: Fira(low_rank_groups(model, rank=4)),
        lambda: Apollo(low_rank_groups(model, rank=4)),
        lambda: OnlineSubspaceDescent(low_rank_groups(model, rank=4), inner="adafactor"),
    ):
        with pytest.raises(ValueError) as error:
            make()
        found.append(str(error.value))
    return found


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, found = init_device_mesh("cpu", (2,)), {}
    for name, make in METHODS.items():
        model = shard(llama(), mesh)
        optimizer = make(model)
        losses = train(model, optimizer, range(STEPS), rank, 2)
        held = sum(v.numel() for s in optimizer.state.values() for k, v in s.items() if k.startswith("exp_avg"))
        quality = subspace_quality(optimizer)
        state, after = copy.deepcopy(optimizer.state_dict()), whole(model)
        train(model, optimizer, range(STEPS, 2 * STEPS), rank, 2)
        other = shard(llama(), mesh)
        again = make(other)
        bytes_of_all = state_bytes(optimizer)
        saved = torch.load(f"{folder}/{name}.pt", weights_only=True)
        other.load_state_dict(
            {k: torch.distributed.tensor.distribute_tensor(v, p.device_mesh, p.placements)
             for (k, v), p in zip(saved["model"].items(), other.state_dict().values())}
        )  # fmt: skip
        again.load_state_dict(saved["optimizer"])
        train(other, again, range(STEPS, 2 * STEPS), rank, 2)
        found[name] = {
            "losses": losses, "held": held, "quality": quality, "state": state, "after": after, "bytes": bytes_of_all,
            "end": whole(model), "continued": whole(other),
        }  # fmt: skip
    found["refused"] = refusals(model)
    with pytest.raises(ValueError, match=r"lies as .* must be shared out along dimension 1"):
        OnlineSubspaceDescent(low_rank_groups(fully_shard(llama(), mesh=mesh), rank=4))
    with pytest.raises(ValueError, match="has 87 columns, which 2 processes cannot share out evenly"):
        shard(llama(inner=87), mesh)
    model.lm_head.weight.grad.to_local().fill_(float("inf") if rank else 0.0)
    before = whole(model)
    with pytest.raises(FloatingPointError, match=r"the gradient of lm_head\.weight is not finite"):
        optimizer.step()
    found["moved"] = [float((a - b).abs().max()) for a, b in zip(before, whole(model))]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two processes found; and one, alone, whose states the two were given."""
    folder, alone = tmp_path_factory.mktemp("shards"), {}
    for name, make in METHODS.items():
        model = llama()
        optimizer = make(model)
        losses = train(model, optimizer, range(STEPS))
        quality, after = subspace_quality(optimizer), whole(model)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"{name}.pt")
        held = sum(v.numel() for s in optimizer.state.values() for k, v in s.items() if k.startswith("exp_avg"))
        state = torch.load(folder / f"{name}.pt", weights_only=True)["optimizer"]
        train(model, optimizer, range(STEPS, 2 * STEPS))
        alone[name] = {
            "losses": losses, "held": held, "quality": quality, "state": state, "after": after, "end": whole(model),
            "bytes": state_bytes(optimizer),
        }  # fmt: skip
    mp.spawn(_rank, (str(folder),), nprocs=2)
    one, other = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in METHODS:  # of what is in every process
        assert all(torch.equal(a, b) for a, b in zip(one[name]["end"], other[name]["end"]))
    one["other"] = other
    return alone, one


@pytest.mark.parametrize("name", list(METHODS))
def test_two_processes_make_the_steps_of_one(name: str, both: Any) -> None:
    alone, shared = both[0][name], both[1][name]
    means = [(a + b) / 2 for a, b in zip(shared["losses"], both[1]["other"][name]["losses"])]
    assert torch.allclose(torch.stack(means), torch.stack(alone["losses"]), rtol=1e-5)
    assert all(torch.allclose(a, b, atol=2e-4) for a, b in zip(shared["after"], alone["after"]))
    assert all(torch.allclose(a, b, atol=2e-3) for a, b in zip(shared["end"], alone["end"]))
    assert shared["quality"] == pytest.approx(alone["quality"], abs=1e-3)


@pytest.mark.parametrize("name", list(METHODS))
def test_each_process_holds_half_of_the_moments(name: str, both: Any) -> None:
    assert both[1][name]["held"] == both[0][name]["held"] / 2
    assert both[1][name]["bytes"] == both[0][name]["bytes"]  # what is reported is that of all
    assert not any(both[1]["other"][name]["state"]["state"].values())  # a state comes together in the first alone


@pytest.mark.parametrize("name", list(METHODS))
def test_a_state_is_whole_and_goes_on_in_another_number_of_processes(name: str, both: Any) -> None:
    alone, shared = both[0][name], both[1][name]
    for index, state in alone["state"]["state"].items():
        for key, value in state.items():
            other = shared["state"]["state"][index][key]
            assert torch.allclose(torch.as_tensor(other), torch.as_tensor(value), atol=1e-3, rtol=1e-3), (index, key)
    assert all(torch.allclose(a, b, atol=2e-3) for a, b in zip(shared["continued"], alone["end"]))
    # From two processes to one.
    model = llama()
    with torch.no_grad():
        for p, value in zip(model.parameters(), shared["after"]):
            p.copy_(value)
    optimizer = METHODS[name](model)
    optimizer.load_state_dict(shared["state"])
    train(model, optimizer, range(STEPS, 2 * STEPS))
    assert all(torch.allclose(a, b, atol=2e-3) for a, b in zip(model.parameters(), shared["end"]))


def test_what_needs_whole_matrices_says_so(both: Any) -> None:
    said = both[1]["refused"]
    for one, what in zip(said, ("Fira", "Apollo", "inner=adafactor"), strict=True):
        assert one.startswith(f"{what} needs whole matrices") and "\n" not in one


def test_a_gradient_that_is_not_finite_in_one_process_moves_nothing_in_any(both: Any) -> None:
    assert max(both[1]["moved"]) == max(both[1]["other"]["moved"]) == 0.0


def test_without_processes_nothing_is_shared_out(tmp_path: Path) -> None:
    model = llama()
    optimizer = METHODS["osd"](model)
    train(model, optimizer, range(1))
    assert (
        optimizer.state_dict()["state"][0]["exp_avg"]
        is optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg"]
    )
