"""m-SAM by its definition: a loop over groups of m examples, each with its own ascent.

(Foret et al. 2021, section 4.1; Andriushchenko & Flammarion 2022, equation 3.) Right, and slow: every group takes two
evaluations of the whole batch.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lowland.optim import amp, parallel
from lowland.optim.checks import is_count
from lowland.optim.randomness import random_states, replay
from lowland.optim.sharding import is_distributed


def check(m: Any, model: nn.Module | None, params: list[Tensor]) -> None:
    """Raise ValueError unless groups of ``m`` examples can climb for themselves."""
    if not is_count(m, 1):
        raise ValueError(f"m is how many examples share a perturbation: an integer of at least 1, not {m!r}")
    if model is None:
        raise ValueError("m needs model=: SAM(base, rho=..., model=model, m=...)")
    own = set(model.parameters())
    if any(param not in own for param in params):
        raise ValueError("with m, the base optimizer's parameters must be the model's: some are not in model=")
    if any(is_distributed(param) for param in params):
        raise ValueError("m needs whole parameters in each process: it goes with DDP, not with FSDP2 or DTensors")


def backward(optimizer: Any, closure: Callable[[], Tensor], scaler: Any = None) -> Tensor:
    """Add the m-SAM gradient of the mean of ``closure()`` to ``p.grad``; the mean at w, detached.

    Dropout leaves out the same units in every evaluation: the groups are parts of one batch.

    Raises:
        ValueError: if what ``closure`` returns isn't one loss for each example, or if the model couples them.
    """
    refuse_coupling(optimizer.model)
    states = random_states(optimizer._params())
    wrapper = parallel.ddp(optimizer.model)

    def losses() -> Tensor:
        replay(states)
        return per_example(closure)

    mean, group, groups = None, 0, 1
    while group < groups:
        with torch.enable_grad():
            for evaluation in range(optimizer.ascent_rule.evaluations):
                with optimizer._ascent(scaler, sync=wrapper is None, onward=evaluation > 0):
                    value = losses()
                    mean = value.detach().mean() if mean is None else mean
                    amp.scaled(scaler, value.split(optimizer.m)[group].mean()).backward()
            groups = len(value.split(optimizer.m))
            # Averaged once: other processes may have other numbers of groups.
            last = group == groups - 1
            together = nullcontext() if wrapper is None else parallel.ddp_synchronization(wrapper, last)
            share = len(value.split(optimizer.m)[group]) / len(value)
            with together, optimizer._perturbed(share=share):
                value = losses()
                amp.scaled(scaler, value.split(optimizer.m)[group].sum() / len(value)).backward()
        group += 1
    assert mean is not None
    return mean


def per_example(closure: Callable[[], Tensor]) -> Tensor:
    """What ``closure`` returns; raises ValueError unless that is one loss for each example."""
    value = closure()
    if not isinstance(value, Tensor) or value.ndim != 1 or not len(value) or not value.requires_grad:
        raise ValueError(
            "the closure returns the loss of each example, shape (batch,), without calling backward: "
            'F.cross_entropy(model(x), y, reduction="none"), say'
        )
    return value


def refuse_coupling(model: nn.Module) -> None:
    """Raise ValueError for a model whose layers mix the examples of a batch."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"batch norm ({name}) mixes the examples of a batch, so that no group has a gradient of its own: "
                "with m use group or layer norm, or batch norm in evaluation mode"
            )
