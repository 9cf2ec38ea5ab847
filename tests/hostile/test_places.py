"""Where a run is kept: odd names, links, copies, folders that go away, full and broken disks, no rights."""

import errno
import os
import shutil
import subprocess
import time

import pytest

from .children import Child, call, whole
from .victims import COMMANDS, ends_alike

BARE = [("undrawn",)]
NAMES = [
    "with a space", "line\nbreak", "tab\there", "ünïcødé ρ 雪", "-dash", "'\"", "trailing ", "100%s{}", "[bold]x",
    "a" * 200, "\x1b[31mred", "..x", "$HOME", "~", "*", "x/../y", "deep/" * 30 + "end", "\udcff\udcfe",
]  # fmt: skip
pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other places")


@pytest.mark.parametrize("name", ["line\nbreak ρ", *whole(*NAMES)])
def test_names(name, tmp_path, count):
    """A run, the same command again, its weights measured."""
    count("names of folders")
    for command in (COMMANDS["run"], COMMANDS["run"], COMMANDS["vectorized"]):
        out = name if command[0] == "run" else f"{name}-sweep"
        ended = call(*command, "--set", "steps=2", f"--out={out}", cwd=tmp_path, setup=BARE)
        assert ended.code == 0, ended
        assert ended.is_clear(), ended
        assert (tmp_path / out / "summary.json").exists()
    ended = call("evaluate", "tests/victim", "--arm", "sam", "--", name, cwd=tmp_path)
    assert ended.code == 0, ended


@pytest.mark.parametrize(
    "name", ["x" * 300, "a/" * 3000 + "b", "nul\0"[:3] + "\n" * 300, "", ".", "..", "/", "/dev/null", "/proc/x"]
)
def test_names_that_cannot_be(name, tmp_path, count):
    count("names of folders")
    (tmp_path / "here").mkdir()
    ended = call(*COMMANDS["run"], "--set", "steps=2", f"--out={name}", cwd=tmp_path / "here", setup=BARE)
    assert ended.code == 2, ended
    assert ended.is_clear(), ended


@pytest.mark.parametrize("how", ["link", *whole("copy", "move")])
@pytest.mark.parametrize("kind", ["run", *whole("vectorized")])
def test_begun_here_and_ended_there(kind, how, undisturbed, tmp_path, count):
    expected, _ = undisturbed(kind)
    count("links, copies, moves")
    first, out = tmp_path / "first", tmp_path / "out"
    assert call(*COMMANDS[kind], "--out", first, cwd=tmp_path, setup=[("die_in", "the midst", 8)]).code == -9
    if how == "link":
        out.symlink_to(first)
    elif how == "copy":
        shutil.copytree(first, out)
    else:
        first.rename(out)
    ends_alike(kind, tmp_path, expected)


