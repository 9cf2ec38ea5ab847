"""How every use of a parameter is seen, whoever refers to it: its class is another one for the time being."""

import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class NotCovered(Exception):
    """The one pass can't be taken; says why. The loop over groups is right all the same."""


class Handler(Protocol):
    """What becomes of a function that is called with watched parameters."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Its result, with weights of their own for each group."""

    def has_rule(self, module: nn.Module) -> bool:
        """Whether calls of ``module`` go to `layer`."""

    def layer(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """The result of a module that has a rule of its own."""


# Not one for each thread: activation checkpointing calls layers again from autograd's.
_handler: Handler | None = None
_one_at_a_time = threading.RLock()


def _torch_function(cls: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        if _handler is None or _asks_only_about_form(func) or _is_autograds(func):
            return func(*args, **(kwargs or {}))
        return _handler.call(func, args, kwargs or {})


class Watched(nn.Parameter):
    """A parameter whose uses go to the handler."""

    __torch_function__ = classmethod(_torch_function)


class Derived(torch.Tensor):
    """A function of parameters alone, which each group has its own value of.

    Its own entries are those at w; ``stack``, of shape ``(groups, *shape)``, is what counts.
    """

    stack: Tensor
    __torch_function__ = classmethod(_torch_function)

    @classmethod
    def of(cls, value: Tensor, stack: Tensor) -> "Derived":
        """``value`` at w, ``stack`` for the groups."""
        derived = value.detach().as_subclass(cls)
        derived.stack = stack
        return derived


def _is_autograds(func: Any) -> bool:
    """Whether this is a step of backward that a dispatch mode (one that counts operations, say) calls again."""
    return isinstance(func, torch._ops.OpOverload) and not torch.is_grad_enabled()


_FORM_NAMES = """
size dim ndimension numel nelement stride is_contiguous element_size storage_offset is_floating_point
is_complex get_device data_ptr untyped_storage __len__ __hash__ __repr__ __format__ requires_grad_
register_hook is_same_size new_zeros new_ones new_empty new_full new_tensor zeros_like ones_like empty_like
full_like rand_like randn_like dtype type is_shared is_pinned has_names retain_grad sym_size is_inference
is_conj is_neg __set__ __delete__
"""
_FORM = frozenset(_FORM_NAMES.split())
_VALUES = frozenset(["T", "mT", "H", "mH", "data", "real", "imag"])


def _asks_only_about_form(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(func.__self__, "__name__", "") not in _VALUES
    return name in _FORM


@contextmanager
def watching(params: Iterable[Tensor], model: nn.Module, handler: Handler) -> Iterator[None]:
    """Inside, functions of ``params`` go to ``handler``, and so do layers of ``model`` that have a rule.

    Its buffers, and other tensors that its modules have, are no rows of the batch.

    Raises:
        NotCovered: for parameters of a class of their own.
    """
    global _handler
    params, modules = list(params), list(model.modules())
    constants = [t for module in modules for t in _kept(module)]
    layers = [module for module in modules if handler.has_rule(module)]
    for param in params:
        if type(param) is not nn.Parameter:
            raise NotCovered(f"a parameter is of the class {type(param).__name__}")
        if param.is_complex():
            raise NotCovered("a parameter is complex")
    if any("forward" in vars(layer) for layer in layers):
        raise NotCovered("a layer that has a rule has a forward of its own, set from outside")
    _one_at_a_time.acquire()
    before = _handler
    try:
        for param in params:
            param.__class__ = Watched
        for constant in constants:
            constant._lowland_constant = True  # type: ignore[attr-defined]
        for layer in layers:
            layer.__dict__["forward"] = partial(_forward, layer, handler)
        _handler = handler
        with _Constants():
            yield
    finally:
        _handler = before
        for param in params:
            param.__class__ = nn.Parameter
        for layer in layers:
            layer.__dict__.pop("forward", None)
        for constant in constants:
            constant.__dict__.pop("_lowland_constant", None)
        _one_at_a_time.release()


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, compiled functions run as they were written."""
    if "torch._dynamo" not in sys.modules:  # which takes its time to load
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def _kept(module: nn.Module) -> list[Tensor]:
    own = (*module._buffers.values(), *vars(module).values())
    return [value for value in own if type(value) is Tensor]


def _forward(layer: nn.Module, handler: Handler, *args: Any, **kwargs: Any) -> Any:
    bound = inspect.signature(type(layer).forward).bind(layer, *args, **kwargs)
    if bound.kwargs:
        raise NotCovered(f"{type(layer).__name__} is called with arguments that go by name alone")
    return handler.layer(layer, bound.args[1:])


class _Constants(TorchFunctionMode):
    """Marks what a closure computes from nothing: positions and masks are no rows of a batch, whatever their shape."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if type(out) is Tensor:
            if _picks_rows(func, args) or any(getattr(arg, "_lowland_picked", False) for arg in args):
                out._lowland_picked = True  # type: ignore[attr-defined]
            constant = getattr(func, "__name__", "") in ("new_zeros", "new_ones", "new_full")
            constant |= _all_constant(args) and (not kwargs or _all_constant(tuple(kwargs.values())))
            if constant or is_constant(out):
                out._lowland_constant = constant  # type: ignore[attr-defined]
        elif args and getattr(func, "__name__", "") == "__setitem__" and is_constant(args[0]):
            args[0]._lowland_constant = _all_constant(args)
        return out


def _picks_rows(func: Any, args: Any) -> bool:
    """Whether which rows the result has depends on values: then whose they are can't be told."""
    name = getattr(func, "__name__", "")
    if name != "__getitem__":
        return name in ("masked_select", "nonzero", "unique")
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in index) and not is_constant(
        args[0]
    )


def in_order(value: Tensor, what: str) -> None:
    """Raise NotCovered for rows that were picked by a mask."""
    if getattr(value, "_lowland_picked", False):
        raise NotCovered(f"{what} sees rows that were picked by a mask")


def is_constant(value: Any) -> bool:
    """Whether ``value`` doesn't depend on the batch, for all that was seen of it."""
    return getattr(value, "_lowland_constant", False)


def _all_constant(values: Any) -> bool:
    for value in values:
        if isinstance(value, Tensor):
            if not is_constant(value):
                return False
        elif isinstance(value, list | tuple) and not _all_constant(value):
            return False
    return True
