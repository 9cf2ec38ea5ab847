"""Told to end, politely or not: no traceback, nobody left behind, and the same command ends as an undisturbed one."""

import os
import signal
import time

import pytest

from tests.processes import descendants, is_alive, on_a_terminal

from .children import Child, whole
from .victims import COMMANDS, ends_alike

DIGITS = ("run", "long2024/digits", "--out", "out")
PAUSE = ("--set", "pause=0.01")


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
    begun = lambda shown: b"\x1b[?25l" in shown  # noqa: E731
    code, shown = on_a_terminal(*DIGITS, act=lambda process: process.send_signal(number), after=begun, cwd=tmp_path)
    assert code in (-number, 130)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "the same command goes on where it stopped" in shown
    assert "Traceback" not in shown
