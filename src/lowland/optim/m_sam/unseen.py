"""What the closure does without an operation: functions of torch and Python are replaced for the time of a pass.

Functions of autograd's own, reentrant checkpoints, hooks of what is saved for backward, and work that is handed to
threads and processes leave no operation behind that `dependence` could follow.
"""

import multiprocessing.pool
import multiprocessing.process
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial, wraps
from typing import ParamSpec, Protocol, TypeVar

import torch
from torch import _VF, Tensor
from torch.autograd.function import _SingleLevelFunction
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lowland.optim.m_sam.packed import padded
from lowland.values import Args, Function, Tree

P = ParamSpec("P")
T = TypeVar("T")


class Listener(Protocol):
    """Who is told of what the closure does without an operation."""

    #: Whether the closure is running.
    in_closure: bool

    def cannot(self, why: str) -> None:
        """The one pass can't be taken; ``why`` has a place for the line."""

    def imported(self, value: Tensor) -> None:
        """``value`` lies in memory that came without an operation."""

    def leaves(self, value: object, why: str) -> None:
        """``value`` leaves torch; ``why`` has a place for the line."""

    def unread(self, call: Callable[[], T]) -> T:
        """``call()``, which reads values and decides nothing by them."""


#: The result of a class, a function of autograd's own, with these arguments; the last one calls it.
Applying = Callable[[type[torch.autograd.Function], Args, Function], Tree]

_listener: Listener | None = None
_function: Applying = lambda cls, args, apply: apply(*args)  # noqa: E731
_thread = 0  # whose closure it is


@contextmanager
def looked_for(listener: Listener, function: Applying) -> Iterator[None]:
    """Inside, ``listener`` hears of what this thread does without an operation, and ``function`` calls functions."""
    global _listener, _function, _thread
    outer = _listener, _function, _thread
    _listener, _function, _thread = listener, function, threading.get_ident()
    if outer[0] is None:
        for owner, name, _, ours in _REPLACED:
            setattr(owner, name, ours)
    try:
        yield
    finally:
        _listener, _function, _thread = outer
        if outer[0] is None:
            for owner, name, theirs, _ in _REPLACED:
                if theirs is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, theirs)


def _listening() -> Listener | None:
    """Who listens to this thread's closure, while it runs."""
    listener = _listener
    return None if listener is None or not listener.in_closure or _elsewhere() else listener


def _elsewhere() -> bool:
    return _thread != threading.get_ident()


def around() -> str | None:
    """What is on around the closure and may change what operations or backward give, in words; None for nothing."""
    if not _are_torchs(torch._C._autograd._top_saved_tensors_default_hooks(True) or ()):
        return _HOOKS.format("around the step")
    for mode in _get_current_dispatch_mode_stack():
        if not _is_known(mode):
            return _MODE.format(type(mode).__name__, "around the step")
    return None


def _is_known(mode: object) -> bool:
    return type(mode).__module__.startswith(("torch.", _OURS))


def _are_torchs(functions: Iterable[object]) -> bool:
    return all(str(getattr(function, "__module__", "")).startswith("torch.") for function in functions)


# What stands in for torch's and Python's own functions.


def _apply(cls: type[torch.autograd.Function], *args: Tree) -> Tree:
    plain = super(_SingleLevelFunction, cls).apply  # type: ignore[misc]  # C has it
    if _listener is None or cls.__module__.startswith(_OURS) or (_listener.in_closure and _elsewhere()):
        return plain(*args)
    return _function(cls, args, plain)


def _enter(hooks: saved_tensors_hooks) -> None:
    if _listener is not None and not _are_torchs((hooks.pack_hook, hooks.unpack_hook)):
        _listener.cannot(_HOOKS)
    _enter_hooks(hooks)


def _push(mode: _python_dispatch.TorchDispatchMode) -> None:
    if (listener := _listening()) is not None and not _is_known(mode):
        listener.cannot(_MODE.format(type(mode).__name__, "in the closure ({})"))
    _push_mode(mode)


def _imported(*args: Tree, **kwargs: Tree) -> Tensor:
    value = _from_dlpack(*args, **kwargs)
    if (listener := _listening()) is not None:
        listener.imported(value)
    return value


def _exported(value: Tensor, *args: Tree, **kwargs: Tree) -> object:
    if (listener := _listening()) is not None:
        listener.leaves(value, "to_dlpack ({}) reads a value that depends on the parameters")
    return _to_dlpack(value, *args, **kwargs)


def _number(name: str) -> Callable[[Tensor], complex]:
    """What C and Python call for the number in a tensor: torch's constructors, too, with no operation to be seen."""
    theirs = getattr(Tensor, name)

    @wraps(theirs)
    def number(value: Tensor) -> complex:
        if _listener is not None:
            if sys._getframe(1).f_globals.get("__name__") == _RAISES:
                return _listener.unread(partial(theirs, value))
            _listener.leaves(value, f"{name} ({{}}) reads a value that depends on the parameters")
        return theirs(value)

    return number


def _announced(func: Callable[P, T], to: str) -> Callable[P, T]:
    @wraps(func)
    def announced(*args: P.args, **kwargs: P.kwargs) -> T:
        if (listener := _listening()) is not None:
            listener.cannot(f"the closure hands work to {to} ({{}}), where nothing is followed")
        return func(*args, **kwargs)

    return announced


#: Where values are read that are checked, for an error or nothing.
_RAISES = "torch.distributions.distribution"
_OURS = "lowland.optim.m_sam."
_HOOKS = "hooks of what is saved for backward are set ({}), which may change it"
_enter_hooks, _from_dlpack, _to_dlpack = saved_tensors_hooks.__enter__, torch._C._from_dlpack, torch._C._to_dlpack
_MODE = "{}, a dispatch mode, is on {}, and may change what operations give"
_push_mode = _python_dispatch._push_mode
_THREAD, _PROCESS = "another thread", "another process"
#: Whose, its name, what it is (None where it is inherited), and what it is for a while.
_REPLACED: list[tuple[object, str, object, object]] = [
    (_SingleLevelFunction, "apply", None, classmethod(_apply)),
    (saved_tensors_hooks, "__enter__", _enter_hooks, _enter),
    (_python_dispatch, "_push_mode", _push_mode, _push),
    (torch._C, "_from_dlpack", _from_dlpack, _imported),
    (_VF, "_pad_packed_sequence", None, padded),  # torch's own writes in place, time by time
    *(
        (Tensor, name, vars(Tensor).get(name), _number(name))
        for name in ("__float__", "__int__", "__index__", "__bool__", "__complex__")
    ),
    *(
        (owner, name, _to_dlpack, _exported)
        for owner, name in ((torch._C, "_to_dlpack"), (torch.utils.dlpack, "to_dlpack"))
    ),
    *(
        (owner, name, vars(owner)[name], _announced(vars(owner)[name], to))
        for owner, name, to in (
            (threading.Thread, "start", _THREAD),
            (ThreadPoolExecutor, "submit", _THREAD),
            (ProcessPoolExecutor, "submit", _PROCESS),
            (multiprocessing.process.BaseProcess, "start", _PROCESS),
            (multiprocessing.pool.Pool, "_check_running", "a pool"),
        )
    ),
]
