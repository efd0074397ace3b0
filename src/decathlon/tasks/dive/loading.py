"""The deployed member of a finished job, without the runner."""

from pathlib import Path

import torch
from torch import Tensor, nn

from decathlon.build import build
from decathlon.errors import DataError
from decathlon.graphs.batches import FeatureBatch
from decathlon.storage import load_state
from decathlon.tasks.dive.backbone import Backbone, Spec


class Deployed(nn.Module):
    """One member, in evaluation mode.

    Args:
        state: what a job wrote to ``model.pt``.

    Attributes:
        spec: what the graphs must have. metric: what it was measured by. member: its number among those trained.
    """

    def __init__(self, state: dict) -> None:
        super().__init__()
        self.spec, self.metric, self.member = Spec(**state["spec"]), state["metric"], state["member"]
        with torch.random.fork_rng():
            backbone = Backbone(self.spec, **state["network"])
            self.method = build(state["method"], backbone, regression=state["regression"])
        self.method.load_state_dict(state["state"])
        self.eval()

    @torch.no_grad()
    def forward(self, batch: FeatureBatch) -> Tensor:
        """Predictions (B, C): logits, or the values of a regression."""
        return self.method.predict(batch)[self.member]

    @torch.no_grad()
    def masks(self, batch: FeatureBatch) -> Tensor:
        """How likely each edge is kept: (E,), in the order of ``batch.edge_index``."""
        if not self.method.has_masks:
            raise ValueError("this method has no masks")
        return self.method.masks(batch)[self.member]


def load(path: str | Path) -> Deployed:
    """The network in ``model.pt`` of a job's folder.

    Raises:
        DataError: it is no such file.
    """
    state = load_state(path)
    try:
        return Deployed(state)
    except (KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{path} does not fit this version ({str(error).splitlines()[0]})") from error
