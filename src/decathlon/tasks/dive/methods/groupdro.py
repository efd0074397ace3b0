"""Group distributionally robust optimisation (Sagawa et al., ICLR 2020), as the benchmark has it."""

from decathlon.graphs.batches import FeatureBatch
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Plain, Step
from decathlon.tasks.dive.methods.environments import environment_means


class GroupDro(Plain):
    """sum_e q_e L_e, q = softmax(eta L_e) of the batch's environments, without a moving average.

    Args:
        eta: how much the worst environments count; 0.001, 0.01 and 0.1 were searched by the benchmark.
    """

    needs_environments = True

    def __init__(self, backbone: Backbone, regression: str = "l1", eta: float = 0.01) -> None:
        super().__init__(backbone, regression)
        self.eta = eta

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        means = environment_means(self.losses(self.predict(batch)[0], batch.y), batch)
        weights = (self.eta * means.detach()).softmax(0)
        return {"loss": (weights * means).sum(), "worst": means.max()}
