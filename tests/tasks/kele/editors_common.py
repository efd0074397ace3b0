"""Tiny random models, a small vocabulary and a few requests, shared by the tests of the editors."""

from decathlon.language import tiny_model, word_tokenizer
from decathlon.tasks.kele import Edit

_FACTS = "Paris France Italy Rome is the capital of a Berlin Germany Spain because therefore we think"
WORDS = [*_FACTS.split(), *["that", "located", "in", "Europe", "Old", "Town", "city", "has", "river", "and", "country"]]
EDITS = [
    Edit("{} is the capital of", "Paris", "France", "Italy"),
    Edit("the capital is {} in", "Old Town", "Germany", "France Italy"),
    Edit("the country that has the city {}", "Rome", "Italy", "Spain"),
    Edit("we think that {} is located in the country", "Berlin", "Germany Europe", "Germany Italy"),
]
CORPUS = [" ".join(WORDS[(i * (s + 1)) % len(WORDS)] for i in range(3 + s % 11)) for s in range(80)]
# Small random models have small values: no penalty, so that edits get somewhere.
FAST = {
    "corpus": CORPUS,
    "contexts": ["because", "therefore we think"],
    "lr": 0.1,
    "steps": 12,
    "omega": 0.0,
    "clamp": 50.0,
}


def tokenizer():
    return word_tokenizer(WORDS)


def model(family, dtype="float64", **options):
    made = tiny_model(family, len(WORDS) + 2, **options)
    return made.double() if dtype == "float64" else made
