"""Graph rationalisation with environment-based augmentations (GREA; Liu et al., KDD 2022; reconstructed)."""

from torch import Tensor, nn

from decathlon.graphs.batches import FeatureBatch
from decathlon.graphs.stacked import Linear
from decathlon.tasks.dive.backbone import Backbone
from decathlon.tasks.dive.methods.base import Losses, Method, Step
from decathlon.tasks.dive.methods.subgraphs import check_share


class Grea(Method):
    """A mask of nodes splits the sum of node vectors into a rationale r and an environment e.

    Loss: that of r_i, plus the mean of those of r_i + e_j over all pairs of the batch, plus |mean(mask) - gamma|.

    Args:
        gamma: share of the nodes in the rationale.
    """

    def __init__(self, backbone: Backbone, regression: str = "l1", gamma: float = 0.4) -> None:
        super().__init__(backbone, regression)
        check_share("grea", "gamma", gamma)
        self.gamma = gamma
        self.rater, self.features = backbone.resized(layers=2).encoder(), backbone.encoder()
        self.rate = nn.Sequential(
            Linear(1, backbone.width, backbone.width), nn.ReLU(), Linear(1, backbone.width, 1), nn.Sigmoid()
        )
        self.head = Linear(1, backbone.width, backbone.spec.outputs)

    def _split(self, batch: FeatureBatch) -> tuple[Tensor, Tensor, Tensor]:
        copies = self.copies(batch)
        mask, nodes = self.rate(self.rater(batch, copies)), self.features(batch, copies)
        # Means instead of sums: with Motif's features, sums tell the size of the graph.
        return copies.mean_nodes(mask * nodes), copies.mean_nodes((1 - mask) * nodes), mask

    def loss(self, batch: FeatureBatch, step: Step) -> Losses:
        rationale, environment, mask = self._split(batch)
        own = self.losses(self.head(rationale)[0], batch.y).mean()
        pairs = self.head((rationale + environment.transpose(0, 1)).flatten(0, 1)[None])[0]  # (j, i)
        mixed = self.losses(pairs.unflatten(0, (len(batch), len(batch))), batch.y).mean()
        return {"loss": own + mixed + (mask.mean() - self.gamma).abs(), "mask": mask.mean()}

    def predict(self, batch: FeatureBatch) -> Tensor:
        return self.head(self._split(batch)[0])
