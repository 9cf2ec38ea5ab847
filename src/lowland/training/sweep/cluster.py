"""The engine that trains on many machines, through Ray."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from lowland.errors import RunError, SettingError, install
from lowland.training.sweep.attempts import ATTEMPTS, after, attempt, one_line, packed
from lowland.training.sweep.job import Job, News
from lowland.training.sweep.processes import usable_cores
from lowland.values import Foreign

_LOOK_SECONDS = 0.2
_ANSWER_SECONDS = 20.0  # for a cluster to answer
_SIGHT_SECONDS = 10.0  # for a new file to be seen on another node
_PATIENCE_SECONDS = 120.0  # for the lock of a lost node, which the filesystem may have to time out
_LOSSES = 20  # a job that has lost so many nodes is taken for the reason
_OBJECT_STORE_BYTES = 100 * 2**20  # nothing large goes through it
_HEALTH_CHECK = "from ray.scripts.scripts import main; main()"


class Ray:
    """Train each job as a task of a Ray cluster, on one core, or one GPU for ``cuda``.

    The jobs' paths must lie on a filesystem that all nodes share: a job whose node is lost goes on from its checkpoint
    on another node. A job whose worker process crashes by itself is tried once more, as with `Processes`. Every run
    has one thread, so that it gives the same bits on whatever node of a kind it is resumed.

    Args:
        address: of the cluster's head, ``HOST:PORT``; without one, a cluster of this machine alone is started, and
            shut down at the end. Where the caller has called ``ray.init`` already, that connection is used.
    """

    def __init__(self, address: str | None = None):
        self.address = address
        try:
            import ray  # noqa: F401
        except ImportError:
            raise SettingError(f"--engine ray needs Ray; {install('ray')}") from None

    def __call__(self, jobs: Sequence[Job], hear: Callable[[Job, News], None]) -> None:
        """Train all ``jobs``; see `SweepEngine`.

        Raises:
            RunError: if no cluster answers at the address, or SIGTERM has come.
        """
        if not jobs:
            return
        # What Ray has to say of its nodes and workers it prints on stdout, which is not its own.
        before = signal.getsignal(signal.SIGTERM)
        with (
            redirect_stdout(sys.stderr),
            _connection(self.address),
            _terminable(before) as check,
            _token(jobs) as token,
        ):
            _Sweep(jobs, hear, token).run(check)


@contextmanager
def _connection(address: str | None) -> Iterator[None]:
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a warning about a change to come
    options: dict[str, object] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": len(usable_cores()),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}},
        }
    else:
        _check_answer(address)
        options["address"] = address
    try:
        ray.init(**options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        where = f"no Ray cluster answers at {address}" if address else "Ray doesn't start"
        raise RunError(f"{where}: {one_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _terminable(before: Callable[[int, FrameType | None], object] | int | None) -> Iterator[Callable[[], None]]:
    """A function that ends the sweep in one line once SIGTERM has come: Ray itself aborts with a list of addresses.

    ``before`` is who handled the signal before Ray took it: what it can do is done then, in place of the line.
    """
    come = threading.Event()

    def check() -> None:
        if come.is_set():
            come.clear()
            if callable(before):
                before(signal.SIGTERM, None)
            raise RunError("ended by SIGTERM; the same command goes on where it stopped")

    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield check
        return
    # An exception out of the handler would get lost in Ray's own code.
    signal.signal(signal.SIGTERM, lambda *_: come.set())
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _check_answer(address: str) -> None:
    """RunError if no cluster answers soon: Ray itself would go on trying for minutes, then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # a name that Ray knows or refuses at once, such as "auto"
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS / 4).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"no Ray cluster answers at {address}: {one_line(error)}") from error
    if address.startswith("ray://"):
        return
    command = [sys.executable, "-c", _HEALTH_CHECK, "health-check", "--address", address]
    try:
        subprocess.run(command, capture_output=True, timeout=_ANSWER_SECONDS, check=True)
    except subprocess.SubprocessError as error:
        raise RunError(f"no Ray cluster answers at {address}: something else listens there") from error


@contextmanager
def _token(jobs: Sequence[Job]) -> Iterator[Path]:
    """A file above the jobs' directories, by which a node can tell whether it sees what this process sees."""
    above = Path(os.path.commonpath([job.path.parent for job in jobs]))
    above.mkdir(parents=True, exist_ok=True)
    token = above / f".seen-{uuid.uuid4().hex}.part"
    token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def _appears(token: Path) -> bool:
    """Whether the file is seen here, given the time that a network's filesystem may take."""
    last = time.monotonic() + _SIGHT_SECONDS
    while not token.exists():
        if time.monotonic() > last:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _train(content: bytes, token: Path, box: Foreign, number: int, attempts: int) -> tuple[str, str, News]:
    """The task, on a node: as `attempt`, with the last news; the others go into the box on the way."""
    import ray
    import torch

    def put(what: str | News) -> None:
        box.put.remote(pickle.dumps((number, attempts, what)))

    last = News()

    def tell(news: News) -> None:
        nonlocal last
        last = news
        put(news)

    put(ray.get_runtime_context().get_node_id())
    if not _appears(token):
        reason = f"doesn't see {token.parent}: --out must lie on a filesystem that all nodes share"
        return "error", f"the node {socket.gethostname()} {reason}", last
    torch.set_num_threads(1)
    return *attempt(content, tell), last


