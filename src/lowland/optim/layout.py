"""Optimizers whose state_dict isn't laid out as torch's: a container of Muon and AdamW, say."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

BASE, OWN = "base", "sam"


def is_torchs(state_dict: Any, params: Sequence[Tensor]) -> bool:
    """Whether there are ``state`` and ``param_groups``, in which each of ``params`` has a key."""
    if not isinstance(state_dict, Mapping) or not isinstance(state_dict.get("state"), Mapping):
        return False
    groups = state_dict.get("param_groups")
    if not isinstance(groups, list | tuple) or not all(isinstance(g, Mapping) and "params" in g for g in groups):
        return False
    return sum(len(group["params"]) for group in groups) == len(params)


def pack(
    state_dict: Any, groups: Sequence[Mapping[str, Any]], keys: Sequence[str], memory: Mapping[Any, Any]
) -> dict[str, Any]:
    """``state_dict`` as it is, and beside it what SAM has in ``groups`` under ``keys``, and its rules' ``memory``."""
    own = [{key: group[key] for key in keys} for group in groups]
    return {BASE: state_dict, OWN: {"groups": own, "memory": dict(memory)}}


def is_packed(state_dict: Any) -> bool:
    """Whether `pack` made it."""
    return isinstance(state_dict, Mapping) and set(state_dict) == {BASE, OWN}
