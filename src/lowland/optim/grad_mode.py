"""Gradients switched off for the time of a function, and on again whenever an interrupt comes."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def recording(on: bool) -> None:
    """Whether autograd records from here on. At once: torch's own functions for it can be interrupted halfway."""
    torch._C._set_grad_enabled(on)


def unrecorded(function: Callable[P, T]) -> Callable[P, T]:
    """``function``, of which autograd records nothing; ``torch.no_grad()`` can be in force for good after Ctrl-C."""

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        before = torch.is_grad_enabled()
        try:
            torch._C._set_grad_enabled(False)
            return function(*arguments, **named)
        finally:
            torch._C._set_grad_enabled(before)

    return call
