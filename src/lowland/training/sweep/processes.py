"""The engine that trains in many processes of this machine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path

import torch

from lowland.errors import SettingError
from lowland.training.sweep.attempts import ATTEMPTS, after, packed
from lowland.training.sweep.job import Job, News

_PATIENCE_SECONDS = 60.0  # for a directory that a crashed worker's own processes still hold
_GRACE_SECONDS = 5.0
_LOOK_SECONDS = 0.5  # between two looks at whether a silent worker still lives
_SCRIPT = Path(__file__).with_name("worker.py")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Processes:
    """Train each job in one of several worker processes, which live on from job to job.

    A worker that crashes is replaced, and its job goes on from its checkpoint in another one; a job whose workers
    crash twice has failed. Each worker has its share of the cores, and with ``cuda`` one GPU. The number of threads
    depends on the machine and on ``workers`` only, never on how many jobs there are: a sweep that is resumed gives the
    same bits.

    Args:
        workers: how many at once; as many as this process may use cores, or GPUs for ``cuda``, unless said otherwise.

    Raises:
        SettingError: for less than one, and on Windows.
    """

    def __init__(self, workers: int | None = None):
        if workers is not None and workers < 1:
            raise SettingError(f"workers must be at least 1, not {workers}")
        if reason := no_processes():
            raise SettingError(reason)
        self.workers = workers

    def __call__(self, jobs: Sequence[Job], hear: Callable[[Job, News], None]) -> None:
        """Train all ``jobs``; see `SweepEngine`."""
        gpus = visible_gpus(os.environ) if any(job.device == "cuda" for job in jobs) else []
        seats = seats_for(usable_cores(), gpus, self.workers, len(jobs))
        waiting = deque(_WorkerTask(job) for job in jobs)
        workers: dict[int, _Worker] = {}
        try:
            while waiting or any(worker.task for worker in workers.values()):
                for seat in seats:
                    if waiting and (seat.number not in workers or workers[seat.number].task is None):
                        worker = workers.get(seat.number) or workers.setdefault(seat.number, _Worker(seat))
                        worker.take(waiting.popleft())
                for worker in _speaking(workers.values()):
                    task = worker.listen(hear)
                    if worker.process.returncode is not None:
                        del workers[worker.seat.number]
                    if task is not None:
                        waiting.appendleft(task)
        except BaseException:
            for worker in workers.values():
                worker.process.terminate()
            raise
        finally:
            for worker in workers.values():
                worker.pipe.close()  # all at once, then one after the other
            for worker in workers.values():
                worker.close()


def no_processes() -> str:
    """Why this system can't have worker processes; empty if it can."""
    if hasattr(signal, "pthread_sigmask"):
        return ""
    return "--engine process needs Linux or macOS: on Windows use --engine vectorized, or Linux in Windows (WSL)"


@dataclass(frozen=True)
class Seat:
    """What a worker process may use."""

    number: int
    threads: int
    cores: tuple[int, ...]
    gpu: str | None


