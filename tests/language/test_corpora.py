"""Documents from files, packages and the hub; corpora in tokens, cached by their content."""

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decathlon.errors import ConfigError, DataError
from decathlon.language.bpe import train_bpe
from decathlon.language.corpora import Docstrings, Hub, TextFiles, split_documents
from decathlon.language.docstrings import docstrings
from decathlon.language.texts import read_documents, text_files
from decathlon.language.tokenised import tokenised

TEXTS = [f"Document number {i} speaks of {i * i} and of nothing else." for i in range(40)]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("\n\n".join(TEXTS[:20]))
    (folder / "deep" / "b.md").write_text("\n \n".join(TEXTS[20:]))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.txt").write_text("not this")
    return folder


def test_documents_of_folders_patterns_and_json_lines(notes: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = text_files(notes)
    assert [path.name for path in paths] == ["a.txt", "b.md"]
    assert list(read_documents(paths)) == TEXTS
    assert len(list(read_documents(paths, unit="file"))) == 2
    assert text_files(f"{notes}/**/*.md") == [paths[1]]
    lines = [json.dumps({"text": text}) for text in TEXTS[:3]] + ["{broken", json.dumps({"other": 1})]
    (notes / "c.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    import logging

    logging.getLogger("decathlon").propagate = True
    assert list(read_documents([notes / "c.jsonl.gz"])) == TEXTS[:3]
    assert "2 of 5 lines have no text" in caplog.text


def test_wikitext_is_split_at_the_headings_of_articles(tmp_path: Path) -> None:
    path = tmp_path / "wiki.tokens"
    path.write_text(" \n = One = \n \n text \n \n = = Part = = \n more \n \n = Two = \n \n other \n")
    found = list(read_documents([path], unit="heading"))
    assert len(found) == 2 and "Part" in found[0] and "other" in found[1]


@pytest.mark.parametrize(
    ("content", "says"), [(b"\xff\xfe\x00", "is no UTF-8"), (b"", "no text in"), (b" \n\n ", "no text in")]
)
def test_files_without_text_are_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        TextFiles(str(path)).splits(tmp_path)
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for call, says in [
        (lambda: text_files(tmp_path), "no text file"),
        (lambda: text_files(tmp_path / "missing.txt"), "no text file"),
        (lambda: docstrings(["no_such_package_x"]), "is not installed"),
        (lambda: split_documents(["a", "b"], 0.1, True), "cannot be split"),
        (lambda: TextFiles(None), "must say which text"),
        (lambda: TextFiles("x", unit="page"), "unit=page is unknown"),
        (lambda: TextFiles("x", held_out=0.7), "held_out=0.7"),
        (lambda: Hub(None, 10), "must say which dataset"),
        (lambda: Docstrings([]), "must name one at least"),
        (lambda: train_bpe(TEXTS, 10), "at least 257"),
    ]:
        with pytest.raises((ConfigError, DataError, ValueError), match=says) as error:
            call()
        assert "\n" not in str(error.value)
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_documents([tmp_path / "bad.gz"]))
    (tmp_path / "bad.jsonl").write_text("{}\n[]\n")
    with pytest.raises(DataError, match="none of its 2 lines"):
        list(read_documents([tmp_path / "bad.jsonl"]))


def test_splits_share_no_document_and_are_the_same_every_time() -> None:
    one, two = (split_documents(TEXTS, 0.1, shuffle=True) for _ in range(2))
    assert one == two
    parts = [list(one[name]) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert sorted(text for part in parts for text in part) == sorted(TEXTS)
    assert split_documents(TEXTS, 0.1, shuffle=False)["test"] == TEXTS[36:]


def test_docstrings_are_found_once_each() -> None:
    found = docstrings(["hydra"], shortest=100)
    assert found and len(set(found)) == len(found) and min(map(len, found)) >= 100
    assert found == docstrings(["hydra"], shortest=100)


@pytest.mark.parametrize("tokens", ["byte", "bpe"])
def test_tokens_are_made_once_and_anew_when_the_text_changes(notes: Path, tmp_path: Path, tokens: str) -> None:
    root, corpus = tmp_path / "data", TextFiles(str(notes))
    first = tokenised(root, "notes", corpus, tokens, vocabulary=300)
    before = {path: path.stat().st_mtime_ns for path in (root / "processed").rglob("*.tok")}
    again = tokenised(root, "notes", corpus, tokens, vocabulary=300)
    assert before == {path: path.stat().st_mtime_ns for path in (root / "processed").rglob("*.tok")}
    assert again.content == first.content
    ids = np.asarray(first.files["train"].document(0))
    text = bytes(ids.tolist()) if first.tokenizer is None else first.tokenizer.decode(ids).encode()
    assert text.decode().replace("<eos>", "").strip() in TEXTS
    assert first.bytes_of(ids) == len(text)
    assert len(first.files["train"]) == 36 and len(first.files["val"]) == len(first.files["test"]) == 2
    (notes / "a.txt").write_text("\n\n".join(["Something else."] * 3))
    changed = tokenised(root, "notes", corpus, tokens, vocabulary=300)
    assert changed.content != first.content
    short = tokenised(root, "notes", corpus, tokens, vocabulary=300, longest=5)
    assert max(len(short.files["train"].document(i)) for i in range(len(short.files["train"]))) == 5


def test_a_tokenizer_that_is_not_there_is_one_line(notes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a folder nor can it be fetched") as error:
        tokenised(tmp_path / "data", "notes", TextFiles(str(notes)), str(tmp_path / "no_tokenizer"))
    assert "\n" not in str(error.value)


class Stream(list):
    def shuffle(self, seed: int, buffer_size: int) -> "Stream":
        return Stream(reversed(self))


def test_texts_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install"):
        Hub("some/name", 3).splits(tmp_path)

    def load_dataset(name: str, config: Any, split: str, streaming: bool) -> Stream:
        if name == "gone":
            raise ConnectionError("no network\nat all")
        assert streaming
        return Stream({"text": f"{split} {text}"} for text in TEXTS)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    splits = Hub("some/name", 5, val_documents=4).splits(tmp_path)
    assert list(splits["train"]) == [f"train {text}" for text in TEXTS[:-6:-1]]
    assert list(splits["val"]) == [f"validation {TEXTS[39]}", f"validation {TEXTS[37]}"]
    assert list(splits["test"]) == [f"validation {TEXTS[38]}", f"validation {TEXTS[36]}"]
    with pytest.raises(DataError, match=r"cannot be read from the hub: no network$"):
        Hub("gone", 5).splits(tmp_path)
    with pytest.raises(DataError, match="has no key 'body'; choose text"):
        list(Hub("some/name", 5, field="body").splits(tmp_path)["train"])


@pytest.mark.data
def test_c4_in_its_own_form(data_root: Path | None) -> None:
    if data_root is None or not (data_root / "c4_sample").is_dir():
        pytest.skip("needs c4_sample")
    assert len(list(read_documents(text_files(f"{data_root}/c4_sample/*.json.gz")))) == 30
