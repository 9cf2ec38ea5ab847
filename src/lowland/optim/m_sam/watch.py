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

from lowland.optim.m_sam import unseen
from lowland.optim.m_sam.places import memory


class NotCovered(Exception):
    """The one pass can't be taken; says why. The loop over groups is right all the same."""


class Unordered(NotCovered):
    """The losses depend on what can't be given to examples: on rows in another order, or on each other."""


class Refused(ValueError):
    """There is no m-SAM gradient, by whatever way; says what to change."""


class OwnGenerator(Refused):
    """A ``torch.Generator`` in the closure, which may give other numbers in each evaluation."""


class NoGradient(RuntimeError):
    """The losses depend on none of the parameters that climb."""


class Handler(unseen.Listener, Protocol):
    """What becomes of a function that is called with watched parameters."""

    #: Follows what depends on watched parameters; a `dependence.Dependence`, which knows this module.
    dependence: Any
    #: Batch norms that took the statistics of groups, one for each use.
    normalized: list[str]

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Its result, with weights of their own for each group."""

    def has_rule(self, module: nn.Module) -> bool:
        """Whether calls of ``module`` go to `layer`."""

    def layer(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """The result of a module that has a rule of its own."""

    def by_rows(self, x: Tensor, what: str, call: Callable[[], Tensor]) -> Tensor:
        """``call()``, which computes the rows of ``x`` that belong to a group by themselves."""

    def following(self, constants: list[Tensor]) -> AbstractContextManager[None]:
        """Inside, operations are followed; ``constants`` have no rows. Raises NotCovered if they can't be."""

    def check_losses(self, losses: Any) -> None:
        """Raise Unordered unless each of ``losses`` depends on one example, in order."""


# Not one for each thread: activation checkpointing calls layers again from autograd's.
_handler: Handler | None = None
_thread = 0  # which watches
_constants: list[Tensor] = []
_one_at_a_time = threading.RLock()


