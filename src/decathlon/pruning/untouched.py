"""Asking a model something in the middle of its training, without a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from decathlon.randomness import seeded


@contextmanager
def untouched(module: nn.Module, *key: object, evaluating: bool = False) -> Iterator[None]:
    """Run ``module`` without gradients; afterwards it and the world are as they were before.

    The running statistics of BatchNorm and all other buffers, the modes (training or evaluation) of every submodule and
    the global random generators are put back. Meanwhile those draw the stream of ``key``.

    Args:
        evaluating: run all of it in evaluation mode; otherwise in the modes that it has.
    """
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    modes = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    try:
        if evaluating:
            module.eval()
        with torch.no_grad(), seeded(*key, device=device):
            yield
    finally:
        for part, training in modes:
            part.training = training
        with torch.no_grad():
            for part, name, buffer, before in buffers:
                part._buffers[name] = buffer.copy_(before)  # a module may have put another tensor in its place
