"""Weights that are shared out among processes (FSDP2), each along the side that a projection leaves alone.

A projection works on the short side of a matrix, so with the columns of (n, m), n <= m, shared out, ``R = P' G``, the
inner rule and ``W <- W - lr P U`` need nothing of other processes: moments are shared out too. P is the same in all.
What is left is a sum over the processes of an (n, k) matrix in the gradient of online PCA, and the whole gradient where
a subspace is found from it.
"""

from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(p: Any) -> bool:
    """Whether this is a DTensor: a part of it is in this process."""
    return hasattr(p, "device_mesh")


def side(shape: Any) -> int:
    """The dimension along which a weight of this shape is to be shared out: the long one of a matrix."""
    return 1 if len(shape) == 2 and shape[0] < shape[1] else 0


def shard(model: nn.Module, mesh: Any) -> nn.Module:
    """Share the weights of a decoder of transformers out over the processes of a mesh, in place: FSDP2, block by block.

    Args:
        model: with ``model.model.layers`` (LLaMA and its like), or any module, then as one block.
        mesh: one-dimensional, as of ``torch.distributed.device_mesh.init_device_mesh("cuda", (8,))``.

    Raises:
        ValueError: one line, for a matrix whose columns cannot be shared out evenly.
    """
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    for name, p in model.named_parameters():
        if side(p.shape) == 1 and p.shape[1] % mesh.size():
            raise ValueError(f"{name} has {p.shape[1]} columns, which {mesh.size()} processes cannot share out evenly")

    def placement(p: nn.Parameter) -> Any:
        return Shard(side(p.shape))

    for block in getattr(getattr(model, "model", None), "layers", []):
        fully_shard(block, mesh=mesh, shard_placement_fn=placement)
    fully_shard(model, mesh=mesh, shard_placement_fn=placement)
    return model


def check_placement(p: Any, name: str) -> None:
    """Raises ValueError, in one line, for a sharded parameter that does not lie as ``shard`` lays it."""
    placements = p.placements
    if len(placements) != 1 or not placements[0].is_shard(side(p.shape)):
        raise ValueError(
            f"{name} of shape {tuple(p.shape)} lies as {placements}, and must be shared out along dimension "
            f"{side(p.shape)} of one mesh: use decathlon.tasks.osd.shard"
        )


def local(value: Tensor) -> Tensor:
    """This process's part; of a tensor that is not sharded, itself."""
    return value.to_local() if is_sharded(value) else value  # type: ignore[attr-defined]


def whole(value: Tensor) -> Tensor:
    """All of it, from all processes."""
    return value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]


def summed(value: Tensor, p: Any) -> Tensor:
    """The sum of a ``value`` of each process over those that share ``p``, in place; itself where none do."""
    if is_sharded(p):
        torch.distributed.all_reduce(value, group=p.device_mesh.get_group())
    return value


def gathered(state: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """A parameter's state with whole tensors, on the CPU of the first process that shares it; empty in the others.

    Every process must take part. Moments are shared out as their weight is, all else is in every process.
    """
    if not is_sharded(p):
        return state
    from torch.distributed.tensor import DTensor, Shard

    found: dict[str, Any] = {}
    for name, value in state.items():
        if name in _cut(state):
            shape, dimension = _moments(state, p)
            stride = torch.empty(shape, device="meta").stride()
            part = DTensor.from_local(value, p.device_mesh, [Shard(dimension)], shape=shape, stride=stride)  # type: ignore[attr-defined]
            value = whole(part)
        if p.device_mesh.get_local_rank() == 0:  # type: ignore[attr-defined]
            found[name] = value.cpu() if isinstance(value, Tensor) else value
    return found


def cut(state: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """This process's part of a state with whole tensors: the inverse of ``gathered``."""
    if not is_sharded(p):
        return state
    found, mesh = dict(state), p.device_mesh  # type: ignore[attr-defined]
    for name in _cut(state):
        _, dimension = _moments(state, p)
        parts = found[name].chunk(mesh.size(), dim=dimension)
        mine = mesh.get_local_rank()
        found[name] = parts[mine] if mine < len(parts) else found[name].narrow(dimension, 0, 0)
    return found


def _cut(state: dict[str, Any]) -> list[str]:
    return [name for name in state if name.startswith("exp_avg")]


def _moments(state: dict[str, Any], p: Tensor) -> tuple[torch.Size, int]:
    """The shape of a parameter's moments in all processes together, and the dimension that is shared out."""
    if "projection" in state:
        return torch.Size((state["projection"].shape[1], max(p.shape))), 1
    return p.shape, side(p.shape)


def whole_bytes(state: dict[str, Any], p: Tensor) -> int:
    """Bytes of a sharded parameter's state in all processes together, of what is in every process once."""
    moments = _cut(state)
    size = sum(v.numel() * v.element_size() for k, v in state.items() if isinstance(v, Tensor) and k not in moments)
    return size + sum(_moments(state, p)[0].numel() * state[name].element_size() for name in moments)
