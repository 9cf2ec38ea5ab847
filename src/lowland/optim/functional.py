"""SAM as pure functions of the parameters, for `torch.func` transforms and `torch.compile`.

Foret et al. 2021, *Sharpness-Aware Minimization for Efficiently Improving Generalization*, equations 2 and 3.
`lowland.SAM` computes the same in place for an ordinary training loop; a test compares the two.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.checks import check_rho
from lowland.optim.ascent import length, usable
from lowland.torch_tools import in_parts
from lowland.values import Tree

EPS = 1e-12  # added to the gradient norm; Long & Bartlett (2024) use 1e-5


def global_norm(tree: Tree) -> Tensor:
    """Euclidean norm over every entry of every tensor of ``tree``, a 0-d tensor, in float32 at least."""
    norms = [
        torch.linalg.vector_norm(part, dtype=torch.promote_types(part.dtype, torch.float32))
        for leaf in pytree.tree_leaves(tree)
        for part in in_parts(leaf)
    ]
    return torch.linalg.vector_norm(torch.stack(norms))


def perturbation(gradient: Tree, rho: float | Tensor, eps: float = EPS) -> Tree:
    """The ascent step ε = ρ g / (‖g‖ + eps), with one norm over the whole tree.

    Args:
        gradient: tensors in any nesting of lists, tuples and dicts.
        rho: radius, in the units of the parameters; a float, or a 0-d tensor (under ``vmap``, say).
        eps: keeps the quotient finite.

    Returns:
        A tree like ``gradient``: zeros where the norm is zero or not finite, so that the step then is the
        base optimizer's.

    Raises:
        ValueError: if ``rho`` is a negative or non-finite float.
    """
    check_rho(rho)
    norm = global_norm(gradient)
    climbs, scale = usable(norm), length(norm, eps, rho)
    return pytree.tree_map(lambda g: torch.where(climbs, g * scale, 0).to(g.dtype), gradient)


def sam_gradient(
    loss: Callable[..., Tensor], params: Tree, *args: Tree, rho: float | Tensor, eps: float = EPS
) -> tuple[Tensor, Tree]:
    """The loss at w and its gradient at w + ε(w).

    Args:
        loss: ``loss(params, *args)`` gives a scalar tensor.
        params: tensors in any nesting of lists, tuples and dicts.
        args: handed on to ``loss``.
        rho: radius of the ascent, in the units of the parameters.
        eps: as in `perturbation`.

    Returns:
        ``(loss, gradient)``: a 0-d tensor, and a tree like ``params``. Both are differentiable: under ``jvp``
        the derivative includes that of ε.

    Raises:
        ValueError: if ``rho`` is a negative or non-finite float.

    Example:
        >>> loss = lambda w: (w**2).sum() / 2
        >>> value, gradient = sam_gradient(loss, torch.tensor([3.0, 4.0]), rho=1.0)
        >>> value.item(), [round(g, 4) for g in gradient.tolist()]
        (12.5, [3.6, 4.8])
    """
    ascent, value = torch.func.grad_and_value(loss)(params, *args)
    perturbed = pytree.tree_map(torch.add, params, perturbation(ascent, rho, eps))
    return value, torch.func.grad(loss)(perturbed, *args)
