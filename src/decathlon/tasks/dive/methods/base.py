"""What a method has to offer to the training and the evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.stacked import Copies
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.losses import sample_losses


@dataclass(frozen=True)
class Step:
    """Where the training is: the ``epoch`` from 0, and its ``progress`` from 0 to 1 over all steps."""

    epoch: int
    progress: float


Losses = dict[str, Tensor]


class Method(nn.Module):
    """One way to train on graphs.

    Args:
        backbone: sizes and data. regression: ``l1`` or ``mse``.

    Attributes:
        members: how many predictors it trains; each is evaluated alone.
        needs_environments: whether it reads the environments of the training set.
        has_masks: whether it says which edges it uses.
    """

    members = 1
    needs_environments = False
    has_masks = False

    def __init__(self, backbone: Backbone, regression: str = "l1") -> None:
        super().__init__()
        self.backbone, self.task, self.regression = backbone, backbone.spec.task, regression

    def losses(self, predictions: Tensor, y: Tensor) -> Tensor:
        """Losses of the samples: (..., B, C) to (..., B)."""
        return sample_losses(predictions, y, self.task, self.regression)

    def copies(self, batch: FeatureBatch) -> Copies:
        """The batch's edges for all members."""
        return Copies(batch, self.members)

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        """``loss``, to be minimised, and other numbers worth a log."""
        raise NotImplementedError

    def predict(self, batch: FeatureBatch) -> Tensor:
        """Predictions in evaluation mode: (m, B, C)."""
        raise NotImplementedError

    def masks(self, batch: FeatureBatch) -> Tensor:
        """In evaluation mode how much of each edge is kept, from 0 to 1: (m, E). Only where ``has_masks``."""
        raise NotImplementedError

    def predict_with_masks(self, batch: FeatureBatch) -> tuple[Tensor, Tensor | None]:
        """Both at once."""
        return self.predict(batch), self.masks(batch) if self.has_masks else None

    def member_state(self, member: int) -> dict[str, Tensor]:
        """A copy of all weights and statistics of a member."""
        return {name: self._of(value, member).clone() for name, value in self.state_dict().items()}

    @torch.no_grad()
    def load_member(self, member: int, state: dict[str, Tensor]) -> None:
        """Put a ``member_state`` in place of a member's present one."""
        for name, value in self.state_dict().items():
            self._of(value, member).copy_(state[name])

    def _of(self, value: Tensor, member: int) -> Tensor:
        return value if self.members == 1 else value[member]


class Plain(Method):
    """A classifier without masks, whose loss subclasses extend."""

    def __init__(self, backbone: Backbone, regression: str = "l1") -> None:
        super().__init__(backbone, regression)
        self.net = backbone.classifier()

    def predict(self, batch: FeatureBatch) -> Tensor:
        return self.net(batch, self.copies(batch))
