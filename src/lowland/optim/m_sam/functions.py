"""Functions of autograd's own, whose backward nobody sees into."""

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn.modules._functions import BackwardHookFunction

from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.registry import KNOWN_ROW_WISE, ROW_WISE
from lowland.values import Context


class ByGroup(torch.autograd.Function):
    """The identity. On the way back from here nothing depends on rows of examples, and the groups stand apart."""

    @staticmethod
    def forward(ctx: Context, stack: Tensor) -> Tensor:
        return stack.view_as(stack)

    @staticmethod
    def backward(ctx: Context, d: Tensor) -> Tensor:  # type: ignore[override]
        return d


def check_functions(value: Tensor) -> None:
    """Raise NotCovered for functions of autograd's own on the way back from ``value``, unless vouched for."""
    for function in _own_functions(value.grad_fn):
        if function not in ROW_WISE and (function.__module__, function.__qualname__) not in KNOWN_ROW_WISE:
            raise NotCovered(
                f"the gradients of {function.__name__}, a function of autograd's own, may mix the examples (if they "
                "don't, say so by lowland.optim.m_sam.row_wise)"
            )


def _own_functions(node: Node | None) -> set[type[torch.autograd.Function]]:
    """Functions with a backward of their own on the way back from ``node``; torch's and those of rules left out."""
    found = set[type[torch.autograd.Function]]()
    seen, left = {node}, [node]
    while left:
        node = left.pop()
        function = getattr(node, "_forward_cls", None)
        if function is ByGroup:
            continue
        if function is not None and _is_own(function):
            found.add(function)
        for after, _ in getattr(node, "next_functions", ()):
            if after is not None and after not in seen:
                seen.add(after)
                left.append(after)
    return found


def _is_own(function: type) -> bool:
    """Whether torch didn't write it, or only around what others wrote."""
    if function is BackwardHookFunction or function.__module__.startswith(("torch._functorch.", "torch._library.")):
        return True
    return not function.__module__.startswith(("torch.", "lowland.optim.m_sam."))
