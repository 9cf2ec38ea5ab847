"""Compiled functions that run as they were written, for a while."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_inside = 0
_stance: Any = None


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, what `torch.compile` made runs as it was written.

    The compiler has one stance for all threads: the first of those that are inside sets it, the last sets it back.
    """
    global _inside, _stance
    if "torch._dynamo" not in sys.modules:  # nothing is compiled yet; it takes its time to load
        yield
        return
    with _lock:
        if _inside == 0:
            _stance = torch.compiler.set_stance("force_eager")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _stance.__exit__(None, None, None)
