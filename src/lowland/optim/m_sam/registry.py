"""Which rule is for which function or layer."""

import inspect
from collections.abc import Callable
from functools import cache
from hashlib import sha256

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
#: Layers that send rows to experts, and read no more than which experts get any.
ROUTING: set[type[nn.Module]] = set()
#: Those of other libraries whose forward was read, by its text: an expert that isn't called would have got no rows.
READ = frozenset(
    {
        # transformers 5.23: Mixtral, Qwen3-MoE, DeepSeek-V3 and 51 others that are written alike
        "1c60625a2da2dfba914faabc2771e8b00983f2549c6fe76189389ed7aa09413f",
        # transformers 5.23: Switch Transformers
        "da2e70afb128534670927a971106b9304041e7e16688e047ea8a77953ca7d7f8",
    }
)
#: Each says of a layer of another library what gives the same as its ``forward``, and can be followed; None of others.
KNOWN: list[Callable[[nn.Module], Function | None]] = []
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


def routing(layer: type[nn.Module]) -> type[nn.Module]:
    """Say that a layer reads of its rows no more than which experts get any, to leave out those that get none.

    Which experts are called depends on all examples. To call one for no rows must be the same as not to call it: no
    number of rows, or of experts, goes into what the layer gives, and no expert draws random numbers. A decorator::

        @lowland.optim.m_sam.routing
        class Experts(nn.Module): ...
    """
    ROUTING.add(layer)
    return layer


def forward_of(layer: nn.Module) -> Function | None:
    """What to call for a layer for which somebody vouches as `routing` says; None for others."""
    forward: Function = type(layer).forward
    if type(layer) in ROUTING or text_of(forward) in READ:
        return forward
    return next((found for way in KNOWN if (found := way(layer)) is not None), None)


def known(way: Callable[[nn.Module], Function | None]) -> Callable[[nn.Module], Function | None]:
    """Register what knows layers of another library, see `KNOWN`."""
    KNOWN.append(way)
    return way


@cache
def text_of(function: object) -> str:
    """A digest of the source of a function, not of what it wraps; "" where that isn't known."""
    try:
        return sha256(inspect.getsource(function.__code__).encode()).hexdigest()  # type: ignore[attr-defined]
    except (AttributeError, OSError, TypeError):
        return ""


def composed(*functions: Function) -> Callable[[Composition], Composition]:
    """Register a way to call ``functions`` that hands their layers to the pass one by one."""

    def register(way: Composition) -> Composition:
        for function in functions:
            COMPOSED[function] = way
        return way

    return register
