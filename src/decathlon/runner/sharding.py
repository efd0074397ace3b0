"""Models whose parameters are shared out among processes by FSDP2 (``torch.distributed.fsdp.fully_shard``)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-true")  # those that Lightning has for it


class Sharded(ModelParallelStrategy):
    """For modules that shard themselves in ``configure_model``, over ``self.device_mesh["data_parallel"]``.

    A checkpoint is one file with whole tensors, as of a run in one process: it resumes on any number of them. They are
    brought together one after the other, in the first process's host memory, which must hold them all.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return tree_map(partial(_whole, keep=self.is_global_zero), optimizer.state_dict())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        assert self.lightning_module is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.lightning_module, checkpoint["state_dict"], options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"]):
            optimizer.load_state_dict(state if getattr(optimizer, "loads_whole", False) else _cut(state, optimizer))


def _whole(value: Any, keep: bool = True) -> Any:
    """A DTensor with all its parts, on the CPU, in the processes that ``keep`` it; every process must take part."""
    value = value.full_tensor() if hasattr(value, "full_tensor") else value
    return (value.cpu() if keep else None) if isinstance(value, torch.Tensor) else value


def _cut(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's state in which what has the shape of a sharded parameter is shared out as that is."""
    from torch.distributed.tensor import distribute_tensor

    ours = [p for group in optimizer.param_groups for p in group["params"]]

    def placed(value: Any, p: Any) -> Any:
        if not hasattr(p, "device_mesh") or not isinstance(value, torch.Tensor) or value.shape != p.shape:
            return value
        return distribute_tensor(value.to(p.device), p.device_mesh, p.placements)

    parts = {
        index: {name: placed(value, ours[index]) for name, value in one.items()}
        for index, one in state["state"].items()
    }
    return {**state, "state": parts}
