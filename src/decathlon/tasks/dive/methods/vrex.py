"""Risk extrapolation, the variance form (Krueger et al., ICML 2021)."""

from decathlon.graphs.batches import FeatureBatch
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Plain, Step
from decathlon.tasks.dive.methods.environments import environment_means


class Vrex(Plain):
    """The mean loss, plus ``penalty`` times the variance of the environments' mean losses.

    Args:
        penalty: 1, 10, 100 and 1000 were searched by the benchmark.
    """

    needs_environments = True

    def __init__(self, backbone: Backbone, regression: str = "l1", penalty: float = 10.0) -> None:
        super().__init__(backbone, regression)
        self.penalty = penalty

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        losses = self.losses(self.predict(batch)[0], batch.y)
        penalty = environment_means(losses, batch).var(unbiased=False)
        return {"loss": losses.mean() + self.penalty * penalty, "penalty": penalty}
