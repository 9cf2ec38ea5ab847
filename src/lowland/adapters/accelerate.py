"""SAM in a loop written for Hugging Face Accelerate."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lowland.errors import install
from lowland.optim import SAM, parallel
from lowland.optim.sharding import is_distributed

try:
    from accelerate import Accelerator, DistributedType
except ImportError:
    raise ImportError(f"this needs Accelerate; {install('accelerate')}") from None

_NOT_HERE = {
    DistributedType.DEEPSPEED: "DeepSpeed keeps weights and gradients in memory of its own, and steps by itself",
    DistributedType.MEGATRON_LM: "Megatron-LM runs forward and backward by itself",
    DistributedType.XLA: "on XLA, Accelerate averages gradients in optimizer.step(), too late for the ascent",
}


def passes(
    accelerator: Accelerator, optimizer: Optimizer, model: nn.Module, *, sync: bool = True
) -> Iterator[AbstractContextManager[None]]:
    """The passes of one step, or of one micro-batch under ``accumulate``; run forward and backward in each.

    ``accelerator.prepare`` wraps SAM and the model. This function finds SAM in its wrapper and tells it of the wrapped
    model and the scaler. The rest of the loop is Accelerate's. Each micro-batch has its own ascent.

    Args:
        accelerator: the one that prepared ``optimizer`` and ``model``.
        optimizer: what ``accelerator.prepare`` made of a `lowland.SAM`.
        model: what ``accelerator.prepare`` made of the model. It becomes SAM's ``model``.
        sync: as in `lowland.SAM.ascent`: False lets each process under DDP climb along its own gradient.

    Raises:
        TypeError: if there is no SAM in ``optimizer``.
        ValueError: under DDP, if ``model`` is not its wrapper.
        NotImplementedError: under DeepSpeed, Megatron-LM, XLA or the older FullyShardedDataParallel, and with ``m``.

    Example::

        optimizer = lowland.SAM(torch.optim.AdamW(model.parameters()), rho=0.05)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        for x, y in loader:
            with accelerator.accumulate(model):
                for evaluation in passes(accelerator, optimizer, model):
                    with evaluation:
                        accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
    """
    check(accelerator)
    sam = inner(optimizer)
    if not isinstance(sam, SAM):
        raise TypeError(
            f"no SAM in this optimizer, but {type(sam).__name__}: prepare(model, lowland.SAM(base, rho=...))"
        )
    if sam.per_example:
        raise NotImplementedError(
            "m= and ESAM run backward by themselves, past accelerator.backward(): leave them out; each micro-batch of "
            "accelerator.accumulate() climbs for itself, which is m-SAM with m the size of a micro-batch"
        )
    synchronize = getattr(model, "set_requires_gradient_sync", None)
    if synchronize is not None:
        # accumulate() switches FSDP2's synchronization off, but an ascent needs the synchronized gradient. So does
        # every pass but the last. Which is the last depends on the rule, so all passes synchronize.
        synchronize(True)
    elif accelerator.num_processes > 1 and not (parallel.ddp(model) or any(map(is_distributed, model.parameters()))):
        raise ValueError("model must be what accelerator.prepare() returned: SAM synchronizes by that wrapper")
    sam.model = model
    return sam.passes(scaler=accelerator.scaler, sync=sync)


def check(accelerator: Accelerator) -> None:
    """Raise NotImplementedError for a setup of Accelerate in which SAM would not be SAM."""
    reason = _NOT_HERE.get(accelerator.distributed_type)
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        reason = "FullyShardedDataParallel hides what each process holds of a parameter; use FSDP2 (fsdp_version: 2)"
    if reason is not None:
        raise NotImplementedError(f"no SAM here: {reason}")


def inner(optimizer: Any) -> Any:
    """The user's optimizer, inside Accelerate's wrappers."""
    from accelerate.optimizer import AcceleratedOptimizer

    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer
