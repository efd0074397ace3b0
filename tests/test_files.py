"""Atomic writes, caches, raw files."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from decathlon import files
from decathlon.errors import DataError


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_cached_makes_once(tmp_path: Path) -> None:
    made = []

    def make() -> str:
        made.append(1)
        return "x"

    for _ in range(2):
        text = files.cached(tmp_path / "c.txt", make, lambda value, path: path.write_text(value), Path.read_text)
        assert text == "x"
    assert len(made) == 1


def test_raw_files_are_found_or_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.csv.gz").write_bytes(b"1")
    assert files.raw_file(tmp_path, ["a.csv", "a.csv.gz"]) == tmp_path / "sub" / "a.csv.gz"
    with pytest.raises(DataError, match=r"b\.csv not found in .*; put it there"):
        files.raw_file(tmp_path, ["b.csv"])


def test_a_download_is_checked_and_a_wrong_one_not_kept(tmp_path: Path) -> None:
    source = tmp_path / "source.csv"
    source.write_text("a,b\n")
    root = tmp_path / "root"
    url = source.as_uri()
    with pytest.raises(DataError, match="SHA-256"):
        files.raw_file(root, ["x.csv"], url, "0" * 64)
    assert not list(root.iterdir())
    assert files.raw_file(root, ["x.csv"], url, files.sha256(source)).read_text() == "a,b\n"
    source.unlink()
    with pytest.raises(DataError, match=r"cannot be fetched .*download it and put it at"):
        files.raw_file(tmp_path / "new", ["y.csv"], url)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_named_when_a_checkpoint_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    import torch

    from decathlon.runner.checkpoint import AtomicCheckpointIO

    def fails(*arguments: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 8000 vs 7894")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space left on device"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


class Short(BaseHTTPRequestHandler):
    """Announces 1000 bytes, or a chunk of 1000, and sends fewer."""

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/chunked.csv":
            self.protocol_version = "HTTP/1.1"
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3e8\r\n" + b"a,b\n" * 50)
            return
        self.send_header("Content-Length", "1000" if self.path == "/short.csv" else "200")
        self.end_headers()
        self.wfile.write(b"a,b\n" * 50)

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_download_that_breaks_off_is_not_kept(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Short) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{server.server_port}"
        for name, says in {
            "short.csv": "broke off after 200 of 1000 bytes",
            "chunked.csv": "cannot be fetched",
        }.items():
            with pytest.raises(DataError, match=says) as caught:
                files.raw_file(tmp_path, ["x.csv"], f"{origin}/{name}")
            assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
        assert files.raw_file(tmp_path, ["x.csv"], f"{origin}/whole.csv").read_text() == "a,b\n" * 50
        server.shutdown()


def test_progress_is_silent_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    from decathlon.progress import track

    assert list(track((n for n in range(3)), "numbers", 3)) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_a_killed_process_leaves_no_temporaries_in_a_cache(tmp_path: Path) -> None:
    left = tmp_path / ".c.ab12_xyz.part.txt"
    other = tmp_path / ".d.ab12_xyz.part.txt"
    for path in (left, other):
        path.touch()
    files.cached(tmp_path / "c.txt", lambda: "x", lambda value, path: path.write_text(value), Path.read_text)
    assert not left.exists() and other.exists(), "another file may be in the making"
