"""Whose rows of data are, where that is said only by what takes them: the nodes of graphs, packed sequences.

Of nodes it is what puts them together in the end, of packed sequences the recurrent layer.
"""

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from lowland.optim.m_sam.operations.owned import of_rows
from lowland.optim.m_sam.packed import Packing
from lowland.values import Args, Kwargs, Tree

_PUT = frozenset(["index_add", "index_reduce", "scatter_add", "scatter_reduce"])


class Gathered(TorchDispatchMode):
    """Takes note of the indices by which rows are put together while it is entered; decides nothing.

    Args:
        model: whose recurrent layers may see packed sequences.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._layers = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
        self._hooks: list[RemovableHandle] = []
        #: To how many rows, and the number of the row that each one goes to.
        self._seen: list[tuple[int, Tensor]] = []

    def __enter__(self) -> "Gathered":
        self._hooks = [layer.register_forward_pre_hook(self._see, with_kwargs=True) for layer in self._layers]
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _see(self, layer: nn.Module, args: Args, kwargs: Kwargs) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, PackedSequence) and len(value.batch_sizes):
                of = Packing.of(value.batch_sizes).sequences
                order = value.sorted_indices
                self._seen.append((int(value.batch_sizes[0]), of if order is None else order.cpu()[of]))

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
