"""Tables: what is malformed is counted, what is corrupt is an error that names the file."""

import gzip
import logging
import zipfile
from pathlib import Path

import pytest
import torch

from decathlon.errors import DataError
from decathlon.molecules.tables import CsvSource

CSV = "smiles,a,b\nCCO,1,0\nCCN,,1\nCCC,0,\n"


def source(name: str = "t.csv", **options: object) -> CsvSource:
    return CsvSource(**{"files": [name], "labels": ["a", "b"], **options})  # type: ignore[arg-type]


def write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_plain_and_gzipped(tmp_path: Path, name: str) -> None:
    write(tmp_path, CSV, name)
    table = source(name).table(tmp_path)
    assert table.smiles == ["CCO", "CCN", "CCC"] and table.tasks == ["a", "b"]
    assert table.y.nan_to_num(-1).tolist() == [[1, 0], [-1, 1], [0, -1]]
    assert table.report == {"rows": 3, "malformed": 0, "without_label": 0}


def test_found_in_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", CSV)
    assert len(source().table(tmp_path)) == 3


def test_inside_a_zip_and_without_a_header(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("in/t.csv.gz", gzip.compress(CSV.encode()))
        archive.writestr("in/bare.csv", "CCO\nCCN\n")
    assert len(source("t.zip", member="in/t.csv.gz").table(tmp_path)) == 3
    bare = source("t.zip", member="in/bare.csv", header=False, labels=[]).table(tmp_path)
    assert bare.smiles == ["CCO", "CCN"] and bare.y.shape == (2, 0)
    with pytest.raises(DataError, match=r"t\.zip is corrupt"):
        source("t.zip", member="in/other.csv").table(tmp_path)


def test_malformed_rows_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["CCO,1,0", ",1,0", "CCN,two,0", "CCC,1,0,7,8", "CCF,1,0,9", "CCl,,", "CBr,0,1", "CI,1,1", "CS,0,0"]
    write(tmp_path, "smiles,a,b\n" + "\n".join(rows) + "\n")
    table = source().table(tmp_path)
    assert table.smiles == ["CCO", "CBr", "CI", "CS"]
    assert table.report == {"rows": 9, "malformed": 4, "without_label": 1}
    assert "t.csv: 1 rows hold a label that is none, for instance a=two" in caplog.text


@pytest.mark.parametrize("labels", ["-1", "2", "0.5", "1e39", "inf"])
def test_labels_that_are_no_classes_are_refused_by_name(tmp_path: Path, labels: str) -> None:
    """A table of -1 and +1 must not become one of the positives alone."""
    write(tmp_path, f"smiles,a,b\nC,1,0\nCC,1,1\nCCC,0,{labels}\nCCCC,1,{labels}\n")
    with pytest.raises(DataError, match=r"of column b \(2 rows\) is neither 0 nor 1; .* classes: ") as caught:
        source().table(tmp_path)
    assert f"{float(labels):g}" in str(caught.value) and "\n" not in str(caught.value)


def test_classes_say_what_labels_mean(tmp_path: Path) -> None:
    write(tmp_path, "smiles,a,b\nC,-1,1\nCC,1,-1\nCCC,1,\n")
    table = source(classes={-1: 0, "1": 1}).table(tmp_path)
    assert table.y.nan_to_num(-9).tolist() == [[0, 1], [1, 0], [1, -9]] and table.report["malformed"] == 0
    write(tmp_path, "smiles,a,b\nC,1,0\nCC,0,1\n")
    assert source(classes={0: 1, 1: 0}).table(tmp_path).y.tolist() == [[0, 1], [1, 0]]
    write(tmp_path, "smiles,a,b\nC,active,0\nCC, inactive,1\nCCC,inconclusive,1\n")
    words = {"active": 1, "inactive": 0, "inconclusive": None}
    assert source(classes=words).table(tmp_path).y.nan_to_num(-9).tolist() == [[1, 0], [0, 1], [-9, 1]]
    with pytest.raises(DataError, match=r"3 of 3 rows are malformed, for instance a=active .* source's classes say"):
        source().table(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": {-1: 2}}, "classes maps a label to 2; choose 0, 1 or null"),
        ({"classes": {-1: 0}, "task_type": "regression"}, "this is a regression"),
        ({"sep": ", "}, "is not one character"),
        ({"encoding": "utf-9"}, "encoding=utf-9 is unknown"),
    ],
)
def test_bad_options(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        source(**options)


@pytest.mark.parametrize(
    "text",
    [
        "smiles,a,b\nCCO,1,0,\nCCN,,1,\nCCC,0,,\n",  # a comma at the end of each row
        "smiles,a,b,,,\nCCO,1,0,,,\nCCN,,1,,,\nCCC,0,,,,\n",  # as spreadsheets write them
        "\ufeffsmiles,a,b\nCCO,1,0\nCCN,,1\nCCC,0,\n",  # with a byte-order mark
        "\nsmiles , a,b\r\nCCO,1,0\r\n\r\nCCN,,1\r\nCCC,0,\r\n",
        "SMILES,A,B\nCCO,1,0\nCCN,,1\nCCC,0,\n",
        "smiles,x,b,a\nCCO,q,0,1\nCCN,,1,\nCCC,9,,0",
        "smiles,a,b\nCCO,True,False\nCCN,,True\nCCC,False,\n",
        'smiles,"a",b\nCCO,1,0\n"CCN",,1\nCCC,0,\n',
    ],
)
def test_tables_as_people_write_them(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    table = source().table(tmp_path)
    y = {task.casefold(): table.y[:, j].nan_to_num(-1).tolist() for j, task in enumerate(table.tasks)}
    assert table.smiles == ["CCO", "CCN", "CCC"] and y == {"a": [1, -1, 0], "b": [0, 1, -1]}
    assert table.report["malformed"] == 0


def test_case_counts_where_it_tells_columns_apart(tmp_path: Path) -> None:
    write(tmp_path, "smiles,a,A,b\nC,1,0,0\nCC,0,1,1\n")
    assert source(labels=["A"]).table(tmp_path).y[:, 0].tolist() == [0, 1]
    assert source(labels=["B"]).table(tmp_path).tasks == ["b"]


def test_separators_encodings_and_files_without_header(tmp_path: Path) -> None:
    write(tmp_path, "smiles;a;b\nC;1;0\nCC;0;1\n")
    with pytest.raises(DataError, match=r"no column smiles; its columns: smiles;a;b; give its source sep: ';'"):
        source().table(tmp_path)
    assert source(sep=";").table(tmp_path).y.tolist() == [[1, 0], [0, 1]]
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "t.csv").write_bytes("smiles,a,b,name\nC,1,0,Grün\nCC,0,1,x\n".encode(encoding))
        with pytest.raises(DataError, match=f"not in the encoding utf-8; .* encoding: {encoding}"):
            source().table(tmp_path)
        assert source(encoding=encoding).table(tmp_path).smiles == ["C", "CC"]
    write(tmp_path, "C,1,0\nCC,0,1\nCCC,1,1\n")
    with pytest.raises(DataError, match=r"no column smiles; .* header: false and columns: \[smiles"):
        source().table(tmp_path)
    with pytest.raises(DataError, match="has 3 fields in its first row"):  # and not: the labels taken for SMILES
        source(header=False, labels=["*"]).table(tmp_path)
    table = source(columns=["smiles", "a", "b"]).table(tmp_path)
    assert table.smiles == ["C", "CC", "CCC"] and table.y.tolist() == [[1, 0], [0, 1], [1, 1]]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "smiles,a,a,b\nC,1,0,0\n")
    with pytest.raises(DataError, match="two columns a"):
        source().table(tmp_path)


