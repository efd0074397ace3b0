"""Batch normalisation that also takes a single row."""

from torch import Tensor, nn


class BatchNorm(nn.BatchNorm1d):
    """``BatchNorm1d`` that uses its running statistics for a training batch of one row, which has no variance."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)
