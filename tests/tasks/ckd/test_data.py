"""Sources: what is read, what is refused in one line, what is odd and only said."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decathlon.errors import ConfigError, DataError, UserError
from decathlon.recommendation.interactions import Interactions
from decathlon.tasks.ckd.catalogue import Catalogue, checked_features
from decathlon.tasks.ckd.data import MultimodalData
from decathlon.tasks.ckd.generator import Generated
from decathlon.tasks.ckd.sources import Files, LatticeFolder, MovieLensKG, Published, read_array

ITEMS = 12


def own_files(folder: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of ``Files`` for a small set; ``changes`` replace ``rows`` (text) or arrays by name."""
    lines = ["user,item"] + [f"{u},{(u * 3 + k * 2) % ITEMS}" for u in range(8) for k in range(5)]
    folder.joinpath("rows.csv").write_text(changes.pop("rows", "\n".join(lines) + "\n"))
    random = np.random.default_rng(0)
    arrays = {"image": random.normal(size=(ITEMS, 4)), "text": random.normal(size=(ITEMS, 3)), **changes}
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return {"interactions": str(folder / "rows.csv"), "features": {n: str(folder / f"{n}.npy") for n in arrays}}


def data_of(folder: Path, own: dict[str, Any], **options: Any) -> MultimodalData:
    dataset = {"name": "files", "own": True, "source": {"class": "decathlon.tasks.ckd.sources.Files"}}
    return MultimodalData(folder, dataset, own, **options)


def test_own_files_are_split_by_user(tmp_path: Path) -> None:
    data = data_of(tmp_path, own_files(tmp_path))
    data.setup()
    assert data.train.users == 8 and data.train.items == ITEMS and set(data.features) == {"image", "text"}
    assert torch.equal(data.test.count, torch.ones(8)) and torch.equal(data.val.count, torch.ones(8))
    assert data.features["image"].dtype == torch.float32 and data.features["image"].shape == (ITEMS, 4)


def test_a_split_or_a_time_of_ones_own_is_used(tmp_path: Path) -> None:
    rows = "user,item,split\n0,1,0\n0,2,1\n0,3,2\n1,1,0\n1,4,0\n1,5,1\n1,6,2\n"
    data = data_of(tmp_path, own_files(tmp_path, rows=rows))
    data.setup()
    assert data.test[0].tolist() == [3] and data.train[1].tolist() == [1, 4]
    rows = "user,item,time\n0,1,5\n0,2,1\n0,3,9\n1,1,3\n1,4,2\n1,5,7\n1,6,1\n"
    data = data_of(tmp_path, own_files(tmp_path, rows=rows), split="leave_one_out")
    data.setup()
    assert data.test[0].tolist() == [3] and data.val[0].tolist() == [1] and data.test[1].tolist() == [5]


