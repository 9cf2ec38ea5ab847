"""What parameters give, for each row of examples: then any operation of rows may take it, and is followed as ever."""

import torch
from torch import Tensor

from lowland.optim.m_sam.closure import Closure
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.refusals import NotCovered


def beside(closure: Closure, stack: Tensor, groups: Groups, rows: Tensor, what: str) -> Tensor | None:
    """What the groups have, as one tensor that broadcasts with ``rows``; there each row has what its group has.

    Args:
        closure: as it runs.
        stack: what parameters give, ``(groups, *shape)``.
        groups: of the examples.
        rows: along one of whose dimensions the examples are.
        what: in messages.

    Returns:
        The tensor; None if ``rows`` has no rows of examples.

    Raises:
        NotCovered: if ``shape`` has a dimension of its own where ``rows`` has the examples.
    """
    dim = closure.rows_along(rows, what)
    if dim is None:
        return None
    back, count = rows.ndim - dim, rows.shape[dim]
    at = stack.ndim - 1 - back
    if at >= 0 and stack.shape[1 + at] not in (1, count):
        raise NotCovered(f"{what} meets rows of examples in a parameter's own dimension")
    with closure.dependence.paused():
        k = count // groups.whole
        if at < 0:
            stack = stack.reshape(len(stack), *[1] * (-at - 1), *stack.shape[1:])
            spread = groups.spread(stack, k * groups.size)
        elif stack.shape[1 + at] == 1:
            spread = groups.spread(stack.squeeze(1 + at), k * groups.size)
        else:  # each row has its own already
            own = k * groups.start + torch.arange(k * groups.size, device=stack.device)
            spread = stack.movedim(1 + at, 1)[groups.of_rows(len(own), stack.device), own]
        spread = groups.among(spread)
    return closure.own(spread).movedim(0, max(at, 0))
