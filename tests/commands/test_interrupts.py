"""Ctrl-C in a real process, from its first moment to its last: one line, exit code 130."""

import json
import os
import re
import signal
import time

import pytest

from tests.processes import descendants, on_a_terminal, start, until

LINE = "lowland: interrupted; the same command goes on where it stopped"
RUN = ("run", "long2024/digits", "--device", "cpu", "--set", "steps=20000", "--set", "tol=0.1")
SWEEP = ("sweep", *RUN[1:])
OFTEN = "import lowland.patience as patience; patience.EVERY = 0.1"

# Says so when torch begins to be loaded.
LOADING = """
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.stdout.write("torch\\n"); sys.stdout.flush()
sys.meta_path.insert(0, Finder())
"""

# What libraries make of KeyboardInterrupt on their way into memory.
TURNED = """
import lowland.commands, signal
def call(arguments):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("a library could not be loaded") from None
lowland.commands.call = call
"""

# A KeyboardInterrupt that Python can't raise, and one after the end.
IN_A_DESTRUCTOR = """
import lowland.commands, signal
class Odd:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def call(arguments):
    del [Odd()][0]
    return 0
lowland.commands.call = call
"""
AT_THE_END = "import atexit, signal; atexit.register(signal.raise_signal, signal.SIGINT)"


def grid(tmp_path):
    (tmp_path / "grid.json").write_text(json.dumps({"rho": [0, 0.1]}))
    return "--grid", "grid.json"


def test_while_modules_are_loaded(tmp_path):
    process = start("list", setup=LOADING, cwd=tmp_path)
    assert process.stdout.readline() == "torch\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", LINE + "\n")


@pytest.mark.parametrize("setup", [TURNED, IN_A_DESTRUCTOR], ids=["turned into another", "in a destructor"])
def test_where_the_exception_gets_lost(setup, tmp_path):
    process = start("list", setup=setup, cwd=tmp_path)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", LINE + "\n")


def test_after_the_end(tmp_path):
    process = start("--version", setup=AT_THE_END, cwd=tmp_path)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.startswith("lowland ")


def test_a_background_job_stays_deaf(tmp_path):
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    process = start("--version", setup=f"{deaf}\n{AT_THE_END}", cwd=tmp_path)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")


def without_the_forecast(lines):
    """Of the whole time, said once, as soon as it can be told."""
    left = [line for line in lines if not (line.startswith("about ") and ", from the first " in line)]
    assert len(left) >= len(lines) - 1
    return left


@pytest.mark.slow
def test_a_run_in_a_pipe_twice_at_once(tmp_path):
    """And what it says until then: where it writes, at once; how far it is, now and then."""
    process = start(*RUN, "--out", "run", setup=OFTEN, cwd=tmp_path)
    metrics = tmp_path / "run/metrics.jsonl"
    assert process.stdout.readline() == "run directory: run\n"
    assert not metrics.exists()
    until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 1, process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    *lines, last = err.splitlines()
    assert (process.returncode, out, last) == (130, "", LINE)
    lines = without_the_forecast(lines)
    assert lines
    assert all("of 60000 steps (" in line for line in lines)
    assert lines[-1].startswith("sam: ")
    assert "Hessian norm" in lines[-1] or "loss" in lines[-1]
    assert not (tmp_path / "run/summary.json").exists()


@pytest.mark.slow
def test_a_sweep_in_a_pipe_takes_its_workers_along(tmp_path):
    options = ("--engine", "process", "--workers", "1", "--out", "sweep", *grid(tmp_path))
    process = start(*SWEEP, *options, setup=OFTEN, cwd=tmp_path)
    assert process.stdout.readline() == "sweep directory: sweep\n"
    left_out = process.stdout.readline()  # whatever is read ahead here is lost to communicate()
    until(lambda: any(tmp_path.glob("sweep/runs/*/metrics.jsonl")), process)
    time.sleep(0.8)
    workers = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    head, *lines, last = err.splitlines()
    assert (process.returncode, last) == (130, LINE)
    assert left_out.startswith("not trained, because the grid has no such point: ")
    assert out == ""
    assert head == "2 runs, engine process"
    lines = without_the_forecast(lines)
    assert lines
    assert all(line.startswith("0/2 runs done, ") for line in lines)
    assert workers
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


@pytest.mark.slow
def test_a_run_on_a_terminal(tmp_path):
    metrics = tmp_path / "run/metrics.jsonl"
    begun = lambda _: metrics.exists() and metrics.read_bytes().count(b"\n") > 1  # noqa: E731
    code, shown = on_a_terminal(*RUN, "--out", "run", keys=b"\x03\x03", after=begun, cwd=tmp_path)
    assert code == 130
    assert re.sub(r"\r(loading torch \.\.\.| *\r)", "", shown).startswith("run directory: run\n")
    assert shown.removesuffix("\x1b[?25h").endswith(f"{LINE}\n")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back
    assert "Traceback" not in shown
    assert "sam" in shown
    assert "/60000" in shown
    assert "…" not in shown


@pytest.mark.slow
def test_a_sweep_on_a_terminal(tmp_path):
    options = ("--engine", "vectorized", "--workers", "1", "--out", "sweep", *grid(tmp_path))
    begun = lambda _: any(tmp_path.glob("sweep/runs/*/metrics.jsonl"))  # noqa: E731
    code, shown = on_a_terminal(*SWEEP, *options, keys=b"\x03", after=begun, cwd=tmp_path)
    assert code == 130
    assert "2 runs, engine vectorized" in shown
    assert f"{LINE}\n" in shown
    assert "Traceback" not in shown


BEGINNING = """
import rich.live, signal, time
import lowland.commands, lowland.interrupts
start, end = rich.live._RefreshThread.start, lowland.interrupts.Interrupts.end
def begin(thread):
    start(thread)
    signal.raise_signal(signal.SIGINT)
rich.live._RefreshThread.start = begin
lowland.interrupts.Interrupts.end = lambda *arguments: (time.sleep(0.5), end(*arguments))
def call(arguments):
    from lowland.training.sweep.progress import sweep_bar
    with sweep_bar({}, {}, None):
        return 0
lowland.commands.call = call
"""


def test_a_bar_that_only_begins_is_not_drawn_once_more(tmp_path):
    """Its thread had begun to draw when Ctrl-C came; the line stays the last thing on the terminal."""
    code, shown = on_a_terminal("list", setup=BEGINNING, cwd=tmp_path)
    assert code == 130
    assert shown.startswith("\x1b[?25l")
    assert shown.removesuffix("\x1b[?25h").endswith(f"{LINE}\n")


def test_tables_are_as_wide_as_the_terminal(tmp_path):
    rows = [["andriushchenko2022/convergence", "CIFAR-10: SAM's training loss and gradient norm"]]
    printed = f"from lowland.commands.printing import *; table(['name', flows('what it is')], {rows}); say('x ' * 40)"
    code, shown = on_a_terminal("--version", columns=50, setup=printed, cwd=tmp_path)
    assert code == 0
    lines = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in shown.splitlines()]
    assert max(map(len, lines)) <= 50
    assert lines[:4] == [
        "name                            what it is",
        "------------------------------  ------------------",
        "andriushchenko2022/convergence  CIFAR-10: SAM's",
        "                                training loss and",
    ]