def _make_box() -> Foreign:
    """An actor beside this process, which keeps what tasks tell until it is asked."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Box:  # in here so that Ray takes it along by value: a process of its own needs no torch
        def __init__(self) -> None:
            self.told: list[bytes] = []

        def put(self, what: bytes) -> None:
            self.told.append(what)

        def take(self) -> list[bytes]:
            told, self.told = self.told, []
            return told

    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Box).options(num_cpus=0, scheduling_strategy=beside).remote()


@dataclass
class _RayTask:
    """A job, and how its attempts have ended."""

    number: int
    job: Job
    last: News = field(default_factory=News)
    attempts: int = 0
    node: str = ""
    crashes: list[tuple[str, str]] = field(default_factory=list)  # the reason, and the node
    ended: bool = False


class _Sweep:
    """Jobs under way on the cluster that this process is connected to."""

    def __init__(self, jobs: Sequence[Job], hear: Callable[[Job, News], None], token: Path):
        self.hear, self.token = hear, token
        self.tasks = [_RayTask(number, job) for number, job in enumerate(jobs)]
        self.running: dict[Foreign, _RayTask] = {}
        self.asked: Foreign = None

    def run(self, check: Callable[[], None]) -> None:
        """Until all have ended; ``check`` is called now and then, and may raise."""
        import ray

        self.box = _make_box()
        try:
            for task in self.tasks:
                self._submit(task)
            while self.running:
                check()
                ready, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=_LOOK_SECONDS)
                self._pass_on()
                for reference in ready:
                    self._end(self.running.pop(reference), reference)
        finally:
            for reference in self.running:
                with suppress(Exception):  # the cluster itself may be what is gone
                    ray.cancel(reference, force=True)
            with suppress(Exception):
                ray.kill(self.box)

    def _submit(self, task: _RayTask) -> None:
        import ray

        content = packed(task.job, _PATIENCE_SECONDS if task.attempts else 0.0)
        task.attempts += 1
        task.node = ""
        gpus = 1 if task.job.device == "cuda" else 0
        # Ray's own retries don't tell a lost node from a run that crashes wherever it runs.
        remote = ray.remote(_train).options(num_cpus=1, num_gpus=gpus, max_retries=0)
        self.running[remote.remote(content, self.token, self.box, task.number, task.attempts)] = task

    def _pass_on(self) -> None:
        """News from the box, if it has answered."""
        import ray

        if self.asked is None:
            self.asked = self.box.take.remote()
        if not ray.wait([self.asked], timeout=0)[0]:
            return
        with suppress(ray.exceptions.RayError):  # without the box there is no news, and training goes on
            for content in ray.get(self.asked):
                number, attempts, what = pickle.loads(content)
                task = self.tasks[number]
                if task.ended or attempts != task.attempts:
                    continue  # from an attempt that was given up
                if isinstance(what, News):
                    task.last = what
                    self.hear(task.job, what)
                else:
                    task.node = what
        self.asked = None

    def _end(self, task: _RayTask, reference: Foreign) -> None:
        import ray

        try:
            kind, text, task.last = ray.get(reference)
        except ray.exceptions.NodeDiedError:
            kind, text = "lost", "its node was lost"
        except ray.exceptions.OutOfMemoryError:
            kind, text = "crash", "the worker process was ended, since its node ran out of memory"
        except ray.exceptions.WorkerCrashedError:
            kind, text = "crash", "the worker process crashed"
        except ray.exceptions.RayError as error:
            kind, text = "crash", f"Ray failed with {type(error).__name__} ({str(error).strip().splitlines()[-1]})"
        if kind == "crash":
            task.crashes.append((text, task.node))
            reasons = self._faults(task)
            if len(reasons) >= ATTEMPTS:
                kind, text = "error", after(reasons)
        if kind in ("lost", "crash"):
            if task.attempts <= _LOSSES:
                self._submit(task)
                return
            text = f"{text}, and others before: given up after {task.attempts} attempts"
        task.ended = True
        self.hear(task.job, replace(task.last, ended=True, error=text))

    def _faults(self, task: _RayTask) -> list[str]:
        """Why the job's workers crashed, but for those whose node turned out to be lost."""
        import ray

        dead = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
        return [reason for reason, node in task.crashes if node not in dead]
