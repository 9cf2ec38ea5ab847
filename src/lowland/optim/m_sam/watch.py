"""Intercepts every use of a parameter, by swapping its class for the time of a pass."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import RLock

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from lowland.optim.m_sam import unseen
from lowland.optim.m_sam.closure import Closure
from lowland.optim.m_sam.handler import Handler
from lowland.optim.m_sam.places import memory
from lowland.optim.m_sam.reads import Reads
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.registry import RULES, forward_of
from lowland.optim.m_sam.watched import Watched, called_by, is_followed_here
from lowland.values import Args, Kwargs, Tree

_closure: Closure | None = None  # that is watched
_constants: list[Tensor] = []
_one_at_a_time = RLock()


def check(params: Iterable[Tensor], model: nn.Module) -> None:
    """Once a step: raise NotCovered for hooks that change gradients, and for parameters in each other's memory."""
    if (why := unseen.around()) is not None:
        raise NotCovered(why)
    for param in (params := list(params)):
        if param._backward_hooks or param._post_accumulate_grad_hooks:
            raise NotCovered("a parameter has a gradient hook")
    places = [(memory(p), p.storage_offset()) for p in params if p.numel()]
    if len(set(places)) < len(places):
        raise NotCovered("two parameters lie in the same memory, and are not the same parameter")
    for module in model.modules():
        if module._backward_hooks or module._backward_pre_hooks:
            raise NotCovered(f"a {type(module).__name__} has a backward hook")


@contextmanager
def watching(params: Iterable[Tensor], model: nn.Module, handler: Handler) -> Iterator[None]:
    """Inside, functions of ``params`` go to ``handler``, and so do layers of ``model`` that have a rule.

    Its buffers, frozen parameters, and other tensors that its modules have, are no rows of the batch.

    Raises:
        NotCovered: for parameters of a class of their own.
    """
    global _closure, _constants
    params, modules = list(params), list(model.modules())
    watched = set(params)
    constants = [t for module in modules for t in _kept(module) if t not in watched]
    layers = [module for module in modules if type(module) in RULES]
    routers = list[nn.Module]()
    for param in params:
        if type(param) is not nn.Parameter:
            raise NotCovered(f"a parameter is of the class {type(param).__name__}")
        if param.is_complex():
            raise NotCovered("a parameter is complex")
    if any("forward" in vars(layer) for layer in layers):
        raise NotCovered("a layer that has a rule has a forward of its own, set from outside")
    _one_at_a_time.acquire()
    before = _closure, _constants
    recurrent = [module for module in modules if isinstance(module, nn.RNNBase)]
    hooks = [layer.register_forward_pre_hook(partial(_packed, handler), with_kwargs=True) for layer in recurrent]
    try:
        for param in params:
            param.__class__ = Watched
        routers += [module for module in modules if forward_of(module) is not None and "forward" not in vars(module)]
        for layer in layers:
            layer.__dict__["forward"] = partial(_forward, layer, handler)
        for layer in routers:
            layer.__dict__["forward"] = partial(_vouched, layer, handler)
        _closure, _constants = handler.closure, constants
        with called_by(handler), unseen.looked_for(handler.closure, handler.function):
            yield
    finally:
        _closure, _constants = before
        for param in params:
            param.__class__ = nn.Parameter
        for hook in hooks:
            hook.remove()
        for layer in layers + routers:
            layer.__dict__.pop("forward", None)
        _one_at_a_time.release()


def _kept(module: nn.Module) -> Iterator[Tensor]:
    """What a module has: parameters, buffers, and other tensors, in tuples, lists and dictionaries, too."""
    yield from (t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None)
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield value
        elif type(value) in _NESTED and name not in _OF_ALL_MODULES:
            yield from (t for t in pytree.tree_leaves(value) if isinstance(t, Tensor))


_NESTED = (tuple, list, dict)
_OF_ALL_MODULES = frozenset(vars(nn.Module()))


def _of_this_thread() -> Closure | None:
    return _closure if is_followed_here() else None


def followed(closure: Callable[[], Tensor]) -> Tensor:
    """What ``closure`` returns; what it does with watched parameters, if some are watched, is followed.

    Raises:
        NotCovered: if it can't be.
    """
    watched = _of_this_thread()
    if watched is None:
        return closure()
    with watched.following(_constants), Reads(watched.dependence):
        value = closure()
    watched.check_losses(value)
    return value


def by_rows(x: Tensor, what: str, call: Callable[[], Tensor]) -> Tensor:
    """``call()``, which computes the rows of ``x`` that belong to a group by themselves."""
    watched = _of_this_thread()
    return call() if watched is None else watched.by_rows(x, what, call)


def normalized(what: str) -> None:
    """Batch norm took the statistics of groups, for whoever follows."""
    watched = _of_this_thread()
    if watched is not None and watched.in_closure and watched.dependence.active:
        watched.seen.normalized.append(what)


def mixed(value: Tensor, what: str) -> None:
    """``value`` depends on examples that can't be told apart, for whoever follows."""
    watched = _of_this_thread()
    if watched is not None and watched.dependence.active:
        watched.dependence.labels.set_mixed(value, what)


def _vouched(layer: nn.Module, handler: Handler, *args: Tree, **kwargs: Tree) -> Tree:
    if (forward := forward_of(layer)) is None:  # under autocast, say
        return type(layer).forward(layer, *args, **kwargs)
    with handler.closure.dependence.vouched():
        return forward(layer, *args, **kwargs)


def _packed(handler: Handler, layer: nn.Module, args: Args, kwargs: Kwargs) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, PackedSequence):
            handler.takes_packed(value)


def _forward(layer: nn.Module, handler: Handler, *args: Tree, **kwargs: Tree) -> Tree:
    bound = inspect.signature(type(layer).forward).bind(layer, *args, **kwargs)
    if bound.kwargs:
        raise NotCovered(f"{type(layer).__name__} is called with arguments that go by name alone")
    return handler.layer(layer, bound.args[1:])