def usable_cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` calls them."""
    count = torch.cuda.device_count()  # asks the driver's library and leaves CUDA alone
    names = environment.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in names.split(",")][:count] if names else [str(index) for index in range(count)]


def seats_for(cores: Sequence[int], gpus: Sequence[str], workers: int | None, jobs: int | None = None) -> list[Seat]:
    """Cores and GPUs dealt out to ``workers``, None for as many as there are GPUs, if any, or else cores.

    Of those as many as there are ``jobs`` for; what each may use doesn't depend on that.
    """
    workers = workers or len(gpus) or len(cores)
    threads = max(1, len(cores) // workers)
    alone = workers * threads <= len(cores)  # else they share all cores, as the system sees fit
    return [
        Seat(
            number,
            threads,
            tuple(cores[number * threads : (number + 1) * threads] if alone else cores),
            gpus[number % len(gpus)] if gpus else None,
        )
        for number in range(workers if jobs is None else min(workers, jobs))
    ]


@dataclass
class _WorkerTask:
    """A job, and how its attempts have ended."""

    job: Job
    last: News = field(default_factory=News)
    crashes: list[str] = field(default_factory=list)


class _Worker:
    """A worker, seen from the parent: `lowland.training.sweep.worker` is the other side."""

    def __init__(self, seat: Seat):
        self.seat = seat
        self.task: _WorkerTask | None = None
        self._last_words, self._line = "", b""
        self.pipe, theirs = Pipe()
        setup = {
            "parent": os.getpid(),
            "path": [str(entry) for entry in sys.path],
            "threads": seat.threads,
            "cores": seat.cores if hasattr(os, "sched_setaffinity") else (),
        }
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(seat.threads))}
        if seat.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = seat.gpu
        with theirs, _without_interrupts():
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), str(theirs.fileno()), json.dumps(setup)],
                env=environment, pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
            )  # fmt: skip
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def ends(self) -> list[int]:
        """The descriptors that it speaks through."""
        return [self.pipe.fileno(), *([] if self.output.closed else [self.output.fileno()])]

    def take(self, task: _WorkerTask) -> None:
        """Send ``task`` to the worker process."""
        self.task = task
        content = packed(task.job, _PATIENCE_SECONDS if task.crashes else 0.0)
        with contextlib.suppress(OSError):  # it died idle: `listen` will find out
            self.pipe.send_bytes(content)

    def listen(self, hear: Callable[[Job, News], None]) -> _WorkerTask | None:
        """Pass on what the worker has said; the task, if it must be tried again."""
        self.print()
        dead = self.process.poll() is not None
        said = []
        try:
            while self.pipe.poll():
                said.append(self.pipe.recv())
        except (EOFError, OSError):
            dead = True
        for kind, content in said:  # not in there: an OSError of whoever hears, whose stderr is closed, is no death
            assert self.task is not None
            if kind == "news":
                self.task.last = content
                hear(self.task.job, content)
            elif kind == "crash":
                self._last_words = content  # it is about to end
            else:
                self._conclude(hear, content)
        return self._ended(hear) if dead else None

    def _ended(self, hear: Callable[[Job, News], None]) -> _WorkerTask | None:
        code = self.process.wait()
        self.print()
        self.close()
        if self.task is None:
            return None
        how = f"was killed (signal {-code})" if code < 0 else f"ended (exit code {code})"
        self.task.crashes.append(self._last_words or f"the worker process {how}")
        if len(self.task.crashes) < ATTEMPTS:
            return self.task
        self._conclude(hear, after(self.task.crashes))
        return None

    def _conclude(self, hear: Callable[[Job, News], None], error: str) -> None:
        task, self.task = self.task, None
        assert task is not None
        hear(task.job, replace(task.last, ended=True, error=error))

    def print(self) -> None:
        """Print whole lines of what the worker printed: a bar on stderr then knows to step aside."""
        while not self.output.closed and wait([self.output.fileno()], timeout=0):
            content = os.read(self.output.fileno(), 1 << 16)
            if not content:
                self.output.close()
            *lines, self._line = (self._line + content).split(b"\n")
            for line in lines:
                print(line.decode(errors="replace"), file=sys.stderr)

    def close(self) -> None:
        """Let it go, and see it gone."""
        self.pipe.close()
        try:
            self.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()


def _speaking(workers: Iterable[_Worker]) -> list[_Worker]:
    """Wait for those that have something to say, or have ended: what they started may keep their pipes open."""
    workers = list(workers)
    ends = [end for worker in workers for end in worker.ends()]
    ready = set(wait(ends, timeout=_LOOK_SECONDS))
    return [worker for worker in workers if ready.intersection(worker.ends()) or worker.process.poll() is not None]


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """What starts in here is deaf to Ctrl-C until it says otherwise; a half-started Python would print a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
