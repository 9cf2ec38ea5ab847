"""Sharpness-sensitive data selection: the perturbed gradient of those examples alone whose loss climbs most.

(Du et al. 2022, *Efficient Sharpness-aware Minimization for Improved Training of Neural Networks*: ESAM.)
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from lowland.optim import amp
from lowland.optim.core import Core
from lowland.optim.m_sam.loop import per_example
from lowland.optim.passes import ascent, perturbed, plain


def backward(core: Core, closure: Callable[[], Tensor], scaler: GradScaler | None = None) -> Tensor:
    """Add the gradient at w + ε of the chosen examples' mean loss to ``p.grad``; the mean of all at w, detached.

    The forward pass at w + ε runs on all of them, to choose; the backward pass is that of the chosen.

    Raises:
        ValueError: if what ``closure`` returns isn't one loss for each example.
    """
    rule = core.options.descent_rule
    assert rule is not None
    with torch.enable_grad():
        if core.radii.stays:  # there is no climb to choose by
            with plain(core, scaler):
                before = per_example(closure, core.out_of_reach)
                amp.scaled(scaler, before.mean()).backward()
            return before.detach().mean()
        with ascent(core, scaler):
            before = per_example(closure, core.out_of_reach)
            amp.scaled(scaler, before.mean()).backward()
        before = before.detach()
        with perturbed(core):
            after = per_example(closure, core.out_of_reach)
            count = max(1, int(rule.keep * len(after) + 1e-9))  # 0.29 · 100 is 28.999…
            chosen = torch.topk(after.detach() - before, count).indices
            amp.scaled(scaler, after[chosen].mean()).backward()
    return before.mean()
