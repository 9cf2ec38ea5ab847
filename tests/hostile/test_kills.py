"""Killed with -9 at any moment, as often as you like: the same command ends with the records of an undisturbed run."""

import time

import pytest

from .children import Child, call, whole
from .phases import WRITES as WRITING
from .victims import COMMANDS, ends_alike, outcome

# Of the undisturbed command: where it is killed once, by how many writes of files there are about.
WRITES = {"run": 40, "vectorized": 16, "process": 5}


def kill_at_random(kind, folder, expected, seconds, draw, kills):
    """Begin, and kill, ``kills`` times; how many of the kills found the process alive."""
    found = 0
    for _ in range(kills):
        child = Child(*COMMANDS[kind], "--out", "out", cwd=folder)
        time.sleep(draw.uniform(0, seconds))
        if child.process.is_alive():
            child.kill()
            found += 1
        child.wait()
    ends_alike(kind, folder, expected)
    return found


@pytest.mark.parametrize("kind", ["run", "vectorized"])
def test_killed_at_random(kind, undisturbed, tmp_path, draw, count):
    expected, seconds = undisturbed(kind)
    count(f"kills at random: {kind}", kill_at_random(kind, tmp_path, expected, seconds, draw, 2))


def kill(kind, how, folder):
    """A command that dies in the way that ``how`` says."""
    killed = call(*COMMANDS[kind], "--out", "out", cwd=folder, setup=[how])
    assert killed.code == -9, killed


@pytest.mark.parametrize("kind", ["run", "vectorized"])
@pytest.mark.parametrize("moment", ["the midst", *whole("after it is in place")])
def test_killed_in_a_write(kind, moment, undisturbed, tmp_path, draw, count):
    expected, _ = undisturbed(kind)
    kill(kind, ("die_in", moment, draw.randint(2, 12)), tmp_path)
    count(f"kills in a write: {kind}")
    ends_alike(kind, tmp_path, expected)


@pytest.mark.hostile
@pytest.mark.parametrize("trial", range(10))
@pytest.mark.parametrize("kind", COMMANDS)
def test_killed_many_times(kind, trial, undisturbed, tmp_path, draw, count):
    expected, seconds = undisturbed(kind)
    count(f"kills at random: {kind}", kill_at_random(kind, tmp_path, expected, seconds, draw, 1 + trial % 5))


@pytest.mark.hostile
@pytest.mark.parametrize("moment", WRITING)
@pytest.mark.parametrize("kind", COMMANDS)
def test_killed_in_every_kind_of_write(kind, moment, undisturbed, tmp_path, draw, count):
    """From the first, which is of the configuration, over those of checkpoints, to the last: figures and summary."""
    expected, _ = undisturbed(kind)
    last = WRITES[kind]
    more = [draw.randint(3, last) for _ in range(4)] if kind != "process" else []
    for trial, at in enumerate([1, 2, last, *more]):
        folder = tmp_path / str(trial)
        folder.mkdir()
        kill(kind, ("die_in", moment, at), folder)
        count(f"kills in a write: {kind}")
        ends_alike(kind, folder, expected)


@pytest.mark.hostile
@pytest.mark.parametrize("whom", ["worker", "all"])
@pytest.mark.parametrize("moment", WRITING)
@pytest.mark.parametrize("trial", range(3))
def test_a_worker_is_killed_in_its_writes(moment, whom, trial, undisturbed, tmp_path, draw, count):
    """It alone: another takes its run up, and the sweep notices nothing else. Or all of the sweep at that moment."""
    expected, _ = undisturbed("process")
    at = (draw.choice((1, 2)), draw.randint(3, 14), draw.randint(15, 28))[trial]
    ended = call(
        *COMMANDS["process"], "--out", "out", cwd=tmp_path, setup=[("workers_die", moment, at, whom, False)]
    )  # fmt: skip
    assert (tmp_path / "died").exists(), (at, ended)
    assert ended.code == (0 if whom == "worker" else -9), ended
    assert ended.is_clear() or whom == "all", ended
    count("kills in a write: a worker of process" if whom == "worker" else "kills in a write: process")
    if whom == "worker":
        assert outcome(tmp_path / "out") == expected
    ends_alike("process", tmp_path, expected)


@pytest.mark.hostile
@pytest.mark.parametrize("moment", ["the midst", "after it is in place"])
def test_every_worker_is_killed_in_its_writes(moment, undisturbed, tmp_path, draw, count):
    """Twice for each run: it is given up in a line, and the same command tries it again."""
    expected, _ = undisturbed("process")
    ended = call(
        *COMMANDS["process"], "--out", "out", cwd=tmp_path,
        setup=[("workers_die", moment, draw.randint(1, 3), "worker", True)],
    )  # fmt: skip
    assert ended.code == 2, ended
    assert ended.is_clear(), ended
    assert "runs failed: the worker process was killed (signal 9) twice; the same command tries them again" in ended.err
    count("kills in a write: a worker of process", 8)
    ends_alike("process", tmp_path, expected)


@pytest.mark.hostile
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("form", ["png", "pdf"])
@pytest.mark.parametrize("kind", COMMANDS)
def test_killed_when_a_figure_is_drawn(kind, form, late, undisturbed, tmp_path, count):
    """Everything is trained, and the summary isn't there yet."""
    expected, _ = undisturbed(kind)
    kill(kind, ("die_drawing", form, late), tmp_path)
    assert not (tmp_path / "out/summary.json").exists()
    count(f"kills while figures are drawn: {kind}")
    ends_alike(kind, tmp_path, expected)


@pytest.mark.hostile
@pytest.mark.parametrize("trial", range(20))
@pytest.mark.parametrize("kind", COMMANDS)
def test_killed_while_figures_are_drawn(kind, trial, undisturbed, tmp_path, draw, count):
    """At any moment from the first line of the first figure on, for as long as drawing and what follows take."""
    expected, _ = undisturbed(kind)
    killed = call(
        *COMMANDS[kind], "--out", "out", cwd=tmp_path, setup=[("die_after_drawing_began", draw.uniform(0, 0.5))]
    )  # fmt: skip
    assert killed.code in (0, -9), killed
    if killed.code:
        count(f"kills while figures are drawn: {kind}")
    ends_alike(kind, tmp_path, expected)
