"""Empirical risk minimisation: the mean loss, no masks."""

from decathlon.graphs.batches import FeatureBatch
from decathlon.tasks.dive.methods.base import Losses, Plain, Step


class Erm(Plain):
    """The mean of the samples' losses."""

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        return {"loss": self.losses(self.predict(batch)[0], batch.y).mean()}
