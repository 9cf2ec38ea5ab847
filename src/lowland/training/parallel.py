"""One run by several processes, a device each: what they share, what the first does for all, how they end together.

`torchrun` starts them. All do the same, step by step; each passes its share of every batch, and DDP averages the
gradients. The first alone measures, writes and prints, while the others wait to hear what came of it.
"""

import gc
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lowland.errors import ElsewhereError, RunError, SettingError
from lowland.launched import launched
from lowland.training.randomness import random_state, restore_random_state, seed_everything
from lowland.training.rendezvous import meet
from lowland.training.task import Batch, Task
from lowland.values import State

_PATIENCE = timedelta(hours=24)  # the others wait while the first measures; a lost process is noticed at once
_NEVER = 2**62

T = TypeVar("T")


class Alone:
    """The only process of a run: everything is its own.

    Attributes:
        rank: which of the processes this is.
        count: how many there are.
    """

    rank, count = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this process measures, writes and prints."""
        return self.rank == 0

    def place(self, device: torch.device) -> torch.device:
        """The own device of that type; SettingError if there is none."""
        return device

    def first(self, action: Callable[[], T]) -> T:
        """``action()``, done by the first process only; all get its result, on their device.

        Raises:
            FloatingPointError: if the action raised it, in all processes.
            Exception: whatever else the action raised; `ElsewhereError` in the other processes.
        """
        return action()

    def together(self, action: Callable[[], T]) -> T:
        """``action()``, done by each; if it fails in one, `ElsewhereError` in all others."""
        return action()

    @contextmanager
    def inside(self, context: AbstractContextManager[object]) -> Iterator[None]:
        """In ``context``, which only the first process enters."""
        with ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(context)

            self.first(enter)
            yield

    def wrap(self, task: Task, step: int) -> nn.Module:
        """``task.model``, such that its gradients are those of all processes; about to train from ``step``."""
        return task.model

    def part_ways(self, seed: int) -> None:
        """From here on each process draws its own random numbers: dropout masks, say."""

    def share(self, batch: Batch) -> tuple[Batch, float | None]:
        """The own part of a batch, and what its mean loss counts; None for 1."""
        return batch, None

    def agree(self, decision: bool) -> bool:
        """What the first process has decided."""
        return decision

    def earliest(self, step: int) -> int:
        """The least of the processes' steps that isn't negative, or a negative one."""
        return step

    def gather(self, state: State) -> State:
        """The states of all processes, in the first."""
        return state

    def own(self, gathered: State) -> State:
        """The own state among those that `gather` gave."""
        return gathered


class World(Alone):
    """The processes that `torchrun` started; every method that communicates is called by all of them.

    What they tell each other goes from memory to memory (gloo), also where gradients go between GPUs (nccl).
    """

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cpu")
        self.ended = False  # by an error that all know of

    def place(self, device: torch.device) -> torch.device:
        if device.type == "cuda":
            index, there = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
            if index >= there:
                raise SettingError(
                    f"each process needs a CUDA device of its own, and torch sees {there} here: start no more than "
                    "that, or use --device cpu"
                )
            device = torch.device("cuda", index)
            torch.cuda.set_device(device)
        self.device = device
        return device

    def first(self, action: Callable[[], T]) -> T:
        news: list[object] = [None, None]
        if self.leads:
            try:
                result = action()
            except Exception as error:
                known = isinstance(error, FloatingPointError)
                dist.broadcast_object_list([str(error) if known else None, None], device=torch.device("cpu"))
                self.ended = not known
                raise
            sent = pytree.tree_map_only(Tensor, lambda t: t.cpu(), result)
            dist.broadcast_object_list([True, sent], device=torch.device("cpu"))
            return result
        dist.broadcast_object_list(news, device=torch.device("cpu"))
        outcome, received = news
        if outcome is True:
            return pytree.tree_map_only(Tensor, lambda t: t.to(self.device), received)
        if outcome is not None:
            raise FloatingPointError(outcome)
        self.ended = True
        raise ElsewhereError

    def together(self, action: Callable[[], T]) -> T:
        result: T | None = None
        failure: Exception | None = None
        try:
            result = action()
        except Exception as error:
            failure = error
        failed = self.earliest(-1 if failure is None else self.rank)
        if failed < 0:
            return result  # type: ignore[return-value]  # that of the action, which has not failed
        self.ended = True
        if failure is not None and failed == self.rank:
            raise failure
        raise ElsewhereError

    def wrap(self, task: Task, step: int) -> nn.Module:
        """See `Alone`; SettingError, in the first process, for a batch that can't be shared."""
        batch, _ = self.together(lambda: self.share(task.batch(step)))
        model = nn.parallel.DistributedDataParallel(
            task.model, device_ids=[self.device] if self.device.type == "cuda" else None
        )
        self._warm_up(model, task, batch)
        return model

    def _warm_up(self, model: nn.Module, task: Task, batch: Batch) -> None:
        """A backward pass that leaves no trace but DDP's buckets in the order that they keep.

        The sum of more than two numbers depends on their order, and that on the place in a bucket: without this,
        the first step of a resumed run would differ in the last bit from that of one which went on.
        """
        random, buffers = random_state(), [(buffer, buffer.clone()) for buffer in model.buffers()]
        x, y = batch
        with torch.enable_grad():
            task.loss_fn(model(x), y).backward()
        model.zero_grad()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        restore_random_state(random)

    def part_ways(self, seed: int) -> None:
        """See `Alone`; the first process draws on as it would alone."""
        if not self.leads:
            seed_everything(int(np.random.SeedSequence((seed, self.rank)).generate_state(1)[0]))

    def share(self, batch: Batch) -> tuple[Batch, float | None]:
        """See `Alone`: consecutive examples, a number that differs by one at most.

        Raises:
            SettingError: if there are fewer examples than processes, or tensors disagree on their number; in the
                first process, and `ElsewhereError` in the others.
        """
        sizes = {len(t) for t in pytree.tree_leaves(batch) if isinstance(t, Tensor) and t.dim()}
        size = min(sizes, default=0)
        if size < self.count or len(sizes) > 1:
            examples = " or ".join(map(str, sorted(sizes))) or "0"
            raise self._alike(
                f"a batch of {examples} example{'' if examples == '1' else 's'} can't be shared by {self.count} "
                "processes: start fewer, or choose larger batches"
                if len(sizes) < 2
                else f"a batch whose tensors have {examples} examples can't be shared by processes"
            )
        low, high = (size * rank // self.count for rank in (self.rank, self.rank + 1))
        part = pytree.tree_map_only(Tensor, lambda t: t[low:high] if t.dim() else t, batch)
        return part, None if (high - low) * self.count == size else (high - low) * self.count / size

    def _alike(self, message: str) -> Exception:
        """What a setting that is wrong in all processes raises in this one."""
        return SettingError(message) if self.leads else ElsewhereError()

    def agree(self, decision: bool) -> bool:
        flag = torch.tensor(int(decision))
        dist.broadcast(flag, 0)
        return bool(flag.item())

    def earliest(self, step: int) -> int:
        least = torch.tensor(step if step >= 0 else _NEVER)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return -1 if least.item() == _NEVER else int(least.item())

    def gather(self, state: State) -> State:
        states: list[State] | None = [None] * self.count if self.leads else None
        dist.gather_object(state, states, 0)
        return states

    def own(self, gathered: State) -> State:
        return gathered[self.rank]


@contextmanager
def world() -> Iterator[Alone]:
    """The processes that were started together with this one; they meet on the way in and end together.

    Raises:
        ElsewhereError: if another process failed; that one says why.
        RunError: in the first process, if another is gone; in any, if they can't meet.
    """
    if not launched():
        yield Alone()
        return
    meet(_PATIENCE)
    processes = World()
    try:
        yield processes
    except BaseException as error:
        if processes.ended:
            _part(error)
        elif _lost(error) and processes.leads:
            raise RunError(
                "another process of this run is gone: it was killed, or it says why; the same command goes on where it "
                "stopped"
            ) from None
        elif _lost(error):
            raise ElsewhereError from None
        raise
    else:
        _part()


def _part(error: BaseException | None = None) -> None:
    """Wait for the others, and end gloo's threads: one that still holds a tensor while Python ends aborts the process.

    They end when nothing holds the group any more. DDP does; a cycle or the frames of an ``error`` may hold DDP.
    """
    dist.barrier()
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
    dist.destroy_process_group()


def _lost(error: BaseException) -> bool:
    """Whether it shows that another process is gone."""
    text = str(error)
    gone = isinstance(error, RuntimeError) and ("by peer" in text or "Broken pipe" in text or "gloo" in text)
    return gone or isinstance(error, dist.DistError)
