"""Markets that several tests use."""

import torch

from decathlon.tasks.jregnet import JointAuction, Prior, Uniform, graphs
from decathlon.tasks.jregnet.market import Market

B_EDGES = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 1)]
D_EDGES = [(0, 0), (0, 2), (0, 3), (1, 1), (1, 3), (1, 4), (2, 0), (2, 4)]
S1 = JointAuction(2, 2, [(0, 0), (1, 1)], [1.0, 0.5])


def uniform(auction: JointAuction) -> Prior:
    return Uniform(auction.bidders)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_auction(seed: int, slots: int, size: int = 3, bundles: int = 4) -> JointAuction:
    """A random graph between ``size`` stores and brands, with random click rates."""
    generator = stream(seed)
    rates = torch.rand(slots, generator=generator, dtype=torch.float64).mul(0.9).add(0.05).sort(descending=True).values
    return JointAuction(size, size, graphs.random(size, size, bundles, generator), rates)


def s1_market(**options: object) -> Market:
    return Market({"stores": 2, "brands": 2, "graph": "disjoint"}, 0, [1.0, 0.5], **options)  # type: ignore[arg-type]
