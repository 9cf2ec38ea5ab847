"""Processes that tests start anew, from Python's first moment on, and what can be seen of them.

Those that may begin with everything loaded are in `tests.forked`, which saves seconds for each.
"""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# As no background job of a shell does, nor what nohup started.
HEARING = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); s.signal(s.SIGHUP, s.SIG_DFL)"


@dataclass
class Ended:
    """What became of a process: its exit code, negative for a signal, and what it printed."""

    code: int
    out: str
    err: str


def surroundings(**changes):
    """The environment of a process that finds the package and these tests; what changes to None is left out."""
    path = [str(ROOT / "src"), str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    known = os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"} | changes
    return {name: str(value) for name, value in known.items() if value is not None}


def python(*arguments, environment=None, **options):
    """``python *arguments``; returns at once. Its streams are pipes of text, where ``options`` don't say otherwise."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    command = [sys.executable, *(one if isinstance(one, bytes) else str(one) for one in arguments)]
    return subprocess.Popen(command, env=surroundings(**environment or {}), **streams | options)


def start(*arguments, setup="", **options):
    """The command line, which hears Ctrl-C, after some Python of the test's; returns at once."""
    return python("-c", f"{HEARING}\n{setup}\nfrom lowland.cli import main\nmain()", *arguments, **options)


def torchrun(script, *arguments, count=2, **options):
    """``count`` processes of a script, as torch's own command starts them; returns at once."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}")
    return python(*launcher, script, *arguments, **options)


def end(process, seconds=280, read=None):
    """The end of a process, which has so many seconds left; ``read`` is what it reads."""
    try:
        out, err = process.communicate(read, timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it did not end within {seconds} s: {process.communicate()}") from None
    return Ended(process.returncode, out, err)


def printed(code, **options):
    """What Python prints that runs ``code``, without an error."""
    ended = end(python("-c", code, **options))
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


def loaded_by(statement):
    """The packages and modules that a new process has loaded after ``import torch`` and this."""
    code = f"import sys, torch; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    return set(printed(code).split())


def until(there, process=None, seconds=150):
    """Wait until ``there()``, as long as the process lives."""
    deadline = time.monotonic() + seconds
    while not there():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid):
    """The processes that a process has started, and theirs."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(entry), *descendants(int(entry))]
    return found


def on_a_terminal(*arguments, keys=b"", act=None, after=lambda shown: True, columns=80, setup="", cwd=None):
    """What the command line shows on a terminal, and its exit code.

    As soon as ``after(shown)``, the ``keys`` are pressed, and ``act(process)`` is done.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = start(
        *arguments, setup=f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{setup}", cwd=cwd,
        stdin=theirs, stdout=theirs, stderr=theirs, environment={"TERM": "xterm", "COLUMNS": None},
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown, waiting = b"", bool(keys or act)
    while True:
        if waiting and after(shown):
            waiting = False
            os.write(ours, keys)
            if act is not None:
                act(process)
        if select.select([ours], [], [], 0.05)[0]:
            try:
                content = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            if not content:
                break
            shown += content
    os.close(ours)
    return process.wait(60), shown.decode(errors="replace").replace("\r\n", "\n")
