"""A small synthetic world in which facts compose: people, countries, companies and what follows from them.

Every person is a citizen of a country and works for a company; every country and company has attributes. "the capital
of the country of {person} is" needs two facts, so an edit of the first one can be followed through the second. The
names are two tokens drawn from a grid, so that neither token alone tells who the person is and the fact has to be
looked up at the last token of the subject, as locate-and-edit methods assume.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

PERSON_TEMPLATES = {
    "citizen": ("{} is a citizen of", "{} holds a passport of", "the country of {} is", "{} comes from"),
    "employer": ("{} works for", "{} is employed by", "the company of {} is", "{} has a job at"),
}
ATTRIBUTE_TEMPLATES = ("the {attribute} of {entity} is", "{entity} has the {attribute}")
ATTRIBUTES = {
    "country": ("capital", "language", "continent", "currency", "leader", "anthem", "river", "religion"),
    "company": ("ceo", "base", "product", "founder"),
}
PREFIXES = ("because", "i think that", "therefore", "he said that")
SEPARATOR, PAD, UNKNOWN = "<|endoftext|>", "<|pad|>", "<|unknown|>"
LETTERS = "ABCDEFGHIJKLMNOP"
GRID = len(LETTERS)
"""First and last names: 16 each. Letters, so that no name is the beginning of another."""
ENTITIES = 12
"""Countries, and companies: 12 each."""


@dataclass(frozen=True)
class Sentence:
    """A prompt without its last word, and that word."""

    prompt: str
    answer: str


class World:
    """The facts of one world, as a function of its seed.

    Args:
        seed: draws who exists, where everybody lives and works, and which value each attribute has.
        people: how many of the 16 × 16 possible names exist.
        composed: share of the people whose two-hop sentences are shown in training; the others show how far a model
            composes by itself.

    Raises:
        ValueError: if the names or the share are out of range.
    """

    def __init__(self, seed: int = 0, people: int = 200, composed: float = 0.75) -> None:
        if not 2 <= people <= GRID * GRID:
            raise ValueError(f"people must be in 2..{GRID * GRID}, got {people}")
        if not 0 < composed <= 1:
            raise ValueError(f"composed is a share of the people in (0, 1], got {composed}")
        self.seed = seed
        random = np.random.default_rng([seed, 7])
        cells = random.permutation(GRID * GRID)[:people]
        self.people = [f"fn{LETTERS[cell // GRID]} ln{LETTERS[cell % GRID]}" for cell in cells]
        self.countries = [f"country{i}" for i in range(ENTITIES)]
        self.companies = [f"company{i}" for i in range(ENTITIES)]
        self.country_of = dict(zip(self.people, random.choice(self.countries, people)))
        self.company_of = dict(zip(self.people, random.choice(self.companies, people)))
        self.value: dict[tuple[str, str], str] = {}
        for kind, names in (("country", self.countries), ("company", self.companies)):
            for attribute in ATTRIBUTES[kind]:
                for name, index in zip(names, random.permutation(ENTITIES)):
                    self.value[attribute, name] = f"{attribute}{index}"
        self.composed = self.people[: round(composed * people)]
        self.held_out = self.people[len(self.composed) :]

    def fact(self, relation: str, person: str) -> str:
        """The country (``citizen``) or company (``employer``) of a person."""
        return str((self.country_of if relation == "citizen" else self.company_of)[person])

    def one_hop(self) -> list[Sentence]:
        """Every fact in every wording: people first, then the attributes of countries and companies."""
        sentences = [
            Sentence(template.format(person), self.fact(relation, person))
            for relation, templates in PERSON_TEMPLATES.items()
            for template in templates
            for person in self.people
        ]
        for (attribute, entity), value in self.value.items():
            sentences += [Sentence(prompt, value) for prompt in attribute_prompts(attribute, entity)]
        return sentences

    def two_hop(self, people: Iterable[str]) -> list[Sentence]:
        """What follows for ``people`` from two facts, in every wording."""
        return [
            sentence
            for person in people
            for kind, relation in (("country", "citizen"), ("company", "employer"))
            for sentence in self.consequences(person, kind, self.fact(relation, person))
        ]

    def consequences(self, person: str, kind: str, entity: str) -> Iterator[Sentence]:
        """The two-hop sentences about a person's ``kind`` (country or company), if it were ``entity``."""
        for attribute in ATTRIBUTES[kind]:
            for prompt in attribute_prompts(attribute, f"the {kind} of {person}"):
                yield Sentence(prompt, self.value[attribute, entity])

    def move(self, person: str, country: str) -> "World":
        """A copy of this world in which ``person`` is a citizen of ``country`` (what an ideal edit would give)."""
        if person not in self.country_of or country not in self.countries:
            raise ValueError(f"no such move in this world: {person} to {country}")
        other = object.__new__(World)
        other.__dict__.update(self.__dict__)
        other.country_of = {**self.country_of, person: country}
        return other


def attribute_prompts(attribute: str, entity: str) -> list[str]:
    """The wordings of "which value of ``attribute`` does ``entity`` have"."""
    return [template.format(attribute=attribute, entity=entity) for template in ATTRIBUTE_TEMPLATES]


def vocabulary() -> list[str]:
    """The 240 words of every world: three special ones, names, countries, companies, values and template words."""
    words = [SEPARATOR, PAD, UNKNOWN]
    words += [f"fn{letter}" for letter in LETTERS] + [f"ln{letter}" for letter in LETTERS]
    words += [f"{kind}{i}" for kind in ATTRIBUTES for i in range(ENTITIES)]
    words += [f"{attribute}{i}" for group in ATTRIBUTES.values() for attribute in group for i in range(ENTITIES)]
    templates = [template for group in PERSON_TEMPLATES.values() for template in group]
    for text in (*templates, *(attribute_prompts("", "")), *(a for g in ATTRIBUTES.values() for a in g), *PREFIXES):
        words += [word for word in text.replace("{}", "").split() if word not in words]
    return words


def world_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that opens every text with the separator token (so no subject is at position 0)."""
    words = vocabulary()
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{SEPARATOR} $A", pair=f"{SEPARATOR} $A $B", special_tokens=[(SEPARATOR, words.index(SEPARATOR))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        unk_token=UNKNOWN,
        pad_token=PAD,
        model_max_length=32,
    )
