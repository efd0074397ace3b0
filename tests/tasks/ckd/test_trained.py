"""What a job keeps of its recommender: scores and best items by the ids of one's own files, as the job had."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import decathlon as package
from decathlon.errors import DataError
from decathlon.recommendation.interactions import ItemLists
from decathlon.recommendation.ranking import evaluate, inner_products, top_items
from tests.conftest import Door
from tests.test_trained import answered, finished

OWN = ["dataset=files", "interactions=rows.csv", "features={image: image.npy, text: text.npy}", "item_ids=ids.txt"]


def write_files(folder: Path) -> None:
    """Thirty users named u0, u1, ... with eight of forty items each, which are called book-39, book-38, ..."""
    draw = random.Random(0)
    names = [f"book-{39 - k}" for k in range(40)]
    rows = [f"u{user},{item}" for user in range(30) for item in draw.sample(names[:38], 8)]
    (folder / "rows.csv").write_text("user,item\n" + "\n".join(rows))
    (folder / "ids.txt").write_text("\n".join(names))
    values = np.random.default_rng(0)
    for name, width in (("image", 6), ("text", 4)):
        np.save(folder / f"{name}.npy", values.normal(size=(40, width)).astype(np.float32))


@pytest.mark.parametrize("method", ["ckd", "popularity", "ensemble"])
def test_own_ids(method: str, here: Path, decathlon_here: Door) -> None:
    write_files(here)
    job, module = finished(here, "task=ckd", *OWN, f"method={method}", "figures=false")
    data, (users, items) = module.data, module._tested
    shutil.copytree(job.folder / "trained", here / "sent")
    for name in ("rows.csv", "ids.txt", "image.npy", "text.npy"):
        (here / name).unlink()
    shutil.rmtree(here / "data", ignore_errors=True)
    found = package.load(here / "sent")
    assert torch.equal(found.users, users) and torch.equal(found.items, items)
    metrics = json.loads((job.folder / "metrics.json").read_text())["metrics"]
    measured = evaluate(inner_products(found.users, found.items), data.train, data.test)
    assert measured["recall@20"] == pytest.approx(metrics["test/recall@20"])
    assert found.item_ids[:2] == ["book-39", "book-38"] and sorted(found.user_ids) == sorted(f"u{k}" for k in range(30))
    u, i = data.user_ids.index("u7"), data.item_ids.index("book-3")
    scores = found.scores(["u7", "nobody", "u7"], ["book-3", "book-3", "book-77"])
    assert float(scores[0]) == pytest.approx(float((users[u] * items[i]).sum())) and scores[1:].isnan().all()
    every = found.recommend("u7", k=40, exclude_seen=False)
    assert sorted(every) == sorted(data.item_ids)
    values = [float(found.scores(["u7"], [item])[0]) for item in every]
    assert values == sorted(values, reverse=True)
    parts = (data.train, data.val, data.test)
    taken = {data.item_ids[place] for part in parts for place in part[u].tolist()}
    assert len(taken) == 8 and set(found.recommend("u7", k=40)) == set(every) - taken
    if method == "ckd":  # without ties the order is the one by which the job was ranked
        ranked = top_items(inner_products(users, items), ItemLists.of(*parts_of(parts), 30, 40), torch.arange(30), 5)
        assert [found.recommend(name, 5) for name in data.user_ids] == [
            [data.item_ids[place] for place in row] for row in ranked.tolist()
        ]
    with pytest.raises(DataError, match="user nobody is unknown"):
        found.recommend("nobody")
    rows, said = answered(decathlon_here, job, "note,user,item\na,u7,book-3\nb,u7,book-77\nc,x,book-3\nd,u8,book-1\n")
    assert [row["note"] for row in rows] == list("abcd") and rows[1]["score"] == rows[2]["score"] == ""
    assert float(rows[0]["score"]) == pytest.approx(float(scores[0]), rel=1e-5)
    assert "2 of 4 rows" in said and "line 3: item book-77 is unknown" in said and "line 4: user x is unknown" in said
    rows, said = answered(decathlon_here, job, "user,k\nu7,3\nx,3\nu8,\nu9,few\n")
    assert rows[0]["items"].split("|") == found.recommend("u7", 3) and len(rows[2]["items"].split("|")) == 10
    assert rows[1]["items"] == rows[3]["items"] == "" and "line 5: k=few is no number of items" in said
    Path("other.csv").write_text("name\nu7\n")
    assert "has no column user; its columns: name" in decathlon_here("predict", str(job.folder), "other.csv").stderr


def parts_of(parts: tuple[ItemLists, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([part.user for part in parts]), torch.cat([part.item for part in parts])


def test_numbers_are_ids_too_and_who_was_not_trained_is_unknown(here: Path) -> None:
    job, module = finished(here, "task=ckd", "backbone=mf", "method=joint", "smoke.max_users=20", "figures=false")
    found = package.load(job.folder)
    assert found.user_ids == list(range(20)) and found.recommend(3, 4) == found.recommend("3", 4)
    assert torch.equal(found.scores([3], [5]), (module._tested[0][3] * module._tested[1][5]).sum()[None])
    assert found.scores([20], [5]).isnan().all()
    state = torch.load(job.folder / "trained" / "trained.pt", weights_only=True)
    state["taught"][3] = False
    torch.save(state, job.folder / "trained" / "trained.pt")
    with pytest.raises(DataError, match="user 3 is unknown to the training"):
        package.load(job.folder).recommend(3)
