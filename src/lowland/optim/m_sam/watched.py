"""Parameters whose uses are intercepted: their class is another one for the time of a pass."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lowland.values import Args, Function, Kwargs, Tree


class Caller(Protocol):
    """A pass, which computes functions of watched parameters."""

    def call(self, func: Function, args: Args, kwargs: Kwargs) -> Tree:
        """The result of a function, with weights of their own for each group."""

    def beside(self, value: Tensor, rows: Tensor, what: str) -> Tensor | None:
        """``value``, which parameters alone give, as a tensor that broadcasts with ``rows``, each with its group's.

        None if ``rows`` has no rows of examples.
        """

    def of_rows(self, value: Tensor, rows: Tensor, what: str) -> Tensor:
        """``value``, whatever gives it, as one that has a row for each of ``rows``, along the first dimension."""

    def whose(self, packed: Tensor, count: int, what: str) -> Tensor:
        """The number of the example of each of ``count`` sequences whose packed rows are given, on the CPU."""

    def written(self, target: Tensor, value: Tensor, what: str) -> Tensor:
        """``target``, a buffer say, with ``value`` written to it; until the closure is over each group has its own."""

    def picked(self, value: Tensor, dim: int, index: Tensor) -> Tensor:
        """``value`` at an ``index`` of numbers of rows of the batch; of what parameters give each group has all."""

    @property
    def examples(self) -> int:
        """How many the batch has."""

    def looked_up(self, tokens: Tensor, table: Tensor, what: str) -> Tensor | None:
        """The rows of ``table``, which parameters give, at ``tokens``; None if ``tokens`` have no rows of examples."""


# Not one for each thread: activation checkpointing calls layers again from autograd's.
_caller: Caller | None = None
_thread = 0  # which watches


@contextmanager
def called_by(caller: Caller) -> Iterator[None]:
    """Inside, functions of watched parameters go to ``caller``, and it is this thread's closure that is followed."""
    global _caller, _thread
    before = _caller
    try:
        _caller, _thread = caller, threading.get_ident()
        yield
    finally:
        _caller = before


@contextmanager
def followed_here() -> Iterator[None]:
    """Inside, this thread, which may be autograd's, does what the closure did."""
    global _thread
    before, _thread = _thread, threading.get_ident()
    try:
        yield
    finally:
        _thread = before


def is_followed_here() -> bool:
    """Whether somebody watches, and it is this thread that is followed."""
    return _caller is not None and _thread == threading.get_ident()


def _torch_function(
    cls: type[Tensor], func: Function, types: object, args: Args = (), kwargs: Kwargs | None = None
) -> Tree:
    with torch._C.DisableTorchFunctionSubclass():
        if _caller is None or _asks_only_about_form(func, args) or _is_autograds(func):
            return func(*args, **(kwargs or {}))
        return _caller.call(func, args, kwargs or {})


_class_of = vars(object)["__class__"]


def _shown_as(model: type) -> property:
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
    """A parameter whose uses go to a `Caller`."""

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

    @classmethod
    def become(cls, target: Tensor, value: "Derived") -> None:
        """Make ``target`` itself, a buffer say, a `Derived` tensor of ``value``, until it `is_plain_again`."""
        with torch.no_grad():
            target.as_subclass(Tensor).copy_(value.as_subclass(Tensor))
        target.__class__ = cls
        target.stack, target.shared = value.stack, True  # type: ignore[attr-defined]

    def is_plain_again(self) -> None:
        """It keeps its own entries, those at w."""
        del self.stack, self.shared
        self.__class__ = Tensor  # type: ignore[assignment]


for _kind, _model in ((Watched, nn.Parameter), (Derived, torch.Tensor)):
    _kind.__name__, _kind.__qualname__, _kind.__module__ = _model.__name__, _model.__qualname__, _model.__module__


def _is_autograds(func: object) -> bool:
    """Whether this is a step of backward that a dispatch mode (one that counts operations, say) calls again."""
    return isinstance(func, torch._ops.OpOverload) and not torch.is_grad_enabled()


_FORM_NAMES = """
size dim ndimension numel nelement stride is_contiguous element_size storage_offset is_floating_point
is_complex get_device data_ptr untyped_storage __len__ __hash__ __repr__ __format__
register_hook is_same_size new_zeros new_ones new_empty new_full new_tensor zeros_like ones_like empty_like
full_like rand_like randn_like dtype type is_shared is_pinned has_names retain_grad sym_size is_inference
is_conj is_neg __delete__ _has_compatible_shallow_copy_type
"""
_FORM = frozenset(_FORM_NAMES.split())
_VALUES = frozenset(["T", "mT", "H", "mH", "data", "real", "imag"])


def _asks_only_about_form(func: Function, args: Args) -> bool:
    name = getattr(func, "__name__", "")
    if name == "type" and len(args) > 1:  # a conversion
        return False
    if name == "__set__":
        return getattr(getattr(func, "__self__", None), "__name__", "") != "requires_grad"
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") not in _VALUES
    return name in _FORM


def of_parameters(values: Tree) -> bool:
    """Whether there are parameters, or what they alone give, among ``values``."""
    return any(isinstance(t, Watched | Derived) for t in pytree.tree_leaves(values))
