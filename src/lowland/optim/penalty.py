"""½λ‖w‖² as a part of the loss that a pass sees, without a graph: its gradient is λ times the weights as they are."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowland.optim.grad_mode import unrecorded
from lowland.optim.sharding import local, settled


@unrecorded
def add(
    params: Sequence[Tensor],
    factor: float,
    scale: float | Tensor = 1.0,
    mean: Callable[[list[Tensor]], list[Tensor]] | None = None,
) -> None:
    """Add ``factor`` · ``scale`` · param to the gradient of each of ``params``; one that is None counts as zeros.

    In place where the gradient is dense and laid out as its parameter: it may lie in memory of DDP's.

    Args:
        params: in pieces or whole.
        factor: λ.
        scale: what the loss is multiplied with against underflow; a 0-d tensor is not waited for.
        mean: of tensors like these over processes whose weights differ and whose gradients are averaged already.
    """
    gradients = []
    for param in params:
        gradient = settled(param, param.grad)
        if gradient is not param.grad:
            param.grad = gradient
        gradients.append(local(gradient))
    weights = [local(param.detach()) for param in params]
    if mean is not None:
        weights = mean(weights)
    if isinstance(scale, Tensor):
        scales = {device: scale.to(device, non_blocking=device.type != "cpu") for device in {w.device for w in weights}}
        torch._foreach_addcmul_(gradients, weights, [scales[w.device] for w in weights], value=factor)
    else:
        torch._foreach_add_(gradients, weights, alpha=factor * scale)