def test_names_of_items_need_their_order(tmp_path: Path) -> None:
    rows = "user,item\n" + "".join(f"u{u},b{(u + k) % ITEMS}\n" for u in range(4) for k in range(4))
    own = own_files(tmp_path, rows=rows)
    with pytest.raises(DataError, match=r"items are called b0, ...; give item_ids="):
        data_of(tmp_path, own).setup()
    (tmp_path / "ids.txt").write_text("\n".join(f"b{i}" for i in reversed(range(ITEMS))))
    data = data_of(tmp_path, {**own, "item_ids": str(tmp_path / "ids.txt")})
    data.setup()
    whole = torch.cat([part[0] for part in (data.train, data.val, data.test)])
    assert sorted(whole.tolist()) == [ITEMS - 1 - i for i in (3, 2, 1, 0)]
    (tmp_path / "ids.txt").write_text("\n".join(f"b{i}" for i in range(5)))
    with pytest.raises(DataError, match="is not among the 5 known ids"):
        data_of(tmp_path, {**own, "item_ids": str(tmp_path / "ids.txt")}).setup()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((11, 4))}, "the features differ in their number of rows"),
        ({"image": np.ones((6, 4)), "text": np.ones((6, 4))}, "item id 11 is out of range: the features have 6 rows"),
        ({"image": np.full((ITEMS, 4), np.nan)}, "features of image are not finite in 12 rows, first in 0"),
        ({"image": np.zeros(ITEMS)}, r"features of image have shape \(12,\)"),
        ({"image": np.array([["a"]] * ITEMS)}, "no numbers"),
        ({"rows": "user,item\n0,-3\n"}, "item -3 is out of range"),
        ({"rows": "user,thing\n0,3\n"}, "has no column item"),
        ({"rows": "user,item\n0,3\n0,4\n"}, "no validation row is left of 2 interactions"),
        ({"rows": "user,item,split\n0,3,0\n0,4,7\n"}, "split 7: 0 is training"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        data_of(tmp_path, own_files(tmp_path, **changes)).setup()
    assert "\n" not in str(caught.value)


def test_wrong_arguments_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs interactions=<csv>"):
        Files()
    with pytest.raises(ConfigError, match="is no mapping of modalities"):
        Files("rows.csv", "a.npy")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"nowhere\.csv is no file, neither here nor in"):
        Files("nowhere.csv", {}).read(tmp_path)
    generated = {"name": "generated", "source": {"class": "decathlon.tasks.ckd.generator.Generated"}}
    with pytest.raises(ConfigError, match="interactions= is of dataset=files"):
        MultimodalData(tmp_path, generated, {"interactions": "x.csv"})
    for wrong in ({"split": "half"}, {"scale": "max"}, {"max_users": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}="):
            MultimodalData(tmp_path, generated, **wrong)  # type: ignore[arg-type]
    data = MultimodalData(tmp_path, generated, modalities=["audio"])
    with pytest.raises(DataError, match="has no audio; choose text, image"):
        data.setup()
    with pytest.raises(DataError, match="cannot be the name of a modality"):
        checked_features("keys", torch.ones(3, 2), 3, "x")
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is no readable array"):
        read_array(tmp_path / "broken.npy")


def test_a_held_out_row_in_the_training_part_is_a_leak(tmp_path: Path) -> None:
    rows = "user,item,split\n0,1,0\n0,2,0\n0,3,1\n0,4,2\n"
    own = own_files(tmp_path, rows=rows)
    data_of(tmp_path, own).setup()
    leaky = Catalogue(
        Interactions(torch.zeros(4, dtype=torch.long), torch.tensor([1, 2, 1, 3]), 1, ITEMS), {},
        torch.tensor([0, 0, 1, 2]),
    )  # fmt: skip
    data = data_of(tmp_path, own)
    data.source.read = lambda root: leaky  # type: ignore[method-assign]
    with pytest.raises(DataError, match="1 held-out interactions are in the training part too"):
        data.setup()


def test_oddities_are_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    all_items = "".join(f"2,{i},0\n" for i in range(ITEMS))
    rows = "user,item,split\n0,1,0\n0,2,1\n1,3,2\n" + all_items
    with caplog.at_level(logging.WARNING, "decathlon"):
        data_of(tmp_path, own_files(tmp_path, rows=rows, image=np.zeros((ITEMS, 2)))).setup()
    assert "1 users have held-out items and none to train on" in caplog.text
    assert "1 users have taken all items" in caplog.text
    assert "12 of 12 items have only zeros as features of image" in caplog.text


def test_a_processed_amazon_folder(tmp_path: Path) -> None:
    folder = tmp_path / "baby"
    folder.mkdir()
    for name, lists in (("train", {"0": [0, 1], "1": [2]}), ("val", {"0": [3], "1": []}), ("test", {"1": [4]})):
        (folder / f"{name}.json").write_text(json.dumps(lists))
    np.save(folder / "image_feat.npy", np.ones((6, 4)))
    with pytest.raises(DataError, match=r"text_feat\.npy not found in"):
        LatticeFolder("baby").read(tmp_path)
    np.save(folder / "text_feat.npy", np.ones((6, 3)))
    catalogue = LatticeFolder("baby").read(tmp_path)
    assert catalogue.rows.items == 6 and catalogue.part is not None
    assert catalogue.part.tolist() == [0, 0, 0, 1, 2] and catalogue.rows.item.tolist() == [0, 1, 2, 3, 4]
    (folder / "test.json").write_text('{"1": [9]}')
    with pytest.raises(DataError, match="item id 9 in row 4 is out of range"):
        LatticeFolder("baby").read(tmp_path)


def test_the_generated_catalogue() -> None:
    catalogue = Generated(users=200, items=150).read(None)
    again = Generated(users=200, items=150).read(None)
    assert torch.equal(catalogue.rows.lists.keys, again.rows.lists.keys)
    assert all(torch.equal(values, again.features[name]) for name, values in catalogue.features.items())
    assert int(catalogue.rows.lists.count.min()) >= 5
    assert float(catalogue.rows.lists.count.double().mean()) == pytest.approx(10, abs=1.5)
    other = Generated(users=200, items=150, seed=1).read(None)
    assert not torch.equal(other.rows.lists.keys, catalogue.rows.lists.keys)


def test_each_generated_modality_tells_of_taste() -> None:
    """Items that the same users take have similar features in each modality, more so in the text."""
    catalogue = Generated().read(None)
    taken = torch.zeros(catalogue.rows.users, catalogue.rows.items)
    taken[catalogue.rows.user, catalogue.rows.item] = 1
    together = torch.corrcoef(taken.T + 1e-9 * torch.rand(taken.T.shape))
    apart = ~torch.eye(len(together), dtype=torch.bool)
    told = {}
    for name, values in catalogue.features.items():
        alike = torch.corrcoef(values)
        told[name] = float(torch.corrcoef(torch.stack([together[apart], alike[apart]]).nan_to_num())[0, 1])
    assert told["text"] > told["image"] > 0.05


@pytest.mark.parametrize("wrong", [{"users": 5}, {"mean_items": 4}, {"mean_items": 600}, {"genres": 1}])
def test_a_catalogue_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Generated(**wrong)


def test_features_can_be_scaled() -> None:
    values = torch.randn(9, 4) * 5 + 2
    catalogue = Catalogue(Interactions(torch.tensor([0]), torch.tensor([0]), 1, 9), {"text": values})
    assert torch.equal(catalogue.scaled("none").features["text"], values)
    assert torch.allclose(catalogue.scaled("rows").features["text"].norm(dim=1), torch.ones(9))
    columns = catalogue.scaled("columns").features["text"]
    assert torch.allclose(columns.mean(0), torch.zeros(4), atol=1e-5) and torch.allclose(columns.std(0), torch.ones(4))


@pytest.mark.data
def test_last_fm(data_root: Path | None) -> None:
    if data_root is None:
        pytest.skip("needs DECATHLON_TEST_DATA")
    features = {"text": "text_minilm.npz", "audio": "audio_vggish.npz"}
    dense = Published("lfm2k-mm", features).read(data_root)
    assert (dense.rows.users, dense.rows.items) == (1858, 1425)
    assert [len(part) for part in dense.split(None, 0)] == [44_327, 4_799, 7_219]
    few = Published("lfm2k-mm", features, train="train5.csv.gz").read(data_root)
    assert [len(part) for part in few.split(None, 0)] == [9_228, 4_799, 7_219]
    assert (few.rows.users, few.rows.items) == (1858, 1425)
    assert int(few.split(None, 0).train.lists.count.max()) == 5


def test_movielens(embedded_data: Path) -> None:
    embedded_data.mkdir(parents=True, exist_ok=True)
    try:
        catalogue = MovieLensKG(dim=16).read(embedded_data)
    except DataError as error:
        pytest.skip(str(error))
    assert (catalogue.rows.users, catalogue.rows.items) == (938, 1008)
    assert {name: tuple(v.shape) for name, v in catalogue.features.items()} == {"text": (1008, 16), "graph": (1008, 16)}
