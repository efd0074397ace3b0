"""The embedded dataset: users and items of a generated catalogue, seen through two modalities of unequal quality.

Items have ``taste`` factors in overlapping genres, and ``hidden`` factors that no feature shows. A user likes a few
genres. The utility of an item to a user is the inner product of their factors, plus the item's popularity; a user takes
items without replacement with probability proportional to exp(utility) (a Gumbel race). A modality is a random
two-layer network of *some* of the taste factors, with noise: ``text`` sees more of them and is cleaner than ``image``.
Some factors are seen by one modality only, so that each can add to the other.

Nothing here says how a model learns: which modality is neglected in training, if any, is left to the training.
"""

import torch
from torch import Tensor

from decathlon.randomness import generator
from decathlon.recommendation.interactions import Interactions
from decathlon.tasks.ckd.catalogue import Catalogue


class Generated:
    """A generated catalogue.

    Args:
        users, items: how many. mean_items: interactions of a user on average, at least 5 each.
        taste, hidden: number of factors that features show in part, and that they do not show.
        genres: how many groups of items there are.
        strength, hidden_strength, popularity: how far utilities depend on taste, hidden factors and popularity.
        text_noise, image_noise: standard deviation of the noise beside features of variance 1.
        seed: of the catalogue. It is a dataset: all jobs have the same.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self, users: int = 1200, items: int = 1000, mean_items: float = 10.0, taste: int = 12, hidden: int = 4,
        genres: int = 20, strength: float = 1.6, hidden_strength: float = 0.5, popularity: float = 0.8,
        text_noise: float = 0.7, image_noise: float = 1.5, seed: int = 0,
    ) -> None:  # fmt: skip
        if users < 10 or items < 50 or taste < 4 or genres < 2:
            raise ValueError("at least 10 users, 50 items, 4 factors of taste and 2 genres are needed")
        if not 5 <= mean_items <= items / 4:
            raise ValueError(f"mean_items={mean_items} must be at least 5 and at most a quarter of the {items} items")
        self.users, self.items, self.mean_items = users, items, mean_items
        self.taste, self.hidden, self.genres = taste, hidden, genres
        self.strength, self.hidden_strength, self.popularity = strength, hidden_strength, popularity
        self.noise = {"text": text_noise, "image": image_noise}
        self.seed = seed

    def read(self, root: object) -> Catalogue:
        """Generate it; nothing is read."""
        taken, features = self.draw()
        user, item = taken.nonzero().T.contiguous()
        return Catalogue(Interactions(user, item, self.users, self.items), features)

    def draw(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Who takes what (users, items) bool, and the features of the items."""
        random = generator("catalogue", self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random)

        centre = normal(self.genres, self.taste)
        genre = torch.randint(self.genres, (self.items,), generator=random)
        item = (centre[genre] + 0.7 * normal(self.items, self.taste)) / 1.49**0.5
        liked = torch.rand(self.users, self.genres, generator=random).topk(3, dim=1).indices
        share = torch.rand(self.users, 3, generator=random)
        user = (share[..., None] * centre[liked]).sum(1) + 0.3 * normal(self.users, self.taste)
        user = torch.nn.functional.normalize(user) * self.taste**0.5
        utility = self.strength * user @ item.T / self.taste**0.5
        hidden = normal(self.users, self.hidden) @ normal(self.items, self.hidden).T
        utility += self.hidden_strength * hidden / max(1, self.hidden) ** 0.5 + self.popularity * normal(self.items)
        gumbel = -torch.empty(self.users, self.items).exponential_(generator=random).log()
        # Counts of at least 5: five, and a geometric number with the mean that is left.
        more = torch.empty(self.users).exponential_(generator=random) * (self.mean_items - 5)
        count = (5 + more.round()).clamp(max=self.items // 2).long()
        rank = (utility + gumbel).argsort(1, descending=True).argsort(1)
        taken = rank < count[:, None]
        seen = {"text": slice(0, max(1, (3 * self.taste) // 4)), "image": slice(self.taste // 2, self.taste)}
        features = {}
        for name, width in (("text", 96), ("image", 64)):
            shown = item[:, seen[name]]
            inner = torch.tanh(shown @ normal(shown.shape[1], 4 * width) / shown.shape[1] ** 0.5)
            values = inner @ normal(4 * width, width)
            values = (values - values.mean(0)) / values.std(0)
            features[name] = values + self.noise[name] * normal(self.items, width)
        return taken, features
