"""What operations of torch do with the examples in their arguments.

A rule says where the examples are in each result, or None where the operation mixes them or picks among them. It may
say None for what it can't tell; it may never say a place that is wrong.
"""

import torch
from torch._ops import OpOverload

from lowland.optim.m_sam.operations import dimensions, indices, losses, products
from lowland.optim.m_sam.operations.call import RULES, Call, Rule
from lowland.optim.m_sam.operations.entries import entrywise

__all__ = ["Call", "Rule", "dimensions", "entrywise", "indices", "losses", "products", "rule_for"]


def rule_for(func: OpOverload) -> Rule | None:
    """The rule of an operation; those that write in place have that of their namesakes."""
    if func.namespace != "aten":
        return None
    name = func._schema.name.partition("::")[2]
    in_place = name.endswith("_") and not name.endswith("__")
    name = name[:-1] if in_place else name
    if name in RULES:
        return RULES[name]
    # torch marks not all that write in place.
    like = getattr(getattr(torch.ops.aten, name, func), func._overloadname, func) if in_place else func
    return entrywise if torch.Tag.pointwise in like.tags else None
