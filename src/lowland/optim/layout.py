"""What a state_dict holds: the base optimizer's, with SAM's part in it, or beside it.

The latter where the base optimizer's isn't laid out as torch's: that of a container of Muon and AdamW, say.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lowland.optim.core import Core
from lowland.optim.m_sam import saved
from lowland.optim.memory import split
from lowland.optim.radii import STEPS
from lowland.values import ParameterGroup, StateDict

BASE, OWN = "base", "sam"
KEYS = ("rho", STEPS)  # in each parameter group


def save(core: Core) -> StateDict:
    """The base optimizer's state_dict with the rules' memory in it; by `pack` if its layout isn't torch's."""
    state_dict, params = core.base.state_dict(), list(core.params())
    if not is_torchs(state_dict, params):
        packed = pack(state_dict, core.base.param_groups, KEYS, core.memory.save(dict(enumerate(params)), {}))
        packed[OWN]["groups"] = [group | core.memory.numbers for group in packed[OWN]["groups"]]
        return packed
    if core.memory:
        state_dict["state"] = core.memory.save(_keyed(state_dict, params), state_dict["state"])
    if core.memory.numbers:
        state_dict["param_groups"] = [{**group, **core.memory.numbers} for group in state_dict["param_groups"]]
    return state_dict


def load(core: Core, state_dict: StateDict) -> None:
    """What `save` gave, or the base optimizer's: then the rules remember nothing, and rho and the steps stay."""
    own = [{key: group[key] for key in KEYS} for group in core.base.param_groups]
    params = list(core.params())
    if is_torchs(state_dict, params):
        bare, remembered = split(state_dict["state"])
        core.base.load_state_dict({**state_dict, "state": bare})
        core.memory.load(_keyed(state_dict, list(core.params())), remembered)
    elif is_packed(state_dict):
        own_part = state_dict[OWN]
        core.base.load_state_dict(state_dict[BASE])
        core.memory.load(dict(enumerate(params)), own_part["memory"])
        for group, values in zip(core.base.param_groups, own_part["groups"], strict=True):
            group.update(values)
    else:  # the base optimizer's, in a layout of its own or one that it refuses
        core.base.load_state_dict(state_dict)
        core.memory.load({}, {})
    core.memory.numbers = {}
    for group, values in zip(core.base.param_groups, own, strict=True):
        # No settings of a parameter group: they stand there in a state_dict alone.
        core.memory.numbers |= {key: int(group.pop(key)) for key in saved.KEYS if key in group}
        for key, value in values.items():
            group.setdefault(key, value)


def _keyed(state_dict: StateDict, params: Sequence[Tensor]) -> dict[int | str, Tensor]:
    """The parameters by what a state_dict calls them: numbers, or, from torch.distributed.checkpoint, names."""
    return dict(zip((key for group in state_dict["param_groups"] for key in group["params"]), params, strict=True))


def is_torchs(state_dict: object, params: Sequence[Tensor]) -> bool:
    """Whether there are ``state`` and ``param_groups``, in which each of ``params`` has a key."""
    if not isinstance(state_dict, Mapping) or not isinstance(state_dict.get("state"), Mapping):
        return False
    groups = state_dict.get("param_groups")
    if not isinstance(groups, list | tuple) or not all(isinstance(g, Mapping) and "params" in g for g in groups):
        return False
    return sum(len(group["params"]) for group in groups) == len(params)


def pack(
    state_dict: object, groups: Sequence[ParameterGroup], keys: Sequence[str], memory: Mapping[int, StateDict]
) -> StateDict:
    """``state_dict`` as it is, and beside it what SAM has in ``groups`` under ``keys``, and its rules' ``memory``."""
    own = [{key: group[key] for key in keys} for group in groups]
    return {BASE: state_dict, OWN: {"groups": own, "memory": dict(memory)}}


def is_packed(state_dict: object) -> bool:
    """Whether ``state_dict`` has exactly the two entries that `pack` makes."""
    return isinstance(state_dict, Mapping) and set(state_dict) == {BASE, OWN}
