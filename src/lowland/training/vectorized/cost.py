"""What a step of one run takes, counted without computing it: memory, and whether compiling pays."""

import logging
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lowland.errors import SettingError
from lowland.training.vectorized.batches import VectorizedBatches
from lowland.training.vectorized.runs import RunHyperparameters, Runs
from lowland.training.vectorized.step import VectorizedStep
from lowland.values import Args, Kwargs, Tree

# An eager step is taken to cost this much an operation and a byte that it writes; compiling, this long. They decide
# between two ways to compute the same, and are constants so that the choice is the same when a run is repeated.
_SECONDS_PER_OPERATION = 6e-6
_SECONDS_PER_BYTE = {"cpu": 1e-10, "cuda": 1e-12}
_COMPILE_SECONDS = 20.0
_SAVED = 1 / 3  # of an eager step, at least, by compiling it

_CACHED = 8 * 2**20  # bytes a CPU's thread: more runs fall out of its caches and are slower
_SHARE_OF_FREE = 0.8  # that one run may take
_SHARE_OF_ALL = 0.5  # that runs side by side may take


class _Counter(TorchDispatchMode):
    """Counts operations, bytes written, and the most bytes alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.written = self.alive = self.peak = 0
        self.seen = set[int]()

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Tree:
        results = func(*args, **(kwargs or {}))
        self.operations += 1
        for result in pytree.tree_leaves(results):
            if not isinstance(result, Tensor):
                continue
            storage = result.untyped_storage()
            key = storage._cdata
            if key not in self.seen:
                size = storage.nbytes()
                self.seen.add(key)
                self.written += size
                self.alive += size
                self.peak = max(self.peak, self.alive)
                weakref.finalize(storage, self._free, key, size)
        return results

    def _free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.alive -= size


@contextmanager
def _unsaid() -> Iterator[None]:
    """What fails in here is said by its exception alone: torch would log it, too."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class Cost:
    """Of one eager step of ``runs``: ``operations``, ``written`` and ``peak`` bytes beside those of the runs."""

    def __init__(self, runs: Runs, batches: VectorizedBatches):
        x, y, picked, shared = batches(0)
        step = VectorizedStep.of(runs, 0, compiled=False)
        fakes = FakeTensorMode(allow_non_fake_inputs=True)

        def fake(tree: Tree) -> Tree:
            return pytree.tree_map_only(Tensor, fakes.from_tensor, tree)

        counter = _Counter()
        stand_in = _Fake(runs, fake)
        with fakes, counter, _unsaid():
            step(stand_in, fake(x), fake(y), fake(picked), shared)  # type: ignore[arg-type]
        self.operations, self.written, self.peak = counter.operations, counter.written, counter.peak

    def pays_to_compile(self, steps: int, device: torch.device) -> bool:
        """Whether compiling takes less time than it saves over so many steps."""
        eager = self.operations * _SECONDS_PER_OPERATION + self.written * _SECONDS_PER_BYTE[device.type]
        return steps * eager * _SAVED > _COMPILE_SECONDS


class _Fake:
    """``runs`` with tensors that hold nothing."""

    def __init__(self, runs: Runs, fake: Callable[[Tree], Tree]):
        for name in (
            "params", "constants", "velocities", "bad_step", "step",
        ):  # fmt: skip
            setattr(self, name, fake(getattr(runs, name)))
        self.hyper = RunHyperparameters(*map(fake, runs.hyper))


def chunk_size(one: Runs, device: torch.device, threads: int | None = None) -> int:
    """How many runs like ``one`` go into one program at once.

    Args:
        one: a single run.
        device: it is on.
        threads: of the process that is to train it; by default this one's.

    Raises:
        SettingError: if not even one fits in memory.
    """
    size, free = _bytes_of(one), _free_bytes(device) * _SHARE_OF_FREE
    if size > free:
        raise SettingError(
            f"one run takes about {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB can be had: even one at a time it is "
            "too large; choose a smaller scale or batch"
        )
    # Of all memory, not of what is free now: a sweep that goes on shall be cut into programs as before.
    fitting = max(1, int(_all_bytes(device) * _SHARE_OF_ALL // size))
    if device.type != "cpu":
        return fitting
    threads = threads or torch.get_num_threads()
    return min(fitting, max(threads, threads * _CACHED // size))


def too_large(one: Runs, device: torch.device) -> str:
    """Why runs like that of ``one`` had better be trained one by one; empty if they had not.

    Raises:
        SettingError: if not even one fits in memory.
    """
    size = _bytes_of(one)
    if device.type == "cpu" and size > _CACHED:
        return f"a step of one run works on {size / 2**20:.0f} MiB, which keeps a core busy by itself"
    fitting = chunk_size(one, device)
    return "" if device.type == "cpu" or fitting > 1 else "no two runs fit in memory"


def _bytes_of(one: Runs) -> int:
    """What a run takes in memory: a step's tensors, its share of `Runs`, its task's own copy, and a checkpoint's."""
    held = sum(tensor.nbytes for tensor in pytree.tree_leaves(one.changing()) if isinstance(tensor, Tensor))
    return Cost(one, VectorizedBatches(one.tasks)).peak + 3 * held


def _all_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return _all_bytes(device) // 2
