"""The bar in a notebook's output."""

import sys
from types import ModuleType

import pytest

from lowland import notebook, progress
from lowland.training.progress import bar, say_above


class ZMQInteractiveShell:
    """Called as the kernel's own is."""


class Handle:
    def __init__(self, shown):
        self.shown = shown

    def update(self, data, raw):
        assert raw
        self.shown.append(data["text/plain"])


@pytest.fixture
def shown(monkeypatch):
    """What a notebook's cell shows, one after the other in the same place."""
    shown, module = [], ModuleType("IPython")

    def display(data, raw, display_id):
        assert raw
        assert display_id
        shown.append(data["text/plain"])
        return Handle(shown)

    module.get_ipython = ZMQInteractiveShell
    module.display = ModuleType("IPython.display")
    module.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", module)
    return shown


def test_it_is_drawn_over_itself_now_and_then(shown, capsys, monkeypatch):
    with bar(1000) as drawn:
        for step in range(1000):
            drawn.update(step + 1, "sam", {"loss": 0.5}, {"loss": "loss"})
        drawn.finish(1000)
        say_above(drawn._progress, "about 3 minutes")
    assert 2 <= len(shown) < 20
    assert "1000/1000" in shown[-1]
    assert "sam" in shown[-1]
    assert all("\n" not in text and "\x1b" not in text for text in shown)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "about 3 minutes\n")


def test_nothing_is_drawn_where_nothing_is_to_be(shown, capsys):
    with progress.bar("bar", describe=None, show=False) as (drawn, _):
        drawn.add_task("", total=3)
    assert shown == []


def test_it_is_none_without_a_notebook(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not notebook.in_notebook()
    module = ModuleType("IPython")
    module.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", module)
    assert not notebook.in_notebook()
