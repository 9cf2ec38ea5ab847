"""n-SAM: one perturbation for many training images, made apart from the batch that descends."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.errors import SettingError
from lowland.optim import SAM

Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


class AscentOverTraining:
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

    def __init__(self, sam: SAM, batches: Batches, examples: int, model: nn.Module, autocast: torch.dtype | None):
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise SettingError("n-SAM's ascent over training images runs in one process alone: start without torchrun")
        self.sam, self.batches, self.examples = sam, batches, examples
        self.model, self.autocast = model, autocast

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of ``sam``."""
        return self.sam.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        self.sam.param_groups = value

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

    def state_dict(self) -> dict[str, Any]:
        """That of ``sam``."""
        return self.sam.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.sam.load_state_dict(state_dict)
