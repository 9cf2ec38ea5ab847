"""The same random numbers in both passes, so that dropout leaves out the same units."""

import random
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def random_states(params: Iterable[Tensor]) -> list[tuple[Any, Any]]:
    """The states of torch's default generators, on the CPU and wherever ``params`` are, of Python's and NumPy's."""
    devices = {param.device for param in params if param.device.type != "cpu"}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # parameters may be offloaded
        devices.add(torch.device("cuda", torch.cuda.current_device()))
    states: list[tuple[Any, Any]] = [(None, torch.random.get_rng_state())]
    states += [(device, torch.get_device_module(device).get_rng_state(device)) for device in devices]
    states.append(("python", random.getstate()))
    if "numpy.random" in sys.modules:
        states.append(("numpy", sys.modules["numpy.random"].get_state()))
    return states


def have_moved(states: list[tuple[Any, Any]]) -> bool:
    """Whether the generators are no longer what `random_states` found."""
    now = dict(random_states(torch.empty(0, device=device) for device, _ in states if isinstance(device, torch.device)))
    return not all(_same(state, now[device]) for device, state in states)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool((a == b).all()) if hasattr(a, "all") else bool(a == b)


def replay(states: list[tuple[Any, Any]]) -> None:
    """Set the generators to what `random_states` found."""
    for device, state in states:
        if device is None:
            torch.random.set_rng_state(state)
        elif device == "python":
            random.setstate(state)
        elif device == "numpy":
            sys.modules["numpy.random"].set_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, device)
