"""A frozen decoder whose blocks are shared out among processes (FSDP2)."""

from typing import Any

from decathlon.language.decoder import decoder_of


def shard_blocks(model: Any, mesh: Any) -> None:
    """Share the weights of a decoder's blocks out over the processes of a mesh, in place.

    A block's weights are brought together when it is run, so all processes must run it equally often. Embeddings, last
    norm and output head, which are also read on their own, stay whole in every process.

    Args:
        mesh: one-dimensional, of ``torch.distributed``.

    Raises:
        ValueError: for an unsupported model.
    """
    from torch.distributed.fsdp import fully_shard

    decoder = decoder_of(model)
    for layer in range(decoder.layers):
        # Every block is a root of its own, and a root's weights stay together after its forward pass unless told.
        fully_shard(decoder.module("block", layer), mesh=mesh, reshard_after_forward=True)