def test_patterns_and_all_other_columns(tmp_path: Path) -> None:
    write(tmp_path, "X-1,X-2,id,smiles\n1,0,3,C\n0,1,4,CC\n")
    assert source(labels=["X-*"]).table(tmp_path).tasks == ["X-1", "X-2"]
    write(tmp_path, 'smiles,"one, two",three\nC,1,0\nCC,0,1\n')
    assert source(labels=["*"]).table(tmp_path).tasks == ["one, two", "three"]


def test_labels_that_are_mostly_missing_are_left_out(tmp_path: Path) -> None:
    """PCBA's rule: tasks with at least half of the labels missing go, then rows without any label."""
    write(tmp_path, "smiles,a,b,c\nC,1,,1\nCC,0,,\nCCC,,1,\nCCCC,1,,0\nCCCCC,,1,1\n")
    table = source(labels=["*"], max_missing=0.5).table(tmp_path)
    assert table.tasks == ["a", "c"]
    assert table.smiles == ["C", "CC", "CCCC", "CCCCC"]
    assert table.report["without_label"] == 1


def test_regression_takes_any_number(tmp_path: Path) -> None:
    write(tmp_path, "smiles,e\nC,-1.5\nCC,inf\nCCC,2e3\nCCCC,1e39\nCCCCC,-3.4e38\n")
    table = source(labels=["e"], task_type="regression").table(tmp_path)  # 1e39 is infinite in float32
    assert table.y.flatten().tolist() == pytest.approx([-1.5, 2000, -3.4e38]) and table.report["malformed"] == 2


