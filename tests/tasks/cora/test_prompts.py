"""Prompts, character by character, and their tokens."""

import pytest

from decathlon.language.tiny import word_tokenizer
from decathlon.tasks.cora.decoder import catalogue_tokenizer
from decathlon.tasks.cora.prompts import ITEM, USER, Template, answers, tokenised

LIKED = ["Old (1950)", "  Alien (1979) ", "", "Heat (1995)"]


def test_the_text_prompt() -> None:
    assert Template("text").text(LIKED, " Fargo (1996) ") == (
        '#Question: A user has given high ratings to the following movies: "Old (1950)", "Alien (1979)", '
        '"Heat (1995)". '
        'Leverage the information to predict whether the user would enjoy the movie titled "Fargo (1996)"? '
        'Answer with "Yes" or "No". \\n#Answer:'
    )


def test_books_an_empty_history_a_real_newline_and_the_window() -> None:
    text = Template("text", ("books", "book"), newline="real").text([], "Emma")
    assert "following books: unkow. Leverage" in text and 'the book titled "Emma"?' in text and ". \n#Answer:" in text
    many = Template("text").text([f"T{n}" for n in range(30)], "x")
    assert '"T20", "T21"' in many and '"T29".' in many and '"T19"' not in many


def test_prompts_with_slots() -> None:
    assert Template("identity").text(["A"], "B", "0110", "1001") == (
        '#Question: A user has given high ratings to the following movies: "A". Additionally, we have information '
        "about the user's preferences encoded in the feature 0110. Using all available information, make a prediction "
        'about whether the user would enjoy the movie titled "B" with the feature 1001? Answer with "Yes" or "No". '
        "\\n#Answer:"
    )
    assert Template("soft").text(["A"], "B", "u", "i") == (
        '#Question: u "A" [SEP] i "B" [SEP] Using all available information, make a prediction about whether the user '
        'would enjoy the movie? Answer with "Yes" or "No". \\n#Answer:'
    )
    tokenizer = catalogue_tokenizer()
    for slots in (1, 3):
        (ids,) = tokenised(tokenizer, Template("identity"), [(["Lost Comet"], "Wild River")], slots=slots)
        assert ids.count(USER) == ids.count(ITEM) == slots and ids[0] == tokenizer.bos_token_id
        plain = tokenised(tokenizer, Template("identity"), [(["Lost Comet"], "Wild River")], codes=[("", "")])[0]
        assert [one for one in ids if one >= 0] == plain
    text = tokenised(tokenizer, Template("identity"), [(["Lost Comet"], "Wild River")], codes=[("0110", "10")])[0]
    assert "0 1 1 0" in tokenizer.decode(text) and tokenizer.unk_token_id not in text


def test_the_answer_s_token_is_the_one_in_context() -> None:
    tokenizer = word_tokenizer(["Yes", "No"])
    assert answers(tokenizer) == (tokenizer.convert_tokens_to_ids("Yes"), tokenizer.convert_tokens_to_ids("No"))
    with pytest.raises(ValueError, match="cannot be told apart"):
        answers(word_tokenizer(["maybe"]))


def test_the_catalogue_s_tokenizer_knows_every_word_of_its_prompts() -> None:
    from decathlon.tasks.cora.sources.catalogue import GENRES, titles_of

    tokenizer = catalogue_tokenizer()
    titles = [title for genre in GENRES for title in titles_of(genre)]
    rows = [(titles[start : start + 3], titles[-start - 1]) for start in range(0, 100, 7)] + [([], titles[0])]
    for ids in tokenised(tokenizer, Template("text"), rows):
        assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kind": "x"}, "prompt=x is unknown"), ({"newline": "x"}, "newline=x"), ({"history": 0}, "history=0")],
)
def test_bad_templates_are_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Template(**options)
