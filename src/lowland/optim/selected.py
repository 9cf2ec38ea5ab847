"""Sharpness-sensitive data selection: the perturbed gradient of those examples alone whose loss climbs most.

(Du et al. 2022, *Efficient Sharpness-aware Minimization for Improved Training of Neural Networks*: ESAM.)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowland.optim import amp
from lowland.optim.m_sam.loop import per_example


def backward(optimizer: Any, closure: Callable[[], Tensor], scaler: Any = None) -> Tensor:
    """Add the gradient at w + ε of the chosen examples' mean loss to ``p.grad``; the mean of all at w, detached.

    The forward pass at w + ε runs on all of them, to choose; the backward pass is that of the chosen.

    Raises:
        ValueError: if what ``closure`` returns isn't one loss for each example.
    """
    with torch.enable_grad():
        if optimizer._stays:  # there is no climb to choose by
            with optimizer._plain(scaler):
                before = per_example(closure, optimizer._nothing_in_reach)
                amp.scaled(scaler, before.mean()).backward()
            return before.detach().mean()
        with optimizer._ascent(scaler):
            before = per_example(closure, optimizer._nothing_in_reach)
            amp.scaled(scaler, before.mean()).backward()
        before = before.detach()
        with optimizer.perturbed():
            after = per_example(closure, optimizer._nothing_in_reach)
            count = max(1, int(optimizer.descent_rule.keep * len(after) + 1e-9))  # 0.29 · 100 is 28.999…
            chosen = torch.topk(after.detach() - before, count).indices
            amp.scaled(scaler, after[chosen].mean()).backward()
    return before.mean()
