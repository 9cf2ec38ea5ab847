"""Whose rows of data are, where that is said only by what puts them together in the end: the nodes of graphs."""

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from lowland.optim.m_sam.operations.owned import of_rows
from lowland.values import Args, Kwargs, Tree

_PUT = frozenset(["index_add", "index_reduce", "scatter_add", "scatter_reduce"])


class Gathered(TorchDispatchMode):
    """Takes note of the indices by which rows are put together while it is entered; decides nothing."""

    def __init__(self) -> None:
        super().__init__()
        #: To how many rows, and the number of the row that each one goes to.
        self._seen: list[tuple[int, Tensor]] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Tree:
        out = func(*args, **(kwargs or {}))
        if func._schema.name.partition("::")[2].removesuffix("_") in _PUT:
            x, dim, index = args[:3]
            if x.ndim and dim % x.ndim == 0 and (one := of_rows(index, 0)) is not None:
                self._seen.append((len(x), one.cpu()))
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def owners(self, examples: int) -> dict[int, Tensor]:
        """Whose rows are, by how many there are, if what puts them together ends at the rows of the ``examples``."""
        known = {examples: torch.arange(examples)}
        for _ in self._seen:
            for size, index in self._seen:
                if size in known and len(index) not in known:
                    known[len(index)] = known[size][index]
        return {size: of for size, of in known.items() if size != examples}
