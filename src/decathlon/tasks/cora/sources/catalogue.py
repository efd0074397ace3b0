"""A generated catalogue: films whose titles tell part of what people like in them, and people who tell the rest.

A film has a genre and a tone, which its title's words show, a style and a quality of its own, which no text shows. A
person has favourite genres, a taste in styles and a strictness. The chance of a like is

    sigmoid(genre_weight * liking(person, genre) + tone_weight * tone(title) + style_weight * <taste, style> / sqrt(2)
            + quality + strictness).

People come and go and films are released over time, so the last rows have people and films that training has not: there
only the text helps, and where they are known the style can be learnt from who liked what. Labels are drawn, once per
row, and nothing of them is in a title or in an id.
"""

from pathlib import Path

import numpy as np
import torch

from decathlon.randomness import numpy_generator
from decathlon.tasks.cora.log import Log

GENRES: dict[str, tuple[str, str]] = {
    "crime": (
        "Stolen Crooked Guilty Hidden Wanted Forged Silent Bitter",
        "Ledger Alibi Heist Witness Verdict Informer Vault Ransom",
    ),
    "space": (
        "Orbital Lunar Distant Stellar Weightless Frozen Radiant Lost",
        "Comet Station Nebula Signal Colony Airlock Meteor Voyage",
    ),
    "romance": (
        "Tender Summer Secret Velvet Gentle Foolish Faithful Sweet",
        "Letters Wedding Kiss Promise Heart Engagement Bouquet Farewell",
    ),
    "war": (
        "Burning Fallen Iron Desperate Captured Brave Muddy Final",
        "Trench Battalion Armistice Sniper Convoy Siege Regiment Bunker",
    ),
    "nature": (
        "Wild Ancient Green Hungry Drifting Deep Northern Quiet",
        "River Wolves Glacier Forest Migration Reef Tundra Canyon",
    ),
    "music": (
        "Broken Electric Golden Midnight Loud Wandering Rising Blue",
        "Chorus Guitar Encore Orchestra Ballad Rhythm Quartet Melody",
    ),
}
LOVED, OTHER, SPREAD = 1.0, -0.6, 0.3  # liking of two favourite genres, of the others, and how much it varies


def titles_of(genre: str) -> list[str]:
    """All titles of a genre: an adjective and a noun of its own."""
    adjectives, nouns = (words.split() for words in GENRES[genre])
    return [f"{adjective} {noun}" for adjective in adjectives for noun in nouns]


def tone(title: str) -> float:
    """How people take a title's words: a sum over its words of what each word has in the language, about N(0, 1)."""
    return float(sum(numpy_generator("cora tone", word).normal() for word in title.split()) / np.sqrt(2))


def likings(count: int, random: np.random.Generator) -> np.ndarray:
    """How much each person likes each genre, (count, genres)."""
    found = OTHER + SPREAD * random.normal(size=(count, len(GENRES)))
    for person in range(count):
        loved = random.choice(len(GENRES), 2, replace=False)
        found[person, loved] += LOVED - OTHER
    return found


def catalogue(
    root: Path | None = None, seed: int = 0, people: int = 900, films: int = 240, rows: int = 30,
    genre_weight: float = 0.8, tone_weight: float = 0.8, style_weight: float = 0.8, quality: float = 0.8,
    strictness: float = 0.9, active: float = 0.5, valid: float = 0.1, test: float = 0.1,
) -> Log:  # fmt: skip
    """Draw a log.

    Args:
        people, films: how many. rows: of each person on average.
        genre_weight, tone_weight, style_weight: of the parts of the score. quality, strictness: standard deviations.
        active: how long each person is there, as a share of all time.
        valid, test: shares of the rows, the last in time.

    Raises:
        ValueError: one line, for more films than there are titles, or too few people.
    """
    names = [title for genre in GENRES for title in titles_of(genre)]
    if not len(GENRES) <= films <= len(names) or people < 2 or rows < 1:
        raise ValueError(f"films={films} must be from {len(GENRES)} to {len(names)}, people at least 2, rows 1")
    random = numpy_generator("cora catalogue", seed)
    chosen = random.permutation(len(names))[:films]
    genre = chosen // len(titles_of("crime"))
    style, good = random.normal(size=(films, 2)), quality * random.normal(size=films)
    released = random.uniform(-0.6, 0.95, size=films)
    popular = random.normal(size=films) * 0.7
    liking, taste = likings(people, random), random.normal(size=(people, 2))
    strict = strictness * random.normal(size=people)
    shown = tone_weight * np.array([tone(names[index]) for index in chosen])
    score = genre_weight * liking[:, genre] + style_weight * taste @ style.T / np.sqrt(2) + shown + good
    score += strict[:, None]
    arrival = random.uniform(-active / 2, 1 - active / 4, size=people)
    found: list[tuple[float, int, int, int]] = []
    for person in range(people):
        times = arrival[person] + active * random.random(1 + random.poisson(rows - 1))
        # People are shown what is popular, and more of the genres that they like; a film once.
        odds = np.exp(popular + 0.5 * liking[person, genre])
        for time in np.sort(times[(times >= 0) & (times < 1)]):
            total = np.cumsum(np.where(released <= time, odds, 0.0))
            if total[-1] <= 0:
                continue
            film = int(np.searchsorted(total, random.random() * total[-1], side="right"))
            odds[film] = 0.0
            like = random.random() < 1 / (1 + np.exp(-score[person, film]))
            found.append((float(time), person, film, int(like)))
    found.sort()
    table = np.array(found)
    part = np.zeros(len(table), dtype=np.int64)
    part[round((1 - valid - test) * len(table)) :] = 1
    part[round((1 - test) * len(table)) :] = 2
    users, items, labels = (torch.from_numpy(table[:, column].astype(np.int64)) for column in (1, 2, 3))
    return Log(
        users, items, labels, torch.from_numpy(table[:, 0].copy()), torch.from_numpy(part), people, films,
        [names[index] for index in chosen], report={"rows": len(table)},
    )  # fmt: skip
