"""Tensors that a rule keeps from step to step, one for each parameter."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowland.optim.sharding import local

PREFIX = "sam_"  # of their names in a state_dict


class Memory:
    """By name, a tensor like each parameter, zero at first; in a state_dict beside the base optimizer's state.

    Kept apart from that until it is saved: some optimizers take a parameter with any state for one they have seen.
    """

    def __init__(self, names: Iterable[str]):
        self.names = tuple(dict.fromkeys(names))
        self._tensors: dict[str, dict[Tensor, Tensor]] = {name: {} for name in self.names}

    def of(self, params: Sequence[Tensor], name: str) -> list[Tensor]:
        """What this process holds of those of ``params``, to read and to change."""
        return [local(self._of(param, name)) for param in params]

    def _of(self, param: Tensor, name: str) -> Tensor:
        kept = self._tensors[name]
        if param not in kept:
            kept[param] = torch.zeros_like(param.detach(), memory_format=torch.preserve_format)
        return kept[param]

    def save(self, params: Sequence[Tensor], state: dict[Any, Any]) -> dict[Any, Any]:
        """``state``, a base optimizer's by number of parameter, with what is remembered of each beside it."""
        state = dict(state)
        for index, param in enumerate(params):
            if param.requires_grad:
                own = {PREFIX + name: self._of(param, name) for name in self.names}
                state[index] = {**state.get(index, {}), **own}
        return state

    def load(self, params: Sequence[Tensor], state: dict[Any, Any]) -> None:
        """Take up what `save` added, from the second half of `split`; what isn't there is zero."""
        self._tensors = {name: {} for name in self.names}
        for index, values in state.items():
            for name in self.names:
                if PREFIX + name in values:
                    with torch.no_grad():
                        self._of(params[index], name).copy_(values[PREFIX + name])


def split(state: dict[Any, Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """What is the base optimizer's of a saved state, and what is a `Memory`'s."""
    bare, remembered = {}, {}
    for index, values in state.items():
        own = {key: value for key, value in values.items() if str(key).startswith(PREFIX)}
        rest = {key: value for key, value in values.items() if key not in own}
        if own:
            remembered[index] = own
        if rest or not own:
            bare[index] = rest
    return bare, remembered


def keep_finite(kept: Sequence[Tensor], values: Sequence[Tensor], finite: bool | Tensor | None = None) -> None:
    """Copy ``values`` to ``kept`` if all are finite, without waiting for the device.

    Args:
        kept: to change.
        values: shaped like them.
        finite: whether they are, where that is known: a bool or a 0-d tensor.
    """
    if finite is None and values:
        device = values[0].device
        sums = [value.sum(dtype=torch.float32).to(device) for value in values]
        finite = torch.isfinite(torch.stack(sums)).all()
    if isinstance(finite, Tensor):
        values = [torch.where(finite.to(v.device), v, k) for k, v in zip(kept, values, strict=True)]
    if finite is not False:
        torch._foreach_copy_(list(kept), list(values))