def _torch_function(cls: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        if _handler is None or _asks_only_about_form(func, args) or _is_autograds(func):
            return func(*args, **(kwargs or {}))
        if _handler.in_closure and _thread != threading.get_ident():
            _handler.cannot("a parameter is used in another thread ({}), where nothing is followed")
            return func(*args, **(kwargs or {}))
        return _handler.call(func, args, kwargs or {})


_class_of = vars(object)["__class__"]


def _shown_as(model: type) -> Any:
    """What instances of a class say their class is, to programs that ask for ``__class__``, as ``isinstance`` does."""
    return property(lambda _: model, lambda self, other: _class_of.__set__(self, other))


class _Parameters(type(nn.Parameter)):  # type: ignore[misc]
    """The class of a class that equals ``nn.Parameter``, in dictionaries, too.

    None may equal ``torch.Tensor``: of equal classes torch calls one ``__torch_function__`` alone.
    """

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is nn.Parameter

    def __hash__(cls) -> int:
        return hash(nn.Parameter)


class Watched(nn.Parameter, metaclass=_Parameters):
    """A parameter whose uses go to the handler."""

    __torch_function__ = classmethod(_torch_function)
    __class__ = _shown_as(nn.Parameter)  # type: ignore[assignment]


class Derived(torch.Tensor):
    """A function of parameters alone, which each group has its own value of.

    Its own entries are those at w; ``stack``, of shape ``(groups, *shape)``, is what counts.
    """

    stack: Tensor
    #: Whether others may lie in the same memory.
    shared: bool
    __torch_function__ = classmethod(_torch_function)
    __class__ = _shown_as(torch.Tensor)  # type: ignore[assignment]

    @classmethod
    def of(cls, value: Tensor, stack: Tensor, shared: bool = True) -> "Derived":
        """``value`` at w, ``stack`` for the groups."""
        derived = value.detach().as_subclass(cls)
        derived.stack, derived.shared = stack, shared
        return derived


for _kind, _model in ((Watched, nn.Parameter), (Derived, torch.Tensor)):
    _kind.__name__, _kind.__qualname__, _kind.__module__ = _model.__name__, _model.__qualname__, _model.__module__


def _is_autograds(func: Any) -> bool:
    """Whether this is a step of backward that a dispatch mode (one that counts operations, say) calls again."""
    return isinstance(func, torch._ops.OpOverload) and not torch.is_grad_enabled()


_FORM_NAMES = """
size dim ndimension numel nelement stride is_contiguous element_size storage_offset is_floating_point
is_complex get_device data_ptr untyped_storage __len__ __hash__ __repr__ __format__
register_hook is_same_size new_zeros new_ones new_empty new_full new_tensor zeros_like ones_like empty_like
full_like rand_like randn_like dtype type is_shared is_pinned has_names retain_grad sym_size is_inference
is_conj is_neg __delete__
"""
_FORM = frozenset(_FORM_NAMES.split())
_VALUES = frozenset(["T", "mT", "H", "mH", "data", "real", "imag"])


def _asks_only_about_form(func: Any, args: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name == "type" and len(args) > 1:  # a conversion
        return False
    if name == "__set__":
        return getattr(func.__self__, "__name__", "") != "requires_grad"
    if name == "__get__":
        return getattr(func.__self__, "__name__", "") not in _VALUES
    return name in _FORM


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
    global _handler, _thread, _constants
    params, modules = list(params), list(model.modules())
    watched = set(params)
    constants = [t for module in modules for t in _kept(module) if t not in watched]
    layers = [module for module in modules if handler.has_rule(module)]
    for param in params:
        if type(param) is not nn.Parameter:
            raise NotCovered(f"a parameter is of the class {type(param).__name__}")
        if param.is_complex():
            raise NotCovered("a parameter is complex")
    if any("forward" in vars(layer) for layer in layers):
        raise NotCovered("a layer that has a rule has a forward of its own, set from outside")
    _one_at_a_time.acquire()
    before, constants_before = _handler, _constants
    try:
        for param in params:
            param.__class__ = Watched
        for layer in layers:
            layer.__dict__["forward"] = partial(_forward, layer, handler)
        _handler, _thread, _constants = handler, threading.get_ident(), constants
        with unseen.looked_for(handler):
            yield
    finally:
        _handler, _constants = before, constants_before
        for param in params:
            param.__class__ = nn.Parameter
        for layer in layers:
            layer.__dict__.pop("forward", None)
        _one_at_a_time.release()


@contextmanager
def recomputed() -> Iterator[None]:
    """Inside, this thread, which may be autograd's, does what the closure did, and values that are read are seen."""
    global _thread
    before, _thread = _thread, threading.get_ident()
    try:
        with nullcontext() if _handler is None else _Reads(_handler.dependence):
            yield
    finally:
        _thread = before


def _kept(module: nn.Module) -> list[Tensor]:
    own = (*module._buffers.values(), *module._parameters.values(), *vars(module).values())
    return [value for value in own if isinstance(value, Tensor)]


def _of_this_thread() -> Handler | None:
    return _handler if _thread == threading.get_ident() else None


def followed(closure: Callable[[], Any]) -> Any:
    """What ``closure`` returns; what it does with watched parameters, if some are watched, is followed.

    Raises:
        NotCovered: if it can't be.
    """
    handler = _of_this_thread()
    if handler is None:
        return closure()
    with handler.following(_constants), _Reads(handler.dependence):
        value = closure()
    handler.check_losses(value)
    return value


def by_rows(x: Tensor, what: str, call: Callable[[], Tensor]) -> Tensor:
    """``call()``, which computes the rows of ``x`` that belong to a group by themselves; see `Handler.by_rows`."""
    handler = _of_this_thread()
    return call() if handler is None else handler.by_rows(x, what, call)


def normalized(what: str) -> None:
    """Batch norm took the statistics of groups, for whoever follows."""
    handler = _of_this_thread()
    if handler is not None and handler.in_closure and handler.dependence.active:
        handler.normalized.append(what)


def mixed(value: Tensor, what: str) -> None:
    """``value`` depends on examples that can't be told apart, for whoever follows."""
    handler = _of_this_thread()
    if handler is not None and handler.dependence.active:
        handler.dependence.set_mixed(value, what)


def _forward(layer: nn.Module, handler: Handler, *args: Any, **kwargs: Any) -> Any:
    bound = inspect.signature(type(layer).forward).bind(layer, *args, **kwargs)
    if bound.kwargs:
        raise NotCovered(f"{type(layer).__name__} is called with arguments that go by name alone")
    return handler.layer(layer, bound.args[1:])


class _Reads(TorchFunctionMode):
    """Sees values that Python takes out of tensors without an operation."""

    def __init__(self, dependence: Any):
        super().__init__()
        self.dependence = dependence

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        attribute = _asked_for(func) if name == "__get__" else ""
        if name in _TAKEN_OUT and args and sys._getframe(1).f_globals.get("__package__") != __package__:
            self._refuse(args, name + " ({}) reads a value that depends on the parameters")
        elif attribute in _TAKEN_OUT:
            self._refuse(args[:1], attribute + " ({}) reads a value that depends on the parameters")
        elif name in _READ:
            first, what = _READ[name]
            self._refuse(
                (*args[first:], *(kwargs or {}).values()), f"{name} ({{}}) reads {what} that depend on the parameters"
            )
        elif name == "register_hook" and not _from_torch():
            self._refuse(args[:1], "a gradient hook is set ({}), which may mix the examples")
        elif attribute == "grad_fn" and not _from_torch():
            self._refuse(args[:1], "the grad_fn of a tensor is taken ({}), whose hooks may mix the examples")
        elif attribute == "data" and type(args[0]) is not Watched:
            self._refuse(args[:1], "data of a tensor is taken ({}), which autograd doesn't see: take detach()")
        return func(*args, **(kwargs or {}))

    def _refuse(self, values: Iterable[Any], why: str) -> None:
        for value in values:
            self.dependence.refuse(value, why)


def _asked_for(getter: Any) -> str:
    """The name of the attribute that ``getter``, the ``__get__`` of a tensor's property, gives."""
    of = getter.__self__
    return str(getattr(getattr(of, "fget", of), "__name__", ""))


def _from_torch() -> bool:
    """Whether torch asks for itself: what counts its operations, say, and not on the way from somebody else."""
    frame: Any = sys._getframe(2)
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_ON_THE_WAY):
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).startswith("torch.")


_ON_THE_WAY = ("torch.autograd", "torch._tensor", "torch.overrides", "torch._dynamo")


#: Who has the storage may look into it.
_TAKEN_OUT_NAMES = (
    "numpy tolist __array__ __dlpack__ data_ptr untyped_storage storage apply_ map_ map2_ q_scale q_zero_point "
    "__repr__ __str__ __format__ __deepcopy__ __cuda_array_interface__"
)
_TAKEN_OUT = frozenset(_TAKEN_OUT_NAMES.split())
#: What reads values of some arguments: from which on, and what they are.
_READ = {"tensor_split": (1, "indices"), "tensordot": (2, "dims")}