def test_an_unexpected_number_of_rows_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, CSV)
    with caplog.at_level(logging.WARNING):
        source(rows=5).table(tmp_path)
    assert "t.csv has 3 rows, the published table has 5" in caplog.text


def test_a_download_with_an_unexpected_number_of_rows_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, root = write(tmp_path, CSV, "published.csv").as_uri(), tmp_path / "data"
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"t\.csv was downloaded and has 3 rows, the published table has 5"
        ) as caught:
            source(url=url, rows=5).table(root)
        assert "\n" not in str(caught.value) and [path.name for path in root.iterdir()] == ["t.csv.rejected"]
    (root / "t.csv.rejected").rename(root / "t.csv")
    assert len(source(url=url, rows=5).table(root)) == 3 and "the published table has 5" in caplog.text
    assert len(source(url=url, rows=3).table(tmp_path / "other")) == 3


def broken_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(("smiles,a,b\n" + "CCO,1,0\n" * 5000).encode())[:-40])


def flipped_gzip(path: Path) -> None:
    content = bytearray(gzip.compress(("smiles,a,b\n" + "CCO,1,0\n" * 5000).encode()))
    content[30] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("t.csv.gz", broken_gzip, "corrupt"),
        ("t.csv.gz", flipped_gzip, "corrupt"),
        ("t.csv.gz", lambda path: path.write_text(CSV), "corrupt"),
        ("t.csv", lambda path: path.write_bytes(b"\x80\x81\xff\x00" * 50), "no readable CSV|no column"),
        ("t.csv", lambda path: path.write_text(""), "no readable CSV"),
        ("t.csv", lambda path: path.write_text('smiles,a,b\n"CCO,1,0\nCC,1,1\n'), "no readable CSV|malformed"),
        ("t.csv", lambda path: path.write_text("smile,a,b\nC,1,0\n"), "no column smiles"),
        ("t.csv", lambda path: path.write_text("smiles,a\nC,1\n"), "no column b"),
        ("t.csv", lambda path: path.write_text("smiles,a,b\n"), "malformed"),
        ("t.csv", lambda path: path.write_text("smiles,a,b\nC,x,y\nCC,z,0\nCCC,1,1\n"), "2 of 3 rows are malformed"),
        ("t.csv", lambda path: path.write_text("smiles,a,b\nC,,\nCC,,\n"), "no row has a label"),
    ],
)
def test_a_corrupt_file_is_an_error_that_names_it(tmp_path: Path, name: str, damage, says: str) -> None:
    damage(tmp_path / name)
    with pytest.raises(DataError, match=says) as caught:
        source(name).table(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_the_place_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv not found"):
        source().table(tmp_path)
    with pytest.raises(DataError, match=r"put it at") as caught:
        source(url="http://127.0.0.1:9/t.csv").table(tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("*.csv"))


def test_thinning_and_selecting(tmp_path: Path) -> None:
    write(tmp_path, "smiles,a\n" + "".join(f"{'C' * (i + 1)},{i % 2}\n" for i in range(100)))
    table = source(labels=["a"]).table(tmp_path, limit=10)
    assert len(table) == len(table.smiles) == 10 and table.smiles[0] == "C" and len(table.smiles[-1]) == 100
    assert table.select(torch.tensor([9, 0])).smiles == [table.smiles[9], "C"]
