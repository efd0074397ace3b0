"""An MLP on fingerprints: the encoder for laptops and tests."""

from collections.abc import Sequence

from torch import Tensor, nn

from decathlon.graphs.dropout import Dropout
from decathlon.graphs.norm import BatchNorm
from decathlon.molecules.batches import FingerprintBatch
from decathlon.molecules.encoders.base import Encoder


class FingerprintMlp(Encoder):
    """Morgan bits -> [Linear, BN, ReLU, Dropout] per hidden width.

    Args:
        bits: length of the fingerprint. widths: of the hidden layers. dropout: after each.
    """

    inputs = "fingerprint"

    def __init__(self, bits: int = 1024, widths: Sequence[int] = (128, 128), dropout: float = 0.3) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or not 0 <= dropout < 1:
            raise ValueError(f"fp_mlp needs widths >= 1 and 0 <= dropout < 1; got {list(widths)}, {dropout}")
        layers: list[nn.Module] = []
        for before, after in zip([bits, *widths], widths):
            layers += [nn.Linear(before, after), BatchNorm(after), nn.ReLU(), Dropout(dropout)]
        self.mlp = nn.Sequential(*layers)
        self.out_dim = widths[-1]

    def embed(self, batch: FingerprintBatch) -> Tensor:
        """Continuous inputs: the bits themselves, (B, bits)."""
        return batch.fingerprints

    def encode(self, embedded: Tensor, batch: FingerprintBatch) -> Tensor:
        """Molecule vectors (B, D) from continuous inputs."""
        return self.mlp(embedded)