def trained_a_while(folder):
    """Wait until something has been saved."""
    deadline = time.monotonic() + 60
    while not list(folder.rglob("checkpoint.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
@pytest.mark.parametrize("kind", ["run", *whole("vectorized", "process")])
def test_a_folder_that_goes_in_mid_run(kind, how, tmp_path, count):
    if kind == "run" and how == "moved":
        pytest.skip("as the others")
    count("folders that go")
    out, aside = tmp_path / "out", tmp_path / "aside"
    child = Child(*COMMANDS[kind], "--set", "pause=0.1", "--out", out, cwd=tmp_path, setup=BARE)
    trained_a_while(tmp_path)
    out.rename(aside)
    if how == "replaced":
        shutil.copytree(aside, out)
    if how == "removed":
        shutil.rmtree(aside)
    ended = child.wait()
    assert ended.code == 2, ended
    assert ended.is_clear(), ended
    assert "removed, moved away or replaced" in ended.err or "No such file" in ended.err
    assert not (out / "summary.json").exists()


@pytest.mark.parametrize("kind", ["run", "vectorized", *whole("process")])
def test_a_folder_that_becomes_read_only_in_mid_run(kind, undisturbed, tmp_path, count):
    """The command ends with the system's word for it; with the right to write it goes on."""
    expected, _ = undisturbed(kind)
    count("no rights")
    child = Child(*COMMANDS[kind], "--out", "out", cwd=tmp_path, setup=[*BARE, ("ordinary_rights",)])
    trained_a_while(tmp_path)
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    ended = child.wait()
    for folder in folders:
        folder.chmod(0o755)
    assert ended.code == 2, ended
    assert ended.is_clear(), ended
    assert "Permission denied" in ended.err
    assert "damaged" not in ended.err
    ends_alike(kind, tmp_path, expected)


def test_a_second_process(tmp_path, count):
    count("second processes")
    child = Child(*COMMANDS["run"], "--set", "pause=0.1", "--out", "out", cwd=tmp_path, setup=BARE)
    trained_a_while(tmp_path)
    second = call(*COMMANDS["run"], "--set", "pause=0.1", "--out", "out", cwd=tmp_path, setup=BARE)
    child.kill()
    child.wait()
    assert second.code == 2
    assert second.is_clear(), second
    assert "in use by another process" in second.err


# Disks.


def refused_then_ends_alike(kind, folder, expected, ended):
    """What failed has said so in a line, and the same command goes on."""
    if ended.code == 0:
        return False  # the limit was wide enough
    assert ended.code == 2, ended
    assert ended.is_clear(), ended
    assert "damaged" not in ended.err
    ends_alike(kind, folder, expected)
    return True


@pytest.mark.parametrize("size", [0, 2000, *whole(1, 100, 500, 1000, 3000, 5000, 8000, 12_000, 20_000, 40_000)])
@pytest.mark.parametrize("kind", ["run", *whole("vectorized")])
def test_a_full_disk(kind, size, undisturbed, tmp_path, count):
    expected, _ = undisturbed(kind)
    ended = call(*COMMANDS[kind], "--out", "out", cwd=tmp_path, setup=[("stay_full", size)])
    if refused_then_ends_alike(kind, tmp_path, expected, ended):
        count("full disks")


@pytest.mark.parametrize("error", [errno.ENOSPC, *whole(errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE)])
@pytest.mark.parametrize("name", ["fsync", *whole("replace")])
@pytest.mark.parametrize("kind", ["run", *whole("vectorized")])
def test_a_broken_disk(kind, name, error, undisturbed, tmp_path, draw, count):
    expected, _ = undisturbed(kind)
    ended = call(*COMMANDS[kind], "--out", "out", cwd=tmp_path, setup=[("fail_in", name, draw.randint(1, 12), error)])
    assert refused_then_ends_alike(kind, tmp_path, expected, ended)
    assert os.strerror(error) in ended.err
    count("broken disks")


@pytest.mark.hostile
@pytest.mark.parametrize("size", ["16k", "32k", "64k", "96k"])
def test_a_small_disk(size, undisturbed, tmp_path, count):
    """A file system of its own, with so much room; then it is mounted anew with enough."""
    expected, _ = undisturbed("run")
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place]).returncode:
        pytest.skip("only who may mount has small disks")
    try:
        ended = call(*COMMANDS["run"], "--out", place / "out", cwd=tmp_path)
        assert ended.code == 2, ended
        assert ended.is_clear(), ended
        assert "No space left" in ended.err
        subprocess.run(["mount", "-o", "remount,size=100M", place], check=True)
        (tmp_path / "out").symlink_to(place / "out")
        ends_alike("run", tmp_path, expected)
        count("full disks")
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(
    "what", ["out", "out/checkpoint.pt", *whole("out/config.json", "out/metrics.jsonl", "out/.lock", ".")]
)
def test_no_rights(what, tmp_path, count):
    """Somebody else's run: nothing is called damaged, and nobody is told to remove it."""
    count("no rights")
    assert call(*COMMANDS["run"], "--out", "out", cwd=tmp_path, setup=[("die_in", "the midst", 8)]).code == -9
    shutil.rmtree(tmp_path / "out/figures", ignore_errors=True)
    (tmp_path / what).chmod(0o000 if what not in ("out", ".") else 0o555)
    if what == ".":
        shutil.rmtree(tmp_path / "out")
    ended = call(*COMMANDS["run"], "--out", tmp_path / "out", cwd=tmp_path.parent, setup=[*BARE, ("ordinary_rights",)])
    (tmp_path / what).chmod(0o755)
    assert ended.code == 2, ended
    assert ended.is_clear(), ended
    assert "Permission denied" in ended.err
    assert "damaged" not in ended.err
    assert "remove" not in ended.err
