"""Tensors that a rule keeps from step to step, one for each parameter."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lowland.optim.grad_mode import unrecorded
from lowland.optim.sharding import local
from lowland.values import StateDict

K = TypeVar("K")  # what a state_dict calls a parameter: the parameter itself, its number, its name
PREFIX = "sam_"  # of their names in a state_dict


class Memory:
    """By name, a tensor like each parameter, zero at first; in a state_dict beside the base optimizer's state.

    Kept apart from that until it is saved: some optimizers take a parameter with any state for one they have seen.

    Attributes:
        names: of the tensors.
        numbers: by name, what batches have taught m-SAM's engine.
    """

    def __init__(self, names: Iterable[str]):
        self.names = tuple(dict.fromkeys(names))
        self.numbers: dict[str, int] = {}
        self._tensors: dict[str, dict[Tensor, Tensor]] = {name: {} for name in self.names}

    def of(self, params: Sequence[Tensor], name: str) -> list[Tensor]:
        """What this process holds of those of ``params``, to read and to change."""
        return [local(self._of(param, name)) for param in params]

    def _of(self, param: Tensor, name: str) -> Tensor:
        kept = self._tensors[name]
        if param not in kept:
            kept[param] = torch.zeros_like(param.detach(), memory_format=torch.preserve_format)
        return kept[param]

    def rename(self, names: Iterable[str]) -> None:
        """Keep tensors of other names; those of the same name stay."""
        self.names = tuple(dict.fromkeys(names))
        self._tensors = {name: self._tensors.get(name, {}) for name in self.names}

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return any(self._tensors.values())

    def make(self, params: Iterable[Tensor]) -> None:
        """Zeros for each of ``params``."""
        for param in params if self.names else ():
            for name in self.names:
                self._of(param, name)

    def save(self, params: Mapping[K, Tensor], state: Mapping[K, StateDict]) -> dict[K, StateDict]:
        """``state``, a base optimizer's by the keys of ``params``, with what is remembered of each beside it."""
        state = dict(state)
        for key, param in params.items():
            own = {PREFIX + name: of[param] for name, of in self._tensors.items() if param in of}
            if own:
                state[key] = {**state.get(key, {}), **own}
        return state

    @unrecorded
    def load(self, params: Mapping[K, Tensor], state: Mapping[K, StateDict]) -> None:
        """Take up what `save` added, from the second half of `split`; what isn't there is zero."""
        self._tensors = {name: {} for name in self.names}
        for key, values in state.items():
            for name in self.names:
                if isinstance(values.get(PREFIX + name), Tensor):  # torch hands {} for what a checkpoint lacks
                    self._of(params[key], name).copy_(values[PREFIX + name])


def split(state: Mapping[K, StateDict]) -> tuple[dict[K, StateDict], dict[K, StateDict]]:
    """What is the base optimizer's of a saved state, and what is a `Memory`'s."""
    bare: dict[K, StateDict] = {}
    remembered: dict[K, StateDict] = {}
    for index, values in state.items():
        own = {key: value for key, value in values.items() if str(key).startswith(PREFIX)}
        rest = {key: value for key, value in values.items() if key not in own}
        if own:
            remembered[index] = own
        if rest or not own:
            bare[index] = rest
    return bare, remembered


def keep(kept: Sequence[Tensor], values: Iterable[Tensor], finite: bool | Tensor) -> None:
    """Copy ``values`` to ``kept`` if all are finite, as ``finite`` says: a bool, or a 0-d tensor that isn't waited for.

    One after the other, so that an iterator needs no memory for all.
    """
    if finite is False:
        return
    for old, new in zip(kept, values, strict=True):
        old.copy_(new if finite is True else torch.where(torch.as_tensor(finite, device=old.device), new, old))


def is_finite(number: float | Tensor) -> bool | Tensor:
    """Of a number that may be on a device."""
    return torch.isfinite(number) if isinstance(number, Tensor) else math.isfinite(number)
