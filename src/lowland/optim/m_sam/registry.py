"""Which rule is for which function or layer."""

from collections.abc import Callable

import torch
from torch import nn

from lowland.optim.m_sam.rule import Rule
from lowland.optim.m_sam.watched import Caller
from lowland.values import Args, Function, Kwargs, Tree

#: Gives NotImplemented for a call that it has no better way for.
Composition = Callable[[Caller, Function, Args, Kwargs], Tree]

#: By functions of torch and classes of layers.
RULES: dict[Function | type[nn.Module], Rule] = {}
#: Functions of autograd's own whose gradients keep examples apart.
ROW_WISE: set[type[torch.autograd.Function]] = set()
#: Those of other libraries, by name, whose backward was read: it is entry by entry.
KNOWN_ROW_WISE = frozenset({("transformers.models.bloom.modeling_bloom", "GeLUFunction")})
#: Functions of torch's that are several layers: what to call instead, with the pass before their own arguments.
COMPOSED: dict[Function, Composition] = {}


def rule(*functions: Function | type[nn.Module]) -> Callable[[type[Rule]], type[Rule]]:
    """Register a `Rule` for functions of torch (``F.linear``) or classes of layers.

    Of a layer, ``arguments`` are those of ``forward`` and after them the names of all its parameters.
    """

    def register(kind: type[Rule]) -> type[Rule]:
        for function in functions:
            RULES[function] = kind()
        return kind

    return register


def row_wise(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Say that the backward of a ``torch.autograd.Function`` keeps the rows of examples apart, as its forward does.

    What operations of torch do in forward is followed; what a function does in backward can't be seen. It must be
    linear in the gradient that it gets: one that clips each row goes by the loop. A decorator::

        @lowland.optim.m_sam.row_wise
        class ReverseGradient(torch.autograd.Function): ...
    """
    ROW_WISE.add(function)
    return function


def composed(*functions: Function) -> Callable[[Composition], Composition]:
    """Register a way to call ``functions`` that hands their layers to the pass one by one."""

    def register(way: Composition) -> Composition:
        for function in functions:
            COMPOSED[function] = way
        return way

    return register
