"""A user's own log: reading, every fault in one line, splits, and a market made of it."""

from pathlib import Path

import pytest
import torch

from decathlon.errors import ConfigError, DataError
from decathlon.tasks.jregnet.logs import read_log
from decathlon.tasks.jregnet.market import Market, TrainingProfiles

EDGES = "store,brand\nmart,cola\nmart,tea\nshop,tea\n"


def write(folder: Path, values: str, edges: str = EDGES) -> dict[str, object]:
    (folder / "values.csv").write_text(values)
    (folder / "edges.csv").write_text(edges)
    return {
        "values": "values.csv", "edges": "edges.csv", "split": [0.6, 0.2, 0.2], "independent": False,
    }  # fmt: skip


def generated(auctions: int, drop: bool = False) -> str:
    values = torch.rand(auctions, 4, generator=torch.Generator().manual_seed(0)) * 50
    lines = ["auction,bidder,side,value"]
    for auction, row in enumerate(values.tolist()):
        for bidder, side, value in zip(("mart", "shop", "cola", "tea"), ("store", "store", "brand", "brand"), row):
            if not (drop and bidder == "shop" and auction % 3 == 0):
                lines.append(f"{auction},{bidder},{side},{value:.4f}")
    return "\n".join(lines) + "\n"


def test_a_log_becomes_arrays(tmp_path: Path) -> None:
    write(
        tmp_path,
        "value,side,bidder,auction\n3.5,brand,cola,x\n2,store,mart,x\n1,store,mart,y\n0,brand,tea,y\n4,store,shop,y\n",
    )
    log = read_log("values.csv", "edges.csv", tmp_path)
    assert (log.stores, log.brands) == (("mart", "shop"), ("cola", "tea"))
    assert log.bundles == ((0, 0), (0, 1), (1, 1))
    assert log.values.tolist() == [[2.0, 0.0, 3.5, 0.0], [1.0, 4.0, 0.0, 0.0]]
    assert log.presence().tolist() == [[True, False, False], [False, True, True]]


HEAD = "auction,bidder,side,value\n1,mart,store,2\n1,shop,store,2\n1,cola,brand,2\n1,tea,brand,2\n"


@pytest.mark.parametrize(
    ("values", "edges", "message"),
    [
        (HEAD + "2,mart,store,-3\n", EDGES, "values.csv line 6: value -3 is negative"),
        (HEAD + "2,mart,store,x\n", EDGES, "values.csv line 6: value 'x' is no number"),
        (HEAD + "2,mart,store,inf\n", EDGES, "line 6: value inf is not finite"),
        (HEAD + "2,mart,shop,1\n", EDGES, "line 6: side is 'shop', expected store or brand"),
        (HEAD + "2,mart,brand,1\n", EDGES, "line 6: bidder mart is a brand here and a store before"),
        (HEAD + "1,mart,store,1\n", EDGES, "line 6: bidder mart is in auction 1 twice"),
        (HEAD + ",mart,store,1\n", EDGES, "line 6: auction and bidder must not be empty"),
        (HEAD + "2,mart,store\n", EDGES, "line 6: 3 fields, the header has 4"),
        (HEAD + "2,mart,store,-3\n3,mart,store,-4\n", EDGES, r"line 6: value -3 is negative \(2 faulty rows in all\)"),
        (HEAD + "2,mart,store,-3\n3,mart,store\n", EDGES, r"line 6: value -3 is negative \(2 faulty rows in all\)"),
        (HEAD + "2,mart\n3,mart,store,-4\n", EDGES, r"line 6: 2 fields, the header has 4 \(2 faulty rows in all\)"),
        (HEAD, EDGES + "mart\nmall,tea\n", r"csv line 5: 1 fields, the header has 2 \(2 faulty rows in all\)"),
        (HEAD, EDGES + "mall,tea\n", "edges.csv line 5: there is no store 'mall' in the log"),
        (HEAD, EDGES + "cola,tea\n", "edges.csv line 5: there is no store 'cola' in the log"),
        (HEAD, EDGES + "mart,tea\n", "edges.csv line 5: edge mart - tea is listed twice"),
        (HEAD, "store,brand\n", "edges.csv has no edges"),
        ("auction,bidder,side,value\n", EDGES, "values.csv has no rows"),
        ("auction,bidder,value\n1,mart,2\n", EDGES, "values.csv lacks the column side"),
        ("auction,bidder,side,value,value\n1,mart,store,2,3\n", EDGES, "values.csv has the column value twice"),
        (HEAD, "store,brand,store\nmart,tea,shop\n", "edges.csv has the column store twice"),
        (HEAD + HEAD, EDGES, r"values.csv line 6: the header again \(5 faulty rows in all\)"),
        (HEAD + "2,mart,store,1e39\n", EDGES, "line 6: value 1e39 is above 1e.30"),
        (HEAD, EDGES + ",\n", "edges.csv line 5: store and brand are both empty"),
        (HEAD, EDGES + "mart,\nmart,\n", "edges.csv line 6: edge mart is listed twice"),
        (HEAD, EDGES + "cola,\n", "edges.csv line 5: there is no store 'cola' in the log"),
    ],
)
def test_every_fault_gets_one_line(tmp_path: Path, values: str, edges: str, message: str) -> None:
    write(tmp_path, values, edges)
    with pytest.raises(DataError, match=message) as caught:
        read_log(tmp_path / "values.csv", tmp_path / "edges.csv")
    assert "\n" not in str(caught.value)


