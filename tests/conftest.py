"""What many tests share."""

import gc
import math
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from lowland import cli, patience, report

from .processes import Ended

#: Imported by a process of its own: nobody looks for examples in it.
collect_ignore = ["loaded.py"]
# Collecting imports millions of objects, which stay: none is looked through for cycles, then or later.
gc.disable()
# Beside other tests Ray's own, 15, leaves its workers next to nothing of the processor.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - it is spelt so
# At each `torch.manual_seed` a backend without a device writes down the whole stack: a millisecond.
for backend in (torch.cuda, torch.xpu, torch.mtia):
    if not backend.is_available():
        backend.manual_seed_all = lambda seed: None


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files with tests that take long come first: what is left at the end, when a process may be idle, is short."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def lowland(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # the command line leaves both as it likes them
    monkeypatch.setattr(patience, "_before", list(patience._before))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lowland", *map(str, arguments)])
        before = signal.getsignal(signal.SIGINT)
        patience._before[:] = [-math.inf, 0.0]  # as in a process of its own: no line has been printed
        try:
            with pytest.raises(SystemExit) as stop:
                cli.main()
        finally:
            signal.signal(signal.SIGINT, before)
        captured = capsys.readouterr()
        return Ended(stop.value.code or 0, captured.out, captured.err)

    return call


@pytest.fixture
def undrawn(monkeypatch):
    """Runs and sweeps draw no figures, which takes longer than all else they do at smoke scale."""
    for draw in ("draw_run", "draw_sweep"):
        monkeypatch.setattr(report, draw, lambda *_, **__: [])


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C in the place of the ``count``-th call of a method, once; and a checkpoint after every step."""

    def arm(owner, method, count):
        from lowland.training.drive import Pace

        calls, real = [], getattr(owner, method)

        def call(*arguments):
            calls.append(method)
            if len(calls) == count:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(Pace, "due", lambda self: True)
        monkeypatch.setattr(owner, method, call)

    return arm


@pytest.fixture
def refused(lowland):
    """Run a command that must be refused: one line on stderr with every given text in it, exit code 2."""

    def call(*arguments, says=()):
        outcome = lowland(*arguments)
        message = outcome.err.strip().splitlines()
        assert outcome.code == 2, outcome
        assert len(message) == 1, outcome.err
        for text in (says,) if isinstance(says, str) else says:
            assert text in message[0]

    return call


@pytest.fixture(scope="session")
def cpp_compiler():
    """Tests of compiled code on the CPU skip where there is nothing to compile with."""
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))):
        pytest.skip("no C++ compiler")


@pytest.fixture(scope="session")
def data_root():
    """The folder of real datasets; tests that want it skip where there is none."""
    root = os.environ.get("LOWLAND_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("no real datasets: $LOWLAND_DATA is not set")
    return Path(root)
