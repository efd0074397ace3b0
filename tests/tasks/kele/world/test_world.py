"""The synthetic world: its counts, its facts, its tokenizer, its requests."""

from collections import Counter

import pytest

from decathlon.tasks.kele.world.cases import world_cases
from decathlon.tasks.kele.world.facts import ENTITIES, PERSON_TEMPLATES, PREFIXES, World, vocabulary, world_tokenizer


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=3)


def test_counts_of_the_world(world: World) -> None:
    assert len(vocabulary()) == len(set(vocabulary())) == 240
    assert len(set(world.people)) == 200
    assert len(world.one_hop()) == 1888
    assert len(world.two_hop(world.composed)) == 3600
    assert len(world.composed) == 150 and set(world.composed) | set(world.held_out) == set(world.people)


def test_every_attribute_is_a_bijection(world: World) -> None:
    by_attribute = Counter(attribute for attribute, _ in world.value)
    assert len(by_attribute) == 12 and set(by_attribute.values()) == {ENTITIES}
    assert len(set(world.value.values())) == 12 * ENTITIES  # every value names its attribute and entity


def test_neither_token_of_a_name_tells_the_country(world: World) -> None:
    for half in (0, 1):
        countries: dict[str, set[str]] = {}
        for person in world.people:
            countries.setdefault(person.split()[half], set()).add(world.fact("citizen", person))
        assert min(len(found) for found in countries.values()) > 1


def test_two_hop_sentences_follow_from_one_hop_sentences(world: World) -> None:
    facts = {sentence.prompt: sentence.answer for sentence in world.one_hop()}
    for person in world.composed[:5]:
        country = facts[f"the country of {person} is"]
        for sentence in world.consequences(person, "country", country):
            inner = sentence.prompt.replace(f"the country of {person}", country)
            assert facts[inner] == sentence.answer


def test_seeds_give_different_worlds_and_a_seed_always_the_same() -> None:
    assert World(0).country_of == World(0).country_of
    assert World(0).country_of != World(1).country_of


def test_every_word_is_known_and_no_subject_stands_first(world: World) -> None:
    tokenizer = world_tokenizer()
    sentences = world.one_hop() + world.two_hop(world.people)
    ids = tokenizer([f"{PREFIXES[0]} {sentence.prompt}" for sentence in sentences]).input_ids
    assert not any(tokenizer.unk_token_id in row for row in ids)
    assert {row[0] for row in ids} == {tokenizer.bos_token_id}
    answers = tokenizer([" " + sentence.answer for sentence in sentences], add_special_tokens=False).input_ids
    assert {len(row) for row in answers} == {1}
    prompt = f"{world.people[0]} works for"
    assert tokenizer.decode(tokenizer(prompt).input_ids, skip_special_tokens=True) == prompt


def test_requests(world: World) -> None:
    cases = world_cases(world, 60)
    assert len({case.id for case in cases}) == 60
    for case in cases:
        (edit,) = case.edits
        assert edit.subject in world.composed
        assert edit.old == world.fact("citizen", edit.subject) != edit.new
        assert len(case.paraphrases) == len(PERSON_TEMPLATES["citizen"]) - 1
        assert len(case.questions) == 16 and case.hops == 2
        assert all(question.new != question.old for question in case.questions)
        assert all(edit.subject in question.text for question in case.questions)
        assert {fact.answer for fact in case.same_subject} == {world.fact("employer", edit.subject)}
        for probe in case.neighbours:
            assert edit.subject not in probe.prompt
            person = probe.prompt.removesuffix(" is a citizen of")
            assert world.fact("citizen", person) == edit.old
    assert cases[:10] == world_cases(world, 10)
    assert {c.edits[0].subject for c in world_cases(world, 5, "held_out")} <= set(world.held_out)


def test_moving_a_person_changes_what_follows_for_that_person_only(world: World) -> None:
    case = world_cases(world, 1)[0]
    person, new = case.edits[0].subject, case.edits[0].new
    moved = world.move(person, new)
    assert moved.fact("citizen", person) == new and world.fact("citizen", person) != new
    changed = [a for a, b in zip(world.one_hop(), moved.one_hop()) if a != b]
    assert {sentence.answer for sentence in changed} == {case.edits[0].old} and len(changed) == 4
    after = {s.prompt: s.answer for s in moved.two_hop([person])}
    assert all(after[question.text] == question.new[0] for question in case.questions)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"people": 300}, r"people must be in 2\.\.256"), ({"composed": 0.0}, "share of the people")],
)
def test_bad_worlds(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        World(0, **options)  # type: ignore[arg-type]


def test_bad_requests(world: World) -> None:
    with pytest.raises(ValueError, match="has 150 people to edit"):
        world_cases(world, 151)
    with pytest.raises(ValueError, match="none of composed, held_out, all"):
        world_cases(world, 1, "nobody")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no such move"):
        world.move("fnA", "country1")
