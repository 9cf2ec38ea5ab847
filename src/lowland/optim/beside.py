"""What is subtracted from the weights beside the base optimizer's step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.optim.grad_mode import unrecorded
from lowland.optim.sharding import global_norm, local


class Beside:
    """Sums of tensors like the parameters, each as long as the gradient it came with lies in ``p.grad``."""

    def __init__(self) -> None:
        self._sums: dict[Tensor, Tensor] = {}
        self._gradients: list[tuple[Tensor, Tensor, int]] = []

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, owners: Sequence[Tensor], pieces: Sequence[Tensor], scale: float | Tensor) -> None:
        """Take up ``pieces``, what this process holds, which are ``scale`` times too large."""
        for owner, piece in zip(owners, pieces, strict=True):
            piece.div_(scale)
            self._sums[owner] = piece.add_(self._sums[owner]) if owner in self._sums else piece

    def belong_to_gradients(self) -> None:
        """They are part of the step that the gradients now in ``p.grad`` make."""
        self._gradients = [(p, p.grad, p.grad._version) for p in self._sums if p.grad is not None]

    def forget_if_gradients_went(self) -> None:
        """Gradients that were cleared, however, or left behind by a step that a scaler skipped, take theirs along."""
        if any(p.grad is not gradient or gradient._version != version for p, gradient, version in self._gradients):
            self.clear()

    def clear(self) -> None:
        self._sums, self._gradients = {}, []

    def overflow(self, params: Sequence[Tensor]) -> bool | Tensor:
        """Whether one isn't finite; ``params`` are all that may have one, the same in every process."""
        norm = global_norm(params, list(self._sums), list(self._sums.values()))
        return ~torch.isfinite(norm) if isinstance(norm, Tensor) else not math.isfinite(norm)

    @unrecorded
    def step(self, base: Optimizer) -> None:
        """Subtract them from the weights, times the learning rate of each parameter group."""
        skipped = getattr(base, "found_inf", None)  # by a scaler, on the device
        for group in base.param_groups:
            for param in group["params"]:
                if param in self._sums:
                    change = self._sums[param] * -group["lr"]
                    local(param).add_(change if skipped is None else torch.where(skipped != 0, 0, change))
        self.clear()
