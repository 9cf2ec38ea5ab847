"""Moments of a command, and what may happen in them: by names, for processes of the command line to set up."""

import json
import os
import pty
import signal
import threading
import time
from pathlib import Path


def at(phase, count, act):
    """When the command comes to a ``phase`` for the ``count``-th time, something happens."""
    left = [count]

    def now():
        left[0] -= 1
        if left[0] == 0:
            Path("reached").touch()
            ACTS[act]()

    PHASES[phase](now)


def on_a_terminal():
    """Streams are those of a terminal; what it shows is in the file ``shown``."""
    ours, theirs = pty.openpty()
    watcher = os.fork()  # it outlives this process, to see what was said last
    if not watcher:
        os.close(theirs)
        _watch(ours)
    for descriptor in range(3):
        os.dup2(theirs, descriptor)
    os.close(theirs)
    os.close(ours)
    _watchers.append(watcher)


def often():
    """Where there is no terminal, a line comes often; not so often that it fills a pipe that is read at the end."""
    from lowland import patience

    patience.EVERY = 0.05


_watchers = []


def _watch(terminal):
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with open("being shown", "wb", buffering=0) as shown:
            try:
                while content := os.read(terminal, 1 << 12):
                    shown.write(content)
            except OSError:
                pass  # nobody writes there any more
        os.replace("being shown", "shown")
    finally:
        os._exit(0)


def _before(holder, name, now):
    real = getattr(holder, name)

    def call(*arguments, **options):
        now()
        return real(*arguments, **options)

    setattr(holder, name, call)


def _opening(now):
    from lowland.training import RunDirectory

    _before(RunDirectory, "__enter__", now)


def _making(now):
    from lowland.training.experiment import Experiment

    _before(Experiment, "task", now)


def _training(now):
    from tests import fakes

    _before(fakes, "pause", now)


def _hearing(now):
    from lowland.training.sweep.progress import SweepBar

    _before(SweepBar, "__call__", now)


def _drawing(now):
    from matplotlib.figure import Figure

    _before(Figure, "savefig", now)


def _judging(now):
    from lowland import training
    from lowland.experiments import sweeping

    _before(training, "summarize", now)
    _before(sweeping, "summarize_sweep", now)


def _telling(now):
    from lowland.commands import run, sweep

    _before(run, "_report", now)
    _before(sweep, "_report", now)


def in_the_midst(now):
    """When half of a file is written beside its place."""
    real = Path.open

    def opened(path, mode="r", *arguments, **options):
        file = real(path, mode, *arguments, **options)
        return _Torn(file, now) if mode == "wb" and path.name.endswith(".part") else file

    Path.open = opened


def in_fsync(now):
    """When all of it is written and may not have reached the disk."""
    _before(os, "fsync", now)


def before_it_is_in_place(now):
    """When it is whole, beside its place."""
    _before(os, "replace", now)


def after_it_is_in_place(now):
    """When it has just come there."""
    real = os.replace
    os.replace = lambda *paths: (real(*paths), now())[0]


class _Torn:
    def __init__(self, file, now):
        self.file, self.now = file, now

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        half = len(content) // 2
        self.file.write(content[:half])
        self.file.flush()
        self.now()
        self.file.write(content[half:])

    def __getattr__(self, name):
        return getattr(self.file, name)


WRITES = {
    "the midst": in_the_midst,
    "fsync": in_fsync,
    "before it is in place": before_it_is_in_place,
    "after it is in place": after_it_is_in_place,
}
PHASES = WRITES | {
    "opening the folder": _opening,
    "making the network": _making,
    "training": _training,
    "hearing of workers": _hearing,
    "drawing": _drawing,
    "judging": _judging,
    "telling": _telling,
}


def _signalled(*numbers):
    def act():
        for number in numbers:
            os.kill(os.getpid(), number)

    return act


def _while_it_hangs():
    """Ctrl-C, and once more when nothing has ended within a second."""
    from lowland.training import RunDirectory

    RunDirectory.__exit__ = lambda *_: time.sleep(60)
    pid = os.getpid()
    threading.Timer(1.5, os.kill, (pid, signal.SIGINT)).start()
    os.kill(pid, signal.SIGINT)


def _nobody_reads(descriptor):
    def act():
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, descriptor)
        os.close(write)

    return act


def _terminal_goes():
    watcher = _watchers.pop()
    os.kill(watcher, signal.SIGKILL)
    os.waitpid(watcher, 0)


ACTS = {
    "SIGKILL": _signalled(signal.SIGKILL),
    "SIGTERM": _signalled(signal.SIGTERM),
    "SIGHUP": _signalled(signal.SIGHUP),
    "SIGQUIT": _signalled(signal.SIGQUIT),
    "Ctrl-C": _signalled(signal.SIGINT),
    "Ctrl-C twice": _signalled(signal.SIGINT, signal.SIGINT),
    "Ctrl-C, and again": _while_it_hangs,
    "nobody reads stdout": _nobody_reads(1),
    "nobody reads stderr": _nobody_reads(2),
    "the terminal goes": _terminal_goes,
}


def workers_die(what, count, whom, often):
    """A worker process of a sweep is killed in its ``count``-th write: it alone, or all of the sweep.

    Args:
        what: a moment of `WRITES`.
        count: which write of the worker.
        whom: ``"worker"`` or ``"all"``.
        often: whether every worker dies so; else the first that comes there.
    """
    from lowland.training.sweep import processes

    processes._SCRIPT = Path(__file__).with_name("dying_worker.py")
    os.environ["HOSTILE_DEATH"] = json.dumps([what, count, whom, often, str(Path.cwd() / "died")])


SETUPS = {one.__name__: one for one in (at, on_a_terminal, often, workers_die)}
