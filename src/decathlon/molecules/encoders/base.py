"""What every encoder offers."""

from typing import Any, ClassVar

from torch import Tensor, nn


class Encoder(nn.Module):
    """From a batch of B molecules to one vector each.

    Attributes:
        inputs: what it reads: ``graph``, ``fingerprint`` or ``geometry``.
        out_dim: length of a molecule's vector.
    """

    inputs: ClassVar[str]
    out_dim: int

    def embed(self, batch: Any) -> Tensor:
        """The continuous inputs of the network, to which a gradient can be taken: (B or N, D0)."""
        raise NotImplementedError

    def encode(self, embedded: Tensor, batch: Any) -> Tensor:
        """Molecule vectors (B, out_dim) from continuous inputs in the place of ``embed(batch)``."""
        raise NotImplementedError

    def forward(self, batch: Any) -> Tensor:
        """Molecule vectors (B, out_dim)."""
        return self.encode(self.embed(batch), batch)
