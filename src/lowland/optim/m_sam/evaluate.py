"""Evaluations of the closure beside the passes of a step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn

from lowland.optim import amp, parallel
from lowland.optim.buffers import kept
from lowland.optim.m_sam.host import Host
from lowland.optim.m_sam.loop import per_example
from lowland.torch_tools import States, ddp, replay

#: Returns the loss of each example.
Losses = Callable[[], Tensor]


def evaluate(closure: Losses, states: States, host: Host) -> Tensor:
    """The losses, on the same random numbers each time."""
    replay(states)
    amp.clear_caches()
    return per_example(closure, host.out_of_reach)


def alone(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, DDP averages nothing: the last evaluation of a step is the only one that all processes make."""
    wrapper = ddp(model)
    return nullcontext() if wrapper is None else parallel.ddp_synchronization(wrapper, False)


@contextmanager
def gradients_aside(params: list[Tensor]) -> Iterator[None]:
    """Inside, ``p.grad`` is None to begin with; afterwards it is what it was."""
    held = [p.grad for p in params]
    try:
        for p in params:
            p.grad = None
        yield
    finally:
        for p, gradient in zip(params, held, strict=True):
            p.grad = gradient


@contextmanager
def without_a_trace(host: Host) -> Iterator[None]:
    """Afterwards buffers and gradients are what they were."""
    who = host.parameters()
    with kept(host.model), gradients_aside([*who.everyone, *who.outside]), alone(host.model):
        yield
