"""Killed with -9 at any moment, as often as you like: the same command ends with the records of an undisturbed run."""

import json
import re
import time

import pytest
import torch

from .children import Child, call

COMMANDS = {
    "run": ("run", "tests/victim", "--scale", "paper"),
    "vectorized": ("sweep", "tests/victim", "--scale", "paper", "--engine", "vectorized"),
    "process": ("sweep", "tests/victim", "--scale", "paper", "--engine", "process", "--workers", "2"),
}
# Of the undisturbed command: where it is killed once, by how many writes of files there are about.
WRITES = {"run": 40, "vectorized": 16, "process": 5}


def outcome(folder):
    """All that a command leaves behind but for what the clock says."""
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("files")  # the checksum of a table in which there are seconds
    summary["environment"].pop("commit")  # git may lack what the run had enough of
    files = [path for path in folder.rglob("*") if path.is_file()]
    records = {
        path.relative_to(folder): path.read_bytes()
        for path in files
        if path.name == "metrics.jsonl" or path.suffix in (".png", ".pdf")
    }
    weights = {
        path.relative_to(folder): _tensors(torch.load(path, weights_only=True))
        for path in files
        if path.name == "checkpoint.pt"
    }
    return _without_times(summary), records, weights


def _tensors(value):
    """The numbers in a checkpoint, as text that is equal for equal bits."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _tensors(entry) for key, entry in value.items() if "seconds" not in str(key)}
    return [_tensors(entry) for entry in value] if isinstance(value, list | tuple) else value


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(entry) for key, entry in value.items() if not re.search("time|seconds", key)}
    return [_without_times(entry) for entry in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a command leaves, and the seconds it takes, by the kind of command."""
    folder, known = tmp_path_factory.mktemp("undisturbed"), {}

    def find(kind):
        if kind not in known:
            call(*COMMANDS[kind], "--out", f"{kind} first", cwd=folder)  # what is loaded once
            started = time.monotonic()
            ended = call(*COMMANDS[kind], "--out", kind, cwd=folder)
            assert ended.code == 0, ended
            known[kind] = outcome(folder / kind), time.monotonic() - started
        return known[kind]

    return find


def ends_alike(kind, folder, expected):
    """The same command, left alone, ends as if it had always been."""
    ended = call(*COMMANDS[kind], "--out", "out", cwd=folder)
    assert ended.code == 0, ended
    assert ended.is_clear(), ended
    assert outcome(folder / "out") == expected
    assert not list((folder / "out").rglob("*.part"))


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
    count(f"kills at random: {kind}", kill_at_random(kind, tmp_path, expected, seconds, draw, 3))


@pytest.mark.parametrize("kind", ["run", "vectorized"])
@pytest.mark.parametrize("moment", ["the midst", "after it is in place"])
def test_killed_in_a_write(kind, moment, undisturbed, tmp_path, draw, count):
    expected, _ = undisturbed(kind)
    killed = call(*COMMANDS[kind], "--out", "out", cwd=tmp_path, setup=[("die_in", moment, draw.randint(2, 12))])
    assert killed.code == -9
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
        killed = call(*COMMANDS[kind], "--out", "out", cwd=folder, setup=[("die_in", moment, at)])
        assert killed.code == -9, killed
        count(f"kills in a write: {kind}")
        ends_alike(kind, folder, expected)


@pytest.mark.hostile
@pytest.mark.parametrize("trial", range(3))
@pytest.mark.parametrize("kind", COMMANDS)
def test_killed_while_figures_are_drawn(kind, trial, undisturbed, tmp_path, draw, count):
    """Everything is trained, and the summary isn't there yet."""
    expected, _ = undisturbed(kind)
    killed = call(
        *COMMANDS[kind], "--out", "out", cwd=tmp_path, setup=[("die_drawing", "png" if trial < 2 else "pdf", trial % 2)]
    )
    assert killed.code == -9, killed
    assert not (tmp_path / "out/summary.json").exists()
    count(f"kills while figures are drawn: {kind}")
    ends_alike(kind, tmp_path, expected)
