"""The bar comes after a while, on a terminal."""

import pytest
import rich.console

from lowland.features import progress
from lowland.features.progress import watched


@pytest.mark.parametrize(
    ("show", "terminal", "patience", "seen"),
    [(True, True, -1, True), (False, True, -1, False), (True, False, -1, False), (True, True, 60, False)],
)
def test_bar(monkeypatch, capfd, show, terminal, patience, seen):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE", patience)
    monkeypatch.setattr(rich.console.Console, "is_terminal", terminal)
    with watched([3, 4], "extracting", show) as items:
        assert list(items) == [3, 4]
    out, err = capfd.readouterr()
    assert out == ""
    assert ("extracting" in err) == seen


def test_bar_of_unknown_length(monkeypatch, capfd):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE", -1)
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    with watched(iter("ab"), "probing", True) as items:
        assert list(items) == ["a", "b"]
    assert "probing" in capfd.readouterr().err
