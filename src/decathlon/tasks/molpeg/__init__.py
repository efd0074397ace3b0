"""MolPeg (Chen et al., NeurIPS 2024): data pruning for fine-tuning. Needs torch only.

from decathlon.tasks.molpeg import MolPeg, Reference
pruner = MolPeg(len(train), prune=0.6, generator=torch.Generator().manual_seed(0))
for epoch in range(epochs):
    indices, weights = pruner.select()
    ...  # per batch: pruner.update(batch_indices, online_loss, reference_loss)
"""

from decathlon.pruning.reference import EMA, Reference
from decathlon.tasks.molpeg.molpeg import MolPeg

__all__ = ["EMA", "MolPeg", "Reference"]
