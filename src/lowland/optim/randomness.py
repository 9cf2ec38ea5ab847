"""The same random numbers in both passes, so that dropout leaves out the same units."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def random_states(params: Iterable[Tensor]) -> list[tuple[Any, Tensor]]:
    """The states of torch's default generators, on the CPU and wherever ``params`` are."""
    devices = {param.device for param in params if param.device.type != "cpu"}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # parameters may be offloaded
        devices.add(torch.device("cuda", torch.cuda.current_device()))
    states: list[tuple[Any, Tensor]] = [(None, torch.random.get_rng_state())]
    return states + [(device, torch.get_device_module(device).get_rng_state(device)) for device in devices]


def replay(states: list[tuple[Any, Tensor]]) -> None:
    """Set the generators to what `random_states` found."""
    for device, state in states:
        if device is None:
            torch.random.set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, device)
