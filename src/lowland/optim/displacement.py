"""Weights moved to w + ε for the time being, and brought back bit for bit."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from lowland.optim.ascent import Climb
from lowland.optim.grad_mode import unrecorded

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
        self._kinds: list[tuple[torch.Size, torch.dtype, torch.device]] = []
        self._batches: list[list[int]] = []
        self._moved: list[Tensor] | None = None
        self._versions: list[int] = []

    @unrecorded
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
        if isinstance(climb.factor, Tensor):
            _add_on_device(weights, gradients, rhos, climb.factor)
        elif climb.factor:
            _add_on_host(weights, gradients, rhos, climb.factor)
        self._versions = [weight._version for weight in weights]

    @property
    def displaced(self) -> bool:
        """Whether weights are away from w."""
        return self._moved is not None

    @unrecorded
    def put_back(self) -> None:
        """Make the weights w again. They stay known until that is done: an interrupt may fall into it."""
        if self._moved is None:
            return
        try:
            self._copy(self._copies, self._moved)
        except BaseException:  # an interrupt: the weights first
            self._copy(self._copies, self._moved)
            raise
        self._moved = None

    @property
    def overwritten(self) -> bool:
        """Whether somebody wrote to the weights while they were away from w."""
        return self._moved is not None and self._versions != [weight._version for weight in self._moved]

    def forget(self) -> None:
        """Leave the weights as they are."""
        self._moved = None

    def _copy(self, sources: list[Tensor], targets: list[Tensor]) -> None:
        if len(self._batches) == 1:
            torch._foreach_copy_(targets, sources, non_blocking=True)
            return
        for batch in self._batches:  # of one type and device: others would be copied one by one
            to, of = [targets[i] for i in batch], [sources[i] for i in batch]
            torch._foreach_copy_(to, of, non_blocking=True)

    def _keep(self, weights: list[Tensor]) -> None:
        kinds = [(weight.shape, weight.dtype, weight.device) for weight in weights]
        if kinds != self._kinds:
            self._kinds = []  # until all is done: an interrupt may fall into it
            self._copies = [self._room_for(weight) for weight in weights]
            alike = defaultdict(list)
            for index, (_, dtype, device) in enumerate(kinds):
                alike[dtype, device].append(index)
            self._batches, self._kinds = list(alike.values()), kinds
        self._copy(weights, self._copies)

    def _room_for(self, weight: Tensor) -> Tensor:
        if self.keep_on == "cpu" and weight.device.type != "cpu":
            return torch.empty_like(weight, device="cpu", pin_memory=True)
        return torch.empty_like(weight)


def _add_on_host(weights: list[Tensor], gradients: list[Tensor], rhos: Sequence[float], factor: float) -> None:
    kinds = defaultdict(list)
    for weight, gradient, rho in zip(weights, gradients, rhos, strict=True):
        kinds[rho, gradient.is_sparse, weight.dtype.itemsize < 4].append((weight, gradient))
    for (rho, sparse, short), pairs in kinds.items():
        if sparse:
            for weight, gradient in pairs:
                weight.add_(gradient, alpha=rho * factor)
        elif short:  # the factor may be too large for them
            for weight, gradient in pairs:
                weight.copy_(torch.add(weight.float(), gradient.float(), alpha=rho * factor))
        else:
            torch._foreach_add_([w for w, _ in pairs], [g for _, g in pairs], alpha=rho * factor)


def _add_on_device(weights: list[Tensor], gradients: list[Tensor], rhos: Sequence[float], factor: Tensor) -> None:
    """Without waiting for the factor: where it is 0 nothing is added, be the gradient finite or not."""
    kinds = defaultdict(list)
    for weight, gradient, rho in zip(weights, gradients, rhos, strict=True):
        sparse = gradient.is_sparse
        alike = not sparse and weight.dtype == gradient.dtype and weight.stride() == gradient.stride()
        kinds[weight.device, weight.dtype, gradient.dtype, alike, sparse, rho].append((weight, gradient))
    for (device, _, _, alike, sparse, rho), pairs in kinds.items():
        ours, theirs = [w for w, _ in pairs], [g for _, g in pairs]
        scale = (rho * factor).to(device, non_blocking=device.type != "cpu")
        moves = scale != 0
        if sparse:
            for weight, gradient in pairs:
                values = torch.where(moves, gradient._values() * scale, 0)
                weight.add_(
                    torch.sparse_coo_tensor(gradient._indices(), values, gradient.shape, check_invariants=False)
                )
        elif device.type == "cuda" and alike:
            _add_fused(ours, theirs, scale)
        else:
            steps = torch._foreach_mul(theirs, scale)
            torch._foreach_add_(ours, [torch.where(moves, step, 0) for step in steps])


def _add_fused(weights: list[Tensor], gradients: list[Tensor], scale: Tensor) -> None:
    """The same by the kernel of fused SGD: one launch for many tensors, each read once, with a switch for overflow."""
    lr: Tensor | float = scale.float()
    if weights[0].dtype == torch.float64:  # the kernel reads its learning rate in single precision
        gradients, lr = list(torch._foreach_mul(gradients, scale)), 1.0
    torch._fused_sgd_(
        weights, gradients, [], lr=lr, found_inf=(scale == 0).float(), maximize=True,
        weight_decay=0.0, momentum=0.0, dampening=0.0, nesterov=False, is_first_step=False,
    )  # fmt: skip
