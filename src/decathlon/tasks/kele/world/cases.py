"""Edit requests in the synthetic world: a person moves to another country."""

from typing import Literal

import numpy as np

from decathlon.tasks.kele.cases import Case, Fact, Probe, Question
from decathlon.tasks.kele.edit import Edit
from decathlon.tasks.kele.world.facts import PERSON_TEMPLATES, World

People = Literal["composed", "held_out", "all"]


def world_cases(world: World, count: int | None, people: People = "composed", neighbours: int = 8) -> list[Case]:
    """``count`` people, each of whom becomes a citizen of another country, in an order given by the world's seed.

    The edit is on the first ``citizen`` wording and the others are its paraphrases; neighbours are other citizens of
    the old country; the employer, in every wording, is what should stay with the same subject; the questions are the
    16 two-hop sentences about the person's country.

    Args:
        count: None: all of them.
        people: those whose two-hop sentences the model was trained on, those held out, or all.
        neighbours: at most so many other citizens of the old country.

    Raises:
        ValueError: if the world has fewer such people.
    """
    groups = {"composed": world.composed, "held_out": world.held_out, "all": world.people}
    if people not in groups:
        raise ValueError(f"people={people} is none of {', '.join(groups)}")
    if count is not None and not 1 <= count <= len(groups[people]):
        raise ValueError(f"cases={count}: this world has {len(groups[people])} people to edit")
    random = np.random.default_rng([world.seed, 11])
    order = [groups[people][index] for index in random.permutation(len(groups[people]))]
    return [_case(world, person, neighbours, random) for person in order[:count]]


def _case(world: World, person: str, neighbours: int, random: np.random.Generator) -> Case:
    old = world.fact("citizen", person)
    new = str(random.choice([country for country in world.countries if country != old]))
    others = [other for other in world.people if other != person and world.fact("citizen", other) == old]
    picked = [others[index] for index in random.permutation(len(others))[:neighbours]]
    template, *wordings = PERSON_TEMPLATES["citizen"]
    before = list(world.consequences(person, "country", old))
    after = list(world.consequences(person, "country", new))
    return Case(
        person.replace(" ", "_"),
        (Edit(prompt=template, subject=person, old=old, new=new),),
        paraphrases=tuple(Probe(wording.format(person), old, new) for wording in wordings),
        neighbours=tuple(Probe(template.format(other), old, new) for other in picked),
        same_subject=tuple(
            Fact(wording.format(person), world.fact("employer", person)) for wording in PERSON_TEMPLATES["employer"]
        ),
        questions=tuple(Question(b.prompt, (a.answer,), (b.answer,)) for b, a in zip(before, after)),
        hops=2,
    )
