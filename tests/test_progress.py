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
