"""A bar where somebody looks, and only there."""

import io
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from decathlon import progress
from decathlon.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(progress, "DELAY", -1.0)
    return stream


def numbers() -> Iterator[int]:
    yield from range(5)


def test_items_pass_through(terminal: Terminal) -> None:
    assert list(track(range(5), "making [red] molecules")) == list(range(5))
    assert list(track(numbers(), "reading")) == list(range(5))
    assert "making [red] molecules" in terminal.getvalue()  # and no markup
    assert list(track([], "nothing")) == []


def test_an_end_before_the_end_takes_the_bar_away(terminal: Terminal) -> None:
    with pytest.raises(RuntimeError):
        for item in track(range(5), "working"):
            if item == 3:
                raise RuntimeError
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h")  # the cursor is back


def test_nothing_is_shown_in_a_moment_to_a_file_or_by_another_rank(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "DELAY", 60.0)
    assert list(track(range(5), "quick")) == list(range(5))
    monkeypatch.setattr(progress, "DELAY", -1.0)
    monkeypatch.setenv("RANK", "1")
    assert list(track(range(5), "second rank")) == list(range(5))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    assert list(track(range(5), "to a file")) == list(range(5))
    assert terminal.getvalue() == ""


def test_a_log_gets_a_line_now_and_then(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    clock = iter(range(0, 10_000, 50))  # seconds: every second item is more than a minute after the last line
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    caplog.set_level("INFO")
    assert list(track(range(5), "reading")) == list(range(5))
    assert caplog.messages == ["reading: 1 of 5, about 7 min left", "reading: 3 of 5, about 2 min left"]
    caplog.clear()
    assert list(track(numbers(), "reading")) == list(range(5))
    assert caplog.messages == ["reading: 1", "reading: 3"]
