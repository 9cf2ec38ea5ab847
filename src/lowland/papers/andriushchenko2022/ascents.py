"""Two ascents that a closure over the batch can't say: over other images, and by groups one after another."""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.errors import SettingError
from lowland.optim import SAM
from lowland.values import ParameterGroup, StateDict


class _Around:
    """An optimizer around a `lowland.SAM`, which has its state; in one process alone."""

    def __init__(self, sam: SAM, what: str):
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise SettingError(f"{what} runs in one process alone: start without torchrun")
        self.sam = sam

    @property
    def param_groups(self) -> list[ParameterGroup]:
        """SAM's parameter groups, which are the base optimizer's."""
        return self.sam.param_groups

    def state_dict(self) -> StateDict:
        """SAM's state: there is none beside it."""
        return self.sam.state_dict()

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.sam.load_state_dict(state_dict)


class AscentOverTraining(_Around):
    """`lowland.SAM` whose ascent accumulates the gradient over other images than those of the step's closure.

    A step takes the gradient of ``batches(step)`` at w, some images at a time, so that memory is bounded by those; then
    that of the closure at w + ε. It costs so many times a gradient more as these images are batches. Batch norm takes
    the statistics of the images that are evaluated together; its running statistics move with each of those at w.

    Args:
        sam: with two passes a step; its ``l2`` is counted once in each.
        batches: step → ``(x, y)``, some images at a time.
        examples: how many images these are together.
        model: what is evaluated.
        autocast: the type that is computed in, if not that of the weights.

    Raises:
        SettingError: in several processes.
    """

    def __init__(
        self,
        sam: SAM,
        batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
        examples: int,
        model: nn.Module,
        autocast: torch.dtype | None,
    ):
        super().__init__(sam, "n-SAM's ascent over training images")
        self.batches, self.examples = batches, examples
        self.model, self.autocast = model, autocast

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Climb along the mean gradient over ``batches``, descend along ``closure``'s; its loss, which is at w + ε."""
        self.sam.zero_grad()
        step, losses = self.sam.steps, list[Tensor]()
        for index, evaluation in enumerate(self.sam.passes()):
            with evaluation:
                if index == 0:
                    self._accumulate(step)
                else:
                    losses.append(closure())
        self.sam.step()
        return losses[0]

    def _accumulate(self, step: int) -> None:
        for x, y in self.batches(step):
            with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
                loss = F.cross_entropy(self.model(x), y, reduction="sum")
            (loss / self.examples).backward()


class GroupAfterGroup(_Around):
    """m-SAM by accumulation, as the authors' code has it: batch norm's running statistics move in every evaluation.

    Each group of m images of the batch climbs and descends for itself, one after another; the gradients at their w + ε
    add up, and the base optimizer takes one step. A step evaluates the batch twice, m images at a time, and moves the
    running statistics twice for each group. Otherwise it is the step of ``SAM(m=…)``.

    Args:
        sam: without ``m`` and ``model``; ``l2`` is counted once.
        m: images that share a perturbation; the last group of a batch is smaller where m doesn't divide it.
        batch: step → ``(x, y)``, what the closure is of.
        model: what is evaluated.
        autocast: the type that is computed in, if not that of the weights.

    Raises:
        SettingError: in several processes.
    """

    def __init__(
        self,
        sam: SAM,
        m: int,
        batch: Callable[[int], tuple[Tensor, Tensor]],
        model: nn.Module,
        autocast: torch.dtype | None,
    ):
        super().__init__(sam, "m below the batch with statistics=both")
        self.m, self.batch, self.model, self.autocast = m, batch, model, autocast
        self.l2 = sam.l2

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Update; the batch's mean loss at w. ``closure`` is not called: it evaluates the whole batch at once."""
        self.sam.zero_grad()
        x, y = self.batch(self.sam.steps)
        mean = x.new_zeros((), dtype=torch.float32)
        for images, targets in zip(x.split(self.m), y.split(self.m), strict=True):
            share = len(images) / len(x)
            self.sam.l2 = share * self.l2  # of each run through the passes
            for index, evaluation in enumerate(self.sam.passes()):
                with evaluation:
                    with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
                        loss = share * F.cross_entropy(self.model(images), targets)
                    loss.backward()
                    if index == 0:
                        mean += loss.detach()
        self.sam.step()
        return mean
