"""Names for values whose type nobody can write down: `optim` and `training` say ``Any`` in no other way.

Each stands for one reason. Where a thing has a type, a protocol or a type variable, that is written in their place.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

#: What goes through torch or a user's function without being looked at: inputs, targets and outputs of a model, trees
#: of tensors, the arguments and results of an operation.
Tree: TypeAlias = Any
Function: TypeAlias = Callable[..., Tree]
Args: TypeAlias = tuple[Tree, ...]
Kwargs: TypeAlias = dict[str, Tree]
#: What a state_dict, a parameter group or a checkpoint holds under a name: a tensor, a number, a mapping of its own.
State: TypeAlias = Any
StateDict: TypeAlias = dict[str, State]
ParameterGroup: TypeAlias = dict[str, State]
#: What ``forward`` of a ``torch.autograd.Function`` hands to its ``backward``, with whatever attributes it sets.
Context: TypeAlias = Any
#: A value as it was read from JSON; `lowland.training.files.fault` looks at its shape when it is read.
Read: TypeAlias = Any
JsonObject: TypeAlias = dict[str, Read]
#: What can be written as JSON, where NaN and infinity become null, and keys that are numbers text.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | Mapping[int, Json] | None"
#: An object of a library without types, or one of torch's own that has none.
Foreign: TypeAlias = Any
#: What stands for a field in the body of a dataclass, as `dataclasses.field` gives it.
Field: TypeAlias = Any
