"""Processes of the command line, many of them: each is forked from one that has everything loaded already.

What is to happen inside a process is said by names of functions in `SETUPS`, with their arguments.
"""

import ctypes
import os
import resource
import signal
import tempfile
import threading
from pathlib import Path

import pytest

from tests import processes
from tests.forked import Command, undrawn
from tests.full_disk import stay_full

from . import phases


def whole(*values):
    """Parameters of the whole campaign, which `make test` leaves out."""
    return [
        pytest.param(*value, marks=pytest.mark.hostile)
        if type(value) is tuple and len(value) == 2 and type(value[1]) is bool
        else pytest.param(value, marks=pytest.mark.hostile)
        for value in values
    ]


class Ended(processes.Ended):
    """What became of a command."""

    def is_clear(self):
        """Whether it ended as it may, and said no more than one line where something was to be mended."""
        lines = self.err.splitlines()
        if "Traceback" in self.err or "Traceback" in self.out or self.code not in (0, 1, 2):
            return False
        return self.code != 2 or (bool(lines) and lines[-1].startswith("lowland: ") and len(self.complaints()) == 1)

    def complaints(self):
        """The lines on stderr but for those that say where and how a run is under way."""
        headers = ("run directory", "sweep directory")
        return [
            line for line in self.err.splitlines()
            if line.strip() and not line.startswith(headers) and ", engine " not in line and " done, " not in line
        ]  # fmt: skip


class Child(Command):
    """One that knows the victim; what is to happen in it is said by names in `SETUPS`."""

    ended = Ended

    def __init__(self, *arguments, setup=(), **options):
        named = [(SETUPS[name], *values) for name, *values in setup]
        super().__init__(*arguments, setup=[(use_victim,), *named], **options)


def call(*arguments, seconds=120, **options):
    """A process of the command line, to its end."""
    return Child(*arguments, **options).wait(seconds)


# What may happen inside.


def use_victim():
    """The experiment tests/victim is known to the command line, too."""
    from lowland.training import registry

    registry.load("tests.fakes")


def offline():
    """The network is not there."""
    import urllib.request

    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    urllib.request.OpenerDirector.open = refuse


def limit(name, value):
    """A limit of the system's: of memory, or of open files."""
    resource.setrlimit(getattr(resource, name), (value, value))


def spare_memory(more):
    """So many bytes more of address space than the process has."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    limit("RLIMIT_AS", size + more)


def until(seconds):
    """End after so many seconds: it may take as long as it likes, and nobody waits."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def die_in(what, count):
    """SIGKILL in the ``count``-th write of a file: before it, in its midst, before it is put in place, or after."""
    phases.at(what, count, "SIGKILL")


def die_drawing(form, late):
    """SIGKILL while the first figure in this form is made: at once, or when all of it is drawn."""
    from matplotlib.figure import Figure

    real = Figure.savefig

    def save(figure, *arguments, **options):
        if options.get("format") == form:
            if late:
                real(figure, *arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(figure, *arguments, **options)

    Figure.savefig = save


def die_after_drawing_began(seconds):
    """SIGKILL so many seconds after the first figure is begun."""
    from lowland import report

    def later(draw):
        def drawn(*arguments, **options):
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return draw(*arguments, **options)

        return drawn

    report.draw_run, report.draw_sweep = later(report.draw_run), later(report.draw_sweep)


def fail_in(name, count, number):
    """The ``count``-th call of a function of ``os`` fails with the error ``number``, as on a full or broken disk."""
    real, left = getattr(os, name), [count]

    def call(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    setattr(os, name, call)


_ANY_FILE, _SEARCH, _OWNER = 1, 2, 3  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


def _capabilities(change):
    """Those of this process, in words of 32 bits: effective, permitted, inheritable, for the lower numbers first."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for which in range(3):
        sets[which] = change(sets[which])
    assert libc.capset(header, sets) == 0
    return libc


def ordinary_rights():
    """Root may no longer do what the rights of a file or folder forbid its owner, nor may its child processes."""
    if os.geteuid():
        return
    libc = _capabilities(lambda words: words & ~(1 << _ANY_FILE | 1 << _SEARCH | 1 << _OWNER))
    for capability in (_ANY_FILE, _SEARCH, _OWNER):
        assert libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP: for programs that it starts


def become_unknown():
    """A user that no list has, who may read all files: Python may lie in somebody's home."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(8, 1, 0, 0, 0) == 0  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)
    _capabilities(lambda words: 1 << _SEARCH)
    assert libc.prctl(47, 2, _SEARCH, 0, 0) == 0  # PR_CAP_AMBIENT_RAISE: for the program that it becomes


_ALL = (
    undrawn, offline, limit, stay_full, spare_memory, until, die_in, die_drawing, die_after_drawing_began, fail_in,
    ordinary_rights,
)  # fmt: skip
SETUPS = {one.__name__: one for one in _ALL} | phases.SETUPS


def open_to_all(folder):
    """``folder``, all in it, and the folders of ours above it: everybody may read them."""
    above = [path for path in folder.parents if path.stat().st_uid == os.geteuid()]
    for path in above:
        if path.is_relative_to(tempfile.gettempdir()) and path != Path(tempfile.gettempdir()):
            path.chmod(0o755)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