def test_missing_files_and_settings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"values\.csv not found"):
        read_log("values.csv", "edges.csv", tmp_path)
    setting = write(tmp_path, generated(10))
    with pytest.raises(ConfigError, match=r"needs dataset\.values="):
        Market({**setting, "values": None}, 0, [1.0], root=tmp_path)
    with pytest.raises(ConfigError, match="three positive shares"):
        Market({**setting, "split": [0.5, 0.5]}, 0, [1.0], root=tmp_path)
    with pytest.raises(ConfigError, match="cannot be split"):
        Market({**setting, "split": [0.98, 0.01, 0.01]}, 0, [1.0], root=tmp_path)


def test_a_market_of_a_log(tmp_path: Path) -> None:
    market = Market(write(tmp_path, generated(100)), 0, [1.0, 0.5], root=tmp_path)
    assert not market.varies and not market.prior.independent and market.auction.bidders == 4
    assert 45 < float(market.prior.high.max()) <= 50
    parts = [market.profiles(split, 1000, 0)[0] for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [60, 20, 20]
    assert market.log is not None
    assert torch.allclose(torch.cat(parts).double(), market.log.values, atol=1e-5)
    # Each bidder was seen 60 times: its own distribution, whose median is that of its values.
    medians = market.prior.quantile(torch.full((1, 4), 0.5, dtype=torch.float64))[0]
    assert (medians - parts[0].double().median(0).values).abs().max() < 3
    batch = TrainingProfiles(market, [0], 16, 2, 4).batch(3)
    known = {tuple(row) for row in parts[0].tolist()}
    assert all(tuple(row) in known for row in batch.values[0].T.tolist())


def test_absent_bidders_take_their_bundles_away(tmp_path: Path) -> None:
    market = Market(write(tmp_path, generated(90, drop=True)), 0, [1.0], root=tmp_path)
    _, present = market.profiles("test", 1000, 0)
    assert market.varies and present is not None
    auctions = torch.arange(72, 90)
    assert torch.equal(present[:, 2], auctions % 3 != 0) and present[:, :2].all()


def test_an_empty_field_of_an_edge_is_a_bundle_of_one(tmp_path: Path) -> None:
    """Pairs, a store alone and a brand alone: a hybrid auction; each is there when its members are."""
    edges = "store,brand\nmart,cola\nshop,\n,tea\n"
    market = Market(write(tmp_path, generated(90, drop=True), edges), 0, [1.0, 0.5], root=tmp_path)
    assert market.auction.bundles == [(0, 0), (1, None), (None, 1)]
    assert market.auction.members == [(0, 2), (1,), (3,)]
    values, present = market.profiles("test", 1000, 0)
    assert present is not None and torch.equal(present[:, 1], torch.arange(72, 90) % 3 != 0)
    assert present[:, [0, 2]].all() and values.shape == (18, 4)


def test_spellings_of_one_name_are_one_bidder(tmp_path: Path) -> None:
    composed, decomposed = "Caf\u00e9", "Cafe\u0301"
    write(
        tmp_path, f"auction,bidder,side,value\n1,{composed},store,2\n2,{decomposed},store,3\n1,cola,brand,1\n",
        f"store,brand\n{decomposed},cola\n",
    )  # fmt: skip
    log = read_log("values.csv", "edges.csv", tmp_path)
    assert log.stores == (composed,) and log.values.tolist() == [[2.0, 1.0], [3.0, 0.0]]
