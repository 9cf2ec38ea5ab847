"""Told to end, politely or not: no traceback, nobody left behind, and the same command ends as an undisturbed one."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from .children import ROOT, Child, whole
from .victims import COMMANDS, ends_alike

# As no background job does, nor what nohup started.
HEARING = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); s.signal(s.SIGHUP, s.SIG_DFL)"
DIGITS = ("run", "long2024/digits", "--out", "out")
PAUSE = ("--set", "pause=0.01")


def descendants(pid):
    """The processes that a process has started."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(entry), *descendants(int(entry))]
    return found


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def interrupted(kind, folder, numbers, gap, draw, seconds):
    """Send signals at a random moment, ``gap`` seconds between them; the end, None if it had ended before."""
    child = Child(*COMMANDS[kind], *PAUSE, "--out", "out", cwd=folder)
    time.sleep(draw.uniform(0.05, seconds))
    others = descendants(child.process.pid) if os.path.isdir("/proc") else []
    alive = child.process.is_alive()
    for number in numbers:
        if child.process.is_alive():
            child.kill(number)
            time.sleep(gap)
    ended = child.wait()
    deadline = time.monotonic() + 10
    while any(map(is_alive, others)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, others)), "its workers go on without it"
    return ended if alive else None


@pytest.mark.parametrize("number", [signal.SIGTERM, *whole(signal.SIGHUP, signal.SIGQUIT)])
@pytest.mark.parametrize("trial", [0, *whole(1, 2, 3)])
@pytest.mark.parametrize("kind", ["run", *whole("vectorized", "process")])
def test_told_to_end(kind, number, trial, undisturbed, tmp_path, draw, count):
    expected, seconds = undisturbed(kind)
    ended = interrupted(kind, tmp_path, [number], 0, draw, seconds)
    if ended is not None:
        assert ended.code in (-number, 128 + number, 0), ended
        assert "Traceback" not in ended.err
        count("signals")
    ends_alike(kind, tmp_path, expected)


@pytest.mark.parametrize("gap", [0.0, *whole(0.01, 0.1, 0.4)])
@pytest.mark.parametrize("times", [1, 2, *whole(3)])
@pytest.mark.parametrize("kind", ["run", *whole("vectorized", "process")])
def test_interrupted_once_and_again(kind, times, gap, undisturbed, tmp_path, draw, count):
    expected, seconds = undisturbed(kind)
    ended = interrupted(kind, tmp_path, [signal.SIGINT] * times, gap, draw, seconds)
    if ended is not None:
        assert ended.code in (130, 0), ended
        assert "Traceback" not in ended.err
        if ended.code == 130:
            assert ended.err.count("interrupted; the same command goes on where it stopped") == 1, ended
        count("interrupts")
    ends_alike(kind, tmp_path, expected)


@pytest.mark.parametrize("number", whole(signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
def test_a_terminal_is_left_as_it_was(number, tmp_path, count):
    """The bar hides the cursor."""
    count("signals")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", f"{HEARING}; from lowland.cli import main; main()", *DIGITS],
        cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    os.close(theirs)
    shown, sent = b"", False
    try:
        while part := os.read(ours, 4096):
            shown += part
            if not sent and b"\x1b[?25l" in shown:
                process.send_signal(number)
                sent = True
    except OSError:
        pass  # so a terminal says that nobody has it open any more
    os.close(ours)
    assert process.wait(60) in (-number, 130)
    assert sent
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    assert b"the same command goes on where it stopped" in shown
    assert b"Traceback" not in shown
