"""What every method is, and the plain one: the ranking loss of the model with all modalities, or with one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from decathlon.errors import ConfigError
from decathlon.recommendation.interactions import ItemLists
from decathlon.tasks.ckd.backbones.base import Backbone, Vectors
from decathlon.tasks.ckd.training import Step, Teachers

if TYPE_CHECKING:
    from decathlon.tasks.ckd.training import Training

Logs = dict[str, Tensor]


class Method:
    """The ranking loss and the regulariser, of all modalities (joint) or with a single one factual (uni-modal).

    Args:
        only: the modality that stays factual in training and in evaluation, by name or by position; None: all.

    Attributes:
        teachers: which teachers the method needs: ``uni``, ``joint``, ``random``, or None.
        trains: whether there is anything to train.
        least: how many modalities it needs.
    """

    teachers: str | None = None
    trains = True
    least = 0

    def __init__(self, only: str | int | None = None) -> None:
        self.only = only

    def keep(self, backbone: Backbone) -> tuple[str, ...] | None:
        """Which modalities are factual in the prediction; None: all.

        Raises:
            ConfigError: ``only`` is no modality of the backbone.
        """
        if self.only is None:
            return None
        names = backbone.modalities
        if isinstance(self.only, int) and 0 <= self.only < len(names):
            return (names[self.only],)
        if self.only not in names:
            raise ConfigError(f"only={self.only} is no modality; choose {', '.join(names) or 'another backbone'}")
        return (str(self.only),)

    def parameter_groups(self, backbone: Backbone, lr: float) -> list[dict[str, Any]]:
        """Groups of parameters for the optimiser."""
        return [{"params": [p for p in backbone.parameters() if p.requires_grad]}]

    def begin_epoch(self, epoch: int, training: "Training") -> None:
        """What is done before the first step of an epoch."""

    def loss(self, step: Step) -> tuple[Tensor, Logs]:
        """The loss of a step, and what may be logged."""
        loss = step.base_loss(self.keep(step.backbone))
        return loss, {"loss": loss.detach()}

    def backward(self, step: Step, backward: Callable[[Tensor], Any]) -> Logs:
        """Fill in the gradients of a step."""
        loss, logs = self.loss(step)
        backward(loss)
        return logs

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers that a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put a state of :meth:`state_dict` back."""


class Untrained(Method):
    """A prediction that needs no training of its own."""

    trains = False

    def __init__(self) -> None:
        super().__init__()

    def views(self, train: ItemLists, teachers: Teachers) -> dict[str, Vectors]:
        """What is ranked: ``""``, the prediction itself, and others by ``/<name>``."""
        raise NotImplementedError


class Ensemble(Untrained):
    """The sum of the scores of all uni-modal teachers; each by itself is shown beside it."""

    teachers = "uni"
    least = 1

    def views(self, train: ItemLists, teachers: Teachers) -> dict[str, Vectors]:
        users, items = zip(*teachers.values())
        whole = torch.cat(users, 1), torch.cat(items, 1)
        return {"": whole, **{f"/{name}": vectors for name, vectors in teachers.items()}}


class Popularity(Untrained):
    """The same for everybody: the items with most training interactions."""

    def views(self, train: ItemLists, teachers: Teachers) -> dict[str, Vectors]:
        counts = torch.bincount(train.item, minlength=train.items).float()
        return {"": (torch.ones(train.users, 1), counts[:, None])}
