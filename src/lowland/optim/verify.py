"""Checks a rule of exact m-SAM against the loop over groups, which asks autograd."""

import copy
import warnings

import torch
from torch import Tensor, nn

from lowland.optim.m_sam.registry import RULES
from lowland.optim.sam import SAM, backward_by_definition


def verify_rule(layer: nn.Module, example: Tensor | tuple[Tensor, ...], rho: float = 0.1) -> float:
    """Compare what the rules make of ``layer`` with a loop over groups, in float64, for groups of several sizes.

    Args:
        layer: with parameters, as a module; it isn't changed.
        example: its input or inputs, examples along the first dimension; at least three of them show most.
        rho: radius of the ascent.

    Returns:
        The largest error of the m-SAM gradient, relative to its norm: rounding, 1e-15 or so.

    Raises:
        ValueError: if the error is above 1e-9, or if no rule covers the layer.
    """
    layer = copy.deepcopy(layer).double()
    inputs = example if isinstance(example, tuple) else (example,)
    inputs = tuple(t.double() if t.is_floating_point() else t for t in inputs)
    shape = layer(*inputs).shape
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def closure() -> Tensor:
        out = layer(*inputs)
        return (out * weights.to(out.device) + out.square() / 2).flatten(1).sum(1)

    worst = 0.0
    for m in sorted({1, 2, shape[0] - 1, shape[0]} - {0}):
        found = []
        for way in ("rules", "loop"):
            params = list(layer.parameters())
            optimizer = SAM(torch.optim.SGD(params, lr=0.0), rho=rho, model=layer, m=m, audit=False)
            optimizer.zero_grad()
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="m-SAM")
                try:
                    backward_by_definition(optimizer, closure) if way == "loop" else optimizer.backward(closure)
                except UserWarning as why:
                    raise ValueError(f"no rule covers {type(layer).__name__}: {why}") from None
            found.append(torch.cat([p.grad.flatten() for p in params if p.grad is not None]))
        error = float((found[0] - found[1]).norm() / found[1].norm())
        if not error <= 1e-9:
            kind = "its own rule" if type(layer) in RULES else "the rules"
            raise ValueError(f"{kind} for {type(layer).__name__} and autograd differ by {error:.2g} for m = {m}")
        worst = max(worst, error)
    return worst
