"""Two processes train one model: each sees half of a batch, both must select the same."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("ddp.py")
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"}  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("method", ["molpeg", "molpeg_rescored", "ucb"])
def test_both_ranks_select_the_same_from_all_scores(method: str, ranks: list[dict]) -> None:
    zero, one = ranks[0][method], ranks[1][method]
    assert zero["sampler"] == "EpochSampler"  # Lightning left it in its place
    for name, value in zero["pruner"].items():
        assert (
            torch.equal(value, one["pruner"][name]) if isinstance(value, torch.Tensor) else value == one["pruner"][name]
        )
    k = 24
    assert zero["samples"] == one["samples"] == 5 * k
    for epoch in range(5):
        mine, theirs = zero["trained"][epoch], one["trained"][epoch]
        assert len(mine) == len(theirs) == k // 2 and len(set(mine) | set(theirs)) == k
    if method != "molpeg_rescored":  # there no score is unknown after the first epoch
        seen = set().union(*(rank["trained"][epoch] for rank in (zero, one) for epoch in range(3)))
        assert seen == set(range(61))
    count = torch.bincount(torch.tensor([i for rank in (zero, one) for e in rank["trained"].values() for i in e]))
    assert torch.equal(zero["pruner"]["count"], count)
