"""Encoder and linear head, built alike for training and for the scratch copies that static methods score with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from decathlon.molecules.encoders import make_encoder


class Predictor(nn.Module):
    """A molecular encoder with a linear head of ``tasks`` outputs.

    Args:
        model: name of the encoder, or a mapping of ``name`` and options.
        spec: what the data offers, for ``make_encoder``.
        tasks: number of outputs T.
        pretrained: weights of the encoder; random ones if None.
        seed: of the fresh weights; the global generator is left as it was.
    """

    def __init__(
        self,
        model: str | Mapping[str, Any],
        spec: Mapping[str, Any],
        tasks: int,
        pretrained: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = make_encoder(model, spec)
            self.head = nn.Linear(int(self.encoder.out_dim), tasks)
        if pretrained is not None:
            self.encoder.load_state_dict(pretrained)

    def forward(self, batch: Any) -> Tensor:
        """Logits, or standardised predictions: (B, T)."""
        return self.head(self.encoder(batch))
