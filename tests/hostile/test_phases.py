"""Told to end, or left without reader or terminal, in every phase of a command: no traceback, and no other end."""

import json
import signal
import time

import pytest

from .children import call, whole
from .test_surroundings import SMALL, started
from .victims import COMMANDS, ends_alike, outcome

LINE = "interrupted; the same command goes on where it stopped"
SIGNALS = {"SIGTERM": -signal.SIGTERM, "SIGHUP": -signal.SIGHUP, "SIGQUIT": -signal.SIGQUIT}
INTERRUPTS = ("Ctrl-C", "Ctrl-C twice", "Ctrl-C, and again")
# Phases, and how often a command comes to each at the least.
COMMON = {"opening the folder": 1, "the midst": 4, "fsync": 4, "drawing": 2, "judging": 1, "telling": 1}
OWN = {
    "run": {"making the network": 3, "training": 30},
    "vectorized": {"training": 10},
    "process": {"hearing of workers": 3},
}
EVERY = [(kind, phase) for kind in COMMANDS for phase in (*OWN[kind], *COMMON)]
FEW = [pair for pair in EVERY if pair[0] != "process" or pair[1] in ("hearing of workers", "drawing")]  # the slow ones
ALL = [pytest.param(*pair, marks=pytest.mark.hostile) for pair in FEW]


def come_to(kind, phase, act, folder, draw, setup=()):
    """The end of a command to which something happens in a phase."""
    count = draw.randint(1, (COMMON | OWN[kind])[phase])
    ended = call(*COMMANDS[kind], "--out", "out", cwd=folder, setup=[*setup, ("at", phase, count, act)])
    assert (folder / "reached").exists(), (count, ended)
    assert "Traceback" not in ended.out + ended.err, ended
    return ended


@pytest.mark.hostile
@pytest.mark.parametrize("act", SIGNALS)
@pytest.mark.parametrize(("kind", "phase"), FEW)
def test_signals(kind, phase, act, undisturbed, tmp_path, draw, count):
    expected, _ = undisturbed(kind)
    count("signals, by phase")
    ended = come_to(kind, phase, act, tmp_path, draw)
    assert ended.code == SIGNALS[act], ended
    ends_alike(kind, tmp_path, expected)


@pytest.mark.parametrize("act", ["Ctrl-C twice", *whole("Ctrl-C", "Ctrl-C, and again")])
@pytest.mark.parametrize(("kind", "phase"), [("run", "drawing"), *ALL])
def test_interrupts(kind, phase, act, undisturbed, tmp_path, draw, count):
    if act == INTERRUPTS[2] and phase in ("opening the folder", "telling"):
        pytest.skip("nothing is open then that could hang")
    expected, _ = undisturbed(kind)
    count("interrupts, by phase")
    ended = come_to(kind, phase, act, tmp_path, draw)
    assert ended.code == 130, ended
    assert ended.err.count(LINE) == 1, ended
    assert ended.err.endswith(f"{LINE}\n"), ended
    ends_alike(kind, tmp_path, expected)


@pytest.mark.hostile
@pytest.mark.parametrize("act", ["nobody reads stdout", "nobody reads stderr"])
@pytest.mark.parametrize(("kind", "phase"), FEW)
def test_nobody_reads(kind, phase, act, undisturbed, tmp_path, draw, count):
    """As with ``| head -1``: it ends as programs do, when it next has something to say."""
    expected, _ = undisturbed(kind)
    count("closed pipes, by phase")
    ended = come_to(kind, phase, act, tmp_path, draw, [("often",)])
    assert ended.code in ((141,) if "stdout" in act else (0, 141)), ended
    ends_alike(kind, tmp_path, expected)


@pytest.mark.parametrize(("kind", "phase"), [("run", "training"), *ALL])
def test_the_terminal_goes(kind, phase, undisturbed, tmp_path, draw, count):
    """SIGHUP is ignored, as ``nohup`` and ``disown`` have it: the command goes on to its end."""
    expected, _ = undisturbed(kind)
    count("terminals that go, by phase")
    ended = come_to(kind, phase, "the terminal goes", tmp_path, draw, [("on_a_terminal",)])
    assert ended.code == 0, ended
    assert outcome(tmp_path / "out") == expected


@pytest.mark.hostile
@pytest.mark.parametrize("act", ["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize(("kind", "phase"), [pair for pair in EVERY if pair[1] != "telling"])
def test_signals_on_a_terminal(kind, phase, act, undisturbed, tmp_path, draw, count):
    """The cursor is shown, and the line that says so is the last."""
    expected, _ = undisturbed(kind)
    count("signals on a terminal, by phase")
    ended = come_to(kind, phase, act, tmp_path, draw, [("on_a_terminal",)])
    assert ended.code == SIGNALS.get(act, 130), ended
    deadline = time.monotonic() + 10
    while not (tmp_path / "shown").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    shown = (tmp_path / "shown").read_text(errors="replace")
    assert "Traceback" not in shown
    assert shown.rfind("\x1b[?25h") >= shown.rfind("\x1b[?25l")
    assert shown.replace("\x1b[?25h", "").rstrip().endswith("the same command goes on where it stopped"), shown
    ends_alike(kind, tmp_path, expected)


# While modules are loaded: a process from its very start, to which it happens when torch is asked for.

LOADING = """
import sys
from tests.hostile import phases
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r} and {act!r}:
            sys.meta_path.remove(self)
            phases.ACTS[{act!r}]()
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.hostile
@pytest.mark.parametrize("module", ["typer", "lowland.commands", "torch", "torch.optim", "rich.console"])
@pytest.mark.parametrize("act", [*SIGNALS, *INTERRUPTS[:2], "nobody reads stdout"])
def test_while_modules_are_loaded(module, act, tmp_path, count):
    count("signals, by phase" if "Ctrl" not in act else "interrupts, by phase")
    prelude = "s.signal(s.SIGQUIT, s.SIG_DFL)" + LOADING.format(module=module, act=act)
    ended = started(*SMALL, cwd=tmp_path, prelude=prelude)
    assert "Traceback" not in ended.err, ended
    assert ended.code == (141 if "reads" in act else SIGNALS.get(act, 130)), ended
    if "Ctrl" in act:
        assert ended.err.endswith(f"lowland: {LINE}\n"), ended
        assert ended.err.count(LINE) == 1
    ended = started(*SMALL, cwd=tmp_path)
    assert ended.code == 0, ended
    assert json.loads((tmp_path / "out/summary.json").read_text())["metrics"]
