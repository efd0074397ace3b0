"""Private streams of random numbers, each named by a key.

A result is reproducible, and a killed run goes on to the same bits, when what is drawn depends on what it is for
(a seed, an epoch, a step, a scenario) and on nothing that was drawn before. So a stream has a key instead of a state.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(*key: object) -> int:
    """A whole number below 2^56 from a key of strings, numbers, tuples and None; equal on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator of its own for a key, for example ``generator("order", seed, epoch)``."""
    return torch.Generator(device).manual_seed(seed_of(*key))


def numpy_generator(*key: object) -> np.random.Generator:
    """A NumPy generator of its own for a key."""
    return np.random.default_rng(seed_of(*key))


@contextmanager
def seeded(*key: object, device: torch.device | str | None = None) -> Iterator[None]:
    """Let torch's global generators (the CPU's and all CUDA devices') draw the stream of a key; restored afterwards.

    For code that takes no generator: weights of new layers, dropout.

    Args:
        device: the only one whose generator is used meanwhile, beside the CPU's. For what is done at every step: it
            touches no device of another process, and takes microseconds.
    """
    if device is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(*key))
            yield
        return
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed_of(*key))
        for one in cuda:
            torch.cuda.default_generators[one.index or 0].manual_seed(seed_of(*key))
        yield
