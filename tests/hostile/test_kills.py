"""Killed with -9 at any moment, as often as you like: the same command ends with the records of an undisturbed run."""

import time

import pytest

from .children import Child, call, whole
from .victims import COMMANDS, ends_alike

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
@pytest.mark.parametrize("moment", ["the midst", "fsync", "before it is in place", "after it is in place"])
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
@pytest.mark.parametrize("trial", range(3))
@pytest.mark.parametrize("kind", COMMANDS)
def test_killed_while_figures_are_drawn(kind, trial, undisturbed, tmp_path, draw, count):
    """Everything is trained, and the summary isn't there yet."""
    expected, _ = undisturbed(kind)
    kill(kind, ("die_drawing", "png" if trial < 2 else "pdf", trial % 2), tmp_path)
    assert not (tmp_path / "out/summary.json").exists()
    count(f"kills while figures are drawn: {kind}")
    ends_alike(kind, tmp_path, expected)
