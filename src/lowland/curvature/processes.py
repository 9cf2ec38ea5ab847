"""One measurement by several processes, each with its own examples: all of them get the figure of all examples."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lowland.curvature.lanczos import Eigenpairs

Product = Callable[[Tensor], Tensor]


def refuse_synchronized_batch_norm(model: nn.Module) -> None:
    """Raise ValueError for statistics of the batches of all processes: they have no second derivative."""
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm) and module.training:
            raise ValueError(
                f"SyncBatchNorm ({name}) has no second derivative in training mode: use BatchNorm, or measure a "
                "copy of the model in evaluation mode with lowland.curvature.stability"
            )


class DdpProcesses:
    """The processes of a DDP model, which must all take part in every measurement.

    Args:
        group: their process group.
        device: of the tensors that go between them.
    """

    def __init__(self, group: Any, device: torch.device):
        self.group, self.device = group, device
        self.leads = dist.get_rank(group) == 0

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place; every process gets the same bits."""
        dist.all_reduce(tensor, group=self.group)
        return tensor

    def agree(self, decision: bool) -> bool:
        """What the first process has decided."""
        flag = torch.tensor(int(decision), device=self.device)
        dist.broadcast(flag, group=self.group, group_src=0)
        return bool(flag.item())

    def iterate(self, product: Product, like: Tensor, solve: Callable[[Product], Eigenpairs]) -> Eigenpairs:
        """``solve(product)`` in the first process; the others only take part in its products.

        Were each to iterate for itself, a last bit that differs could make one stop before another, which then
        would wait forever.

        Args:
            product: v ↦ Hv over the examples of all processes: all must call it, with the same v.
            like: a vector such as v.
            solve: the iteration.

        Raises:
            Exception: what ``solve`` raised, in every process.
        """
        result: Any = None
        if self.leads:

            def asked(vector: Tensor) -> Tensor:
                self.agree(True)
                vector = vector.contiguous()
                dist.broadcast(vector, group=self.group, group_src=0)
                return product(vector)

            try:
                result = solve(asked)
            except Exception as error:
                result = error
            self.agree(False)
        else:
            while self.agree(True):
                vector = torch.empty_like(like)
                dist.broadcast(vector, group=self.group, group_src=0)
                product(vector)
        return self._share(result, like)

    def _share(self, result: Any, like: Tensor) -> Eigenpairs:
        vectors = None
        if isinstance(result, Eigenpairs):
            vectors = result.vectors.contiguous()
            result = Eigenpairs(result.values.cpu(), torch.empty(0), result.residuals.cpu(), *_rest(result))
        box = [result]
        dist.broadcast_object_list(box, group=self.group, group_src=0, device=self.device)
        result = box[0]
        if isinstance(result, Exception):
            raise result
        if vectors is None:
            vectors = like.new_empty(len(result.values), len(like))
        dist.broadcast(vectors, group=self.group, group_src=0)
        return Eigenpairs(result.values.to(like), vectors, result.residuals.to(like), *_rest(result))


def _rest(pairs: Eigenpairs) -> tuple[int, bool, str, float]:
    return pairs.products, pairs.converged, pairs.reason, pairs.largest
