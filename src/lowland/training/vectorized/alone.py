"""Whether runs side by side are trained as each would be alone: code and what it has captured are those of one run."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowland.training.randomness import random_state, restore_random_state
from lowland.training.task import Task
from lowland.training.vectorized.batches import VectorizedBatches
from lowland.training.vectorized.runs import Runs
from lowland.training.vectorized.step import VectorizedStep
from lowland.values import Tree

# By how much two gradients may differ: of the tensor's largest entry, and in rounding units of the largest of all.
_SHARE, _UNITS = 1e-4, 1e3
_STEPS = 65  # at which schedules are compared


def unlike(runs: Runs, steps: int) -> str:
    """In what the program of ``runs`` isn't that of each run; empty if nothing is found.

    The code of network, loss and schedule is taken from one of the runs. A loss that reads the parameters beside the
    network's outputs, tensors in plain attributes of a module, and what a function has captured, would be that run's.
    So the gradient of each run on its first batch, at its initial weights, is compared with what the program makes of
    it, and schedules at 65 steps of ``steps``.
    """
    batches = VectorizedBatches(runs.tasks)
    x, y, picked, shared = batches(0)
    task = runs.tasks[0]
    program = VectorizedStep(task.model, task.loss_fn, eps=runs.eps, climbs=False, nesterov=False, compiled=False)
    losses, gradients = program.gradients(runs, x, y, picked, shared)
    largest = max(float(gradient.abs().amax()) for gradient in gradients.values())
    for number, alone in enumerate(runs.tasks):
        loss, own, aside = _alone(alone, *batches.of(number, 0))
        if aside:
            return f"the loss reads the parameter {aside} beside what the network gives, and would read one run's"
        off = next((name for name, g in own.items() if not _same(gradients[name][number], g, largest)), None)
        if off is not None or not _same(losses[number], loss, float(loss.abs())):
            return (
                "what one of them computes depends on more than parameters, buffers and batch: on tensors in plain "
                f"attributes of a module, or on what the loss captured (the gradient of {off or 'the loss'} differs)"
            )
    return _schedules([task.schedule for task in runs.tasks], steps)


def _alone(task: Task, x: Tree, y: Tree) -> tuple[Tensor, dict[str, Tensor], str]:
    """Loss and gradients of one run, and the name of a parameter that the loss reads without the network; or ``""``."""
    model, before = task.model, random_state()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    originals = {name: p for name, p in model.named_parameters() if p.requires_grad}
    substitutes = {name: p.detach().clone().requires_grad_() for name, p in originals.items()}
    try:
        with torch.enable_grad():
            loss = task.loss_fn(torch.func.functional_call(model, substitutes, (x,)), y)
            leaves = [*substitutes.values(), *originals.values()]
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
    finally:
        restore_random_state(before)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    own = zip(substitutes.items(), found, strict=False)
    gradients = {name: torch.zeros_like(p) if g is None else g for (name, p), g in own}
    aside = next((name for name, g in zip(originals, found[len(substitutes) :], strict=True) if g is not None), "")
    return loss.detach(), gradients, aside


def _same(one: Tensor, other: Tensor, largest: float) -> bool:
    finite = torch.isfinite(one) & torch.isfinite(other)
    allowed = _SHARE * torch.where(finite, other, 0).abs().amax() + _UNITS * torch.finfo(other.dtype).eps * largest
    return bool((torch.where(finite, one - other, 0).abs() <= allowed).all())


def _schedules(schedules: Sequence[Callable[[int], float] | None], steps: int) -> str:
    first, *others = schedules
    at = sorted({round(part * (steps - 1) / (_STEPS - 1)) for part in range(_STEPS)})
    usual = None if first is None else [first(step) for step in at]
    for other in others:
        if (None if other is None else [other(step) for step in at]) != usual:
            return "their schedules of the step size differ"
    return ""
