"""Weights moved to w + ε for the time being, and brought back bit for bit."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from lowland.optim.ascent import Climb

KEEP_ON = ("device", "cpu")


class Displacement:
    """Moves weights in place and keeps w meanwhile.

    In place, because others hold on to the same memory: FSDP2 gathers from it, CUDA graphs and flattened recurrent
    weights point to it. Subtracting ε again would not bring back every bit, so w is copied, to memory that serves
    every step: to allocate it each time takes several times as long as the copying, on a CPU.

    Args:
        keep_on: where the copy of w lies: ``"device"``, beside the weights, or ``"cpu"``, in pinned host memory.
    """

    def __init__(self, keep_on: str = "device"):
        if keep_on not in KEEP_ON:
            raise ValueError(f"keep_on says where w lies during the perturbed pass: 'device' or 'cpu', not {keep_on!r}")
        self.keep_on = keep_on
        self._copies: list[Tensor] = []
        self._moved: list[Tensor] | None = None

    def move(self, weights: list[Tensor], gradients: list[Tensor], rhos: Sequence[float], climb: Climb) -> None:
        """Add ρ · factor · gradient to each of ``weights``.

        Gradients that are not finite leave the weights as they are, without waiting for the device. Call it where
        no gradients are recorded.
        """
        if 0 in rhos:  # nothing happens to those, so nothing need be kept of them
            moved = [i for i, rho in enumerate(rhos) if rho != 0]
            weights, gradients = [weights[i] for i in moved], [gradients[i] for i in moved]
            rhos = [rhos[i] for i in moved]
        self._keep(weights)
        self._moved = weights  # before the first one moves: whatever happens then, w is known
        kinds = defaultdict(list)
        for weight, gradient, rho in zip(weights, gradients, rhos, strict=True):
            kinds[weight.device, weight.dtype, gradient.dtype, gradient.layout, rho].append((weight, gradient))
        for (device, *_, rho), pairs in kinds.items():
            ours, theirs = map(list, zip(*pairs, strict=True))
            if isinstance(climb.factor, Tensor):
                _add_on_device(ours, theirs, (rho * climb.factor).to(device, non_blocking=True))
            elif climb.factor:
                _add_on_host(ours, theirs, rho * climb.factor)

    @property
    def displaced(self) -> bool:
        """Whether weights are away from w."""
        return self._moved is not None

    def put_back(self) -> None:
        """Make the weights w again. They stay known until that is done: an interrupt may fall into it."""
        if self._moved is not None:
            if self._moved:
                with torch.no_grad():
                    torch._foreach_copy_(self._moved, self._copies, non_blocking=True)
            self._moved = None

    def _keep(self, weights: list[Tensor]) -> None:
        del self._copies[len(weights) :]
        for position, weight in enumerate(weights):
            fits = position < len(self._copies)
            if fits:
                copy = self._copies[position]
                fits = copy.shape == weight.shape and copy.dtype == weight.dtype
                fits = fits and (self.keep_on == "cpu" or copy.device == weight.device)
            if not fits:
                pinned = self.keep_on == "cpu" and weight.device.type != "cpu"
                device = "cpu" if pinned else weight.device
                copy = torch.empty_like(weight, device=device, pin_memory=pinned)
                self._copies[position : position + 1] = [copy]
        if weights:
            torch._foreach_copy_(self._copies, weights, non_blocking=True)


def _add_on_host(weights: list[Tensor], gradients: list[Tensor], scale: float) -> None:
    if gradients[0].layout == torch.strided:
        torch._foreach_add_(weights, gradients, alpha=scale)
    else:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.add_(gradient, alpha=scale)


def _add_on_device(weights: list[Tensor], gradients: list[Tensor], scale: Tensor) -> None:
    """Add ``scale`` · gradient; where ``scale`` is 0 nothing, be the gradient finite or not."""
    if gradients[0].layout != torch.strided:
        for weight, gradient in zip(weights, gradients, strict=True):
            values = torch.where(scale != 0, gradient._values() * scale, 0)
            step = torch.sparse_coo_tensor(gradient._indices(), values, gradient.shape, check_invariants=False)
            weight.add_(step)
    elif weights[0].device.type == "cuda" and _alike(weights, gradients):
        _add_fused(weights, gradients, scale)
    else:
        steps = torch._foreach_mul(gradients, scale)
        torch._foreach_add_(weights, [torch.where(scale != 0, step, 0) for step in steps])


def _alike(weights: list[Tensor], gradients: list[Tensor]) -> bool:
    return all(
        weight.dtype == gradient.dtype and weight.stride() == gradient.stride()
        for weight, gradient in zip(weights, gradients, strict=True)
    )


def _add_fused(weights: list[Tensor], gradients: list[Tensor], scale: Tensor) -> None:
    """The same by the kernel of fused SGD: one launch for many tensors, each read once, with a switch for overflow."""
    lr: Tensor | float = scale.float()
    if weights[0].dtype == torch.float64:  # the kernel reads its learning rate in single precision
        gradients, lr = list(torch._foreach_mul(gradients, scale)), 1.0
    torch._fused_sgd_(
        weights, gradients, [], lr=lr, found_inf=(scale == 0).float(), maximize=True,
        weight_decay=0.0, momentum=0.0, dampening=0.0, nesterov=False, is_first_step=False,
    )  # fmt: skip
