"""What the paper expects, in a world small enough for a test: erasure leaves less behind, k = 1 is ROME."""

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from decathlon.tasks.kele import world_training
from decathlon.tasks.kele.data_corpus import world_texts
from decathlon.tasks.kele.editors.kele import Kele
from decathlon.tasks.kele.editors.none import NoEdit
from decathlon.tasks.kele.editors.rome import Rome
from decathlon.tasks.kele.evaluation import Protocol, evaluate
from decathlon.tasks.kele.metrics import aggregate
from decathlon.tasks.kele.world import World
from decathlon.tasks.kele.world_cases import world_cases
from decathlon.tasks.kele.world_training import WorldTraining, accuracy

SMALL = WorldTraining(seed=0, people=60, steps=500, warmup=50)
PROTOCOL = Protocol("generate+prob", "none", max_new_tokens=1)
PRESET: dict[str, Any] = {"preset": "world"}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, World]:
    root = tmp_path_factory.mktemp("data")
    model, tokenizer = world_training.load(root, SMALL)
    return model, tokenizer, SMALL.world()


def judge(model: Any, tokenizer: Any, cases: list[Any], editor: Any) -> dict[str, float]:
    rows = []
    for case, update in zip(cases, editor.prepare([list(case.edits) for case in cases])):
        with editor.applied(update):
            rows.append(evaluate(model, tokenizer, case, PROTOCOL) | {"seconds": 0.0, "bytes": 0})
    return aggregate(rows)


def test_the_unedited_model_gives_the_old_answer_to_everything(known: tuple[Any, Any, World]) -> None:
    model, tokenizer, world = known
    assert accuracy(model, world.one_hop()) > 0.98 and accuracy(model, world.two_hop(world.composed)) > 0.9
    out = judge(model, tokenizer, world_cases(world, 20), NoEdit(model, tokenizer))
    assert out["es"] == out["es_acc"] == 0 and out["mh"] < 0.02 and out["rev"] > 0.9 and out["ss"] > 0.98


def test_residue_falls_with_the_depth_of_the_erasure(known: tuple[Any, Any, World]) -> None:
    model, tokenizer, world = known
    cases = world_cases(world, 30)
    corpus = world_texts(world, tokenizer, 400)
    moments = Rome(model, tokenizer, corpus=corpus, **PRESET).moments
    rome = judge(model, tokenizer, cases, Rome(model, tokenizer, moments=moments, **PRESET))
    depths = {
        k: judge(model, tokenizer, cases, Kele(model, tokenizer, moments=moments, depth=k, **PRESET))
        for k in (1, 5, 20)
    }
    assert depths[1] == rome
    assert rome["es"] > 0.9 and rome["mh"] > 0.2
    for shallow, deep in ((1, 5), (5, 20)):
        assert depths[deep]["rs_prob"] < depths[shallow]["rs_prob"]
        assert depths[deep]["rank_old"] > depths[shallow]["rank_old"]
        assert depths[deep]["rev"] <= depths[shallow]["rev"]
    assert depths[20]["ns"] > rome["ns"] - 0.05


def test_the_corpus_of_the_world(known: tuple[Any, Any, World]) -> None:
    _, tokenizer, world = known
    rows = world_texts(world, tokenizer, 301)
    assert len(rows) == 301 and rows == world_texts(world, tokenizer, 301)
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    assert 0.2 < fmean(("of the c" in text and " is" in text) or "the country of" in text for text in texts) < 0.9
    assert {row[0] for row in rows} == {tokenizer.bos_token_id}


@pytest.mark.slow
def test_retraining_with_the_edited_facts_is_an_upper_bound(tmp_path: Path) -> None:
    """Everybody of the test moves, and the model is trained on the changed world: MH of at least 0.95."""
    config = WorldTraining(seed=0)
    world = config.world()
    cases = world_cases(world, 60)
    moved = world
    for case in cases:
        moved = moved.move(case.edits[0].subject, case.edits[0].new)
    model, tokenizer = world_training.train(config, moved), world_training.world_tokenizer()
    # Neighbours are other citizens of the old country, some of whom have moved as well: not part of this test.
    out = judge(model, tokenizer, cases, NoEdit(model, tokenizer))
    assert out["es_acc"] >= 0.99 and out["mh"] >= 0.95 and out["rev"] < 0.02 and out["ss"] > 0.95
