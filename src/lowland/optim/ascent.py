"""Where to climb: rules that turn the ascent gradient into the perturbation, in place, with foreach kernels."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor


def l2_(gradients: Sequence[Tensor], rhos: Sequence[float], eps: float) -> None:
    """Turn each gradient g into ρ g / (‖g‖ + eps), ‖g‖ spanning all of them (Foret et al. 2021, equation 2).

    Without waiting for the device: a norm that is zero or not finite gives zeros, by selection on the device.

    Args:
        gradients: overwritten with the perturbation; any shapes, devices and floating dtypes.
        rhos: one radius for each gradient; its norm counts also where the radius is 0.
        eps: added to the norm.
    """
    kinds = defaultdict(list)
    for position, gradient in enumerate(gradients):
        kinds[gradient.device, gradient.dtype, rhos[position]].append(gradient)
    norms = [norm.to(gradients[0].device) for norm in map(_norm, kinds.values())]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    usable = torch.isfinite(norm) & (norm > 0)
    inverse = torch.where(usable, 1 / (norm + eps), 0)
    for (device, _, rho), members in kinds.items():
        torch._foreach_mul_(members, (rho * inverse).to(device))
        if device.type == "cpu":
            if not usable:  # 0 · inf is NaN
                torch._foreach_zero_(members)
        else:
            here = usable.to(device)
            for member in members:
                member.copy_(torch.where(here, member, 0))


def _norm(tensors: list[Tensor]) -> Tensor:
    """Norm over all of ``tensors`` (one device and dtype), in float32 at least."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, 2, dtype)))
