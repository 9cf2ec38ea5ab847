"""Processes that are forked from one in which everything is loaded: each begins within milliseconds.

`Command` is one of the command line; `tests.cases` has several train together.
"""

import multiprocessing
import os
import signal
import sys

from tests.full_disk import stay_full
from tests.processes import ROOT, Ended


def fork(target, *arguments):
    """A process that calls ``target(*arguments)``, started."""
    context = multiprocessing.get_context("forkserver")
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(ROOT) not in path:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, path)])
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    context.set_forkserver_preload(["tests.loaded"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


class Command:
    """A process of the command line that is under way. What it prints must fit into a pipe.

    Args:
        arguments: what is typed after ``lowland``.
        cwd: where it runs.
        setup: what happens inside before: functions that it can import, each with its arguments.
        environment: variables; one that is None is not there.
    """

    ended = Ended

    def __init__(self, *arguments, cwd, setup=(), environment=None):
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(2)]
        self._ends = [ours for ours, _ in pipes]
        theirs = [theirs for _, theirs in pipes]
        self.process = fork(_work, [str(one) for one in arguments], str(cwd), theirs, setup, environment or {})
        for end in theirs:
            end.close()

    def kill(self, number=signal.SIGKILL):
        """Send it a signal."""
        os.kill(self.process.pid, number)

    def line(self):
        """The next line on its stderr."""
        found = b""
        while not found.endswith(b"\n"):
            content = os.read(self._ends[1].fileno(), 1)
            assert content, found
            found += content
        return found.decode()

    def wait(self, seconds=120):
        """Its end; it has so many seconds left."""
        self.process.join(seconds)
        late = self.process.exitcode is None
        if late:
            self.process.kill()
            self.process.join()
        ended = self.ended(self.process.exitcode, *map(_drained, self._ends))
        self.process.close()
        assert not late, f"it did not end within {seconds} s: {ended}"
        return ended


def _drained(end):
    """What was written into a pipe; whoever still holds its other end isn't waited for."""
    os.set_blocking(end.fileno(), False)
    parts = []
    try:
        while part := os.read(end.fileno(), 1 << 16):
            parts.append(part)
    except BlockingIOError:
        pass
    end.close()
    return b"".join(parts).decode(errors="replace")


def _work(arguments, cwd, ends, setup, environment):
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for descriptor, end in enumerate(ends, 1):
        os.dup2(end.fileno(), descriptor)
        end.close()
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - new ones: these don't think that they are files
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(value)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are deaf
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and what nohup started
    from lowland import cli

    for function, *values in setup:
        function(*values)
    sys.argv = ["lowland", *arguments]
    cli.main()


def undrawn():
    """No figures, which take longer than all else."""
    from lowland import report

    report.draw_run = report.draw_sweep = lambda *_, **__: []


def small_files():
    """A limit that stands in for a full disk: a checkpoint can't be written."""
    stay_full(20_000)


def save_every(seconds):
    """A checkpoint as often as that."""
    from lowland.training import drive

    drive._SECONDS = seconds
