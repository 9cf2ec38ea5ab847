"""Models in several processes: what DDP and FSDP2 keep of weights and gradients behind the optimizer's back."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lowland.optim.sharding import is_distributed
from lowland.torch_tools import ddp, fsdp_modules, unwrapped

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup


def check(model: nn.Module | None, params: Iterable[Tensor]) -> None:
    """Raise ValueError for parameters that hide their pieces: of those SAM would take a local norm for the global.

    Those of FSDP2 do while they are gathered: then ``model.parameters()`` are not what is trained.
    """
    params = set(params)
    if "torch.distributed.fsdp" in sys.modules:
        groups = _groups(fsdp_modules(_all_modules(model)))
        gathered = {getattr(param, "_unsharded_param", None) for group in groups for param in group.fsdp_params}
        of_model = () if model is None else model.parameters()
        if not gathered.isdisjoint(params) or not gathered.isdisjoint(of_model):
            raise ValueError(
                "the weights of this FSDP2 model are gathered, as a forward pass leaves them: call model.reshard() "
                "before the optimizer and SAM are made"
            )
    if any(getattr(param, "_fsdp_flattened", False) for param in params):
        raise ValueError(
            "FullyShardedDataParallel flattens parameters, and doesn't say what each process holds of them: shard the "
            "model with torch.distributed.fsdp.fully_shard (FSDP2)"
        )


def several() -> bool:
    """Whether processes train together, or could."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and torch.distributed.get_world_size() > 1


@contextmanager
def no_other_ddp(model: nn.Module) -> Iterator[None]:
    """Inside, a forward pass of a module of ``model`` in another DDP wrapper than ``model``, which averages, raises.

    Raises:
        ValueError: for such a pass.
    """
    if not several():
        yield
        return
    own = ddp(model)

    def look(module: nn.Module, _: object) -> None:
        active = getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None)
        averages = active is not None and active is not own and active.require_backward_grad_sync
        if averages and torch.is_grad_enabled():
            raise ValueError(
                "the closure runs a DistributedDataParallel module that isn't model=: it would average the gradients "
                "of each group over the processes. With m hand SAM the wrapper itself, model=DDP(net), one around all "
                "of its parameters"
            )

    hooked = (module for module in unwrapped(model).modules() if not isinstance(module, torch.jit.ScriptModule))
    handles = [module.register_forward_pre_hook(look) for module in hooked]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def ddp_synchronization(wrapper: nn.parallel.DistributedDataParallel, sync: bool) -> Iterator[None]:
    """Whether the backward passes inside average gradients over the processes."""
    before = wrapper.require_backward_grad_sync
    wrapper.require_backward_grad_sync = sync
    try:
        yield
    finally:
        wrapper.require_backward_grad_sync = before


def averaging(model: nn.Module | None) -> Callable[[list[Tensor]], list[Tensor]] | None:
    """What takes the mean of tensors over the processes of a DDP model; None where backward passes average nothing now.

    For what a process adds of its own to gradients that are averages already. What it adds to those that aren't, DDP
    averages with them.

    Raises:
        ValueError: for the latter if DDP may leave out parameters that no process's loss reaches.
    """
    wrapper = ddp(model)
    if wrapper is None:
        return None
    if not wrapper.require_backward_grad_sync:
        if wrapper.find_unused_parameters or wrapper.static_graph:
            raise ValueError(
                "l2= where each process climbs along its own gradient, without synchronization: not under DDP with "
                "find_unused_parameters or static_graph, which never averages what no loss reaches"
            )
        return None

    def mean(tensors: list[Tensor]) -> list[Tensor]:
        means = list(torch._foreach_div(tensors, wrapper.process_group.size()))
        pending = [torch.distributed.all_reduce(t, group=wrapper.process_group, async_op=True) for t in means]
        for work in pending:
            work.wait()
        return means

    return mean


def anywhere(flag: bool | Tensor, model: nn.Module | None) -> bool | Tensor:
    """Whether ``flag`` is set in any of the processes of a DDP model."""
    wrapper = ddp(model)
    if wrapper is None:
        return flag
    device = next(wrapper.parameters()).device
    shared = torch.as_tensor(flag, device=device).float()
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, group=wrapper.process_group)
    return shared > 0 if isinstance(flag, Tensor) else bool(shared.item())


def set_aside(gradient: Tensor | None) -> Tensor | None:
    """``gradient``, safe from the next backward pass: a copy if it lies in memory that DDP will write to again."""
    if gradient is None or gradient.layout is not torch.strided:
        return gradient
    if not (gradient._is_view() or gradient.untyped_storage().nbytes() > gradient.nbytes):
        return gradient
    return gradient.clone()


class Fsdp:
    """The FSDP2 modules that hold some of ``params``; none where FSDP2 isn't in use."""

    def __init__(self, model: nn.Module | None, params: Iterable[Tensor]):
        some = any(map(is_distributed, params))
        self.modules = fsdp_modules(_all_modules(model)) if some else []

    def reshard(self) -> None:
        """Forget gathered weights: they are not what the shards are any more."""
        for module in self.modules:
            module.reshard()

    def keeps_gradients_of(self, params: Iterable[Tensor]) -> bool:
        """Whether gradients of ``params`` are there, but not reduced over the processes: then ``p.grad`` lacks them.

        Inside `unsynchronized_set_aside` those are gradients of the pass that is under way.
        """
        params = set(params)
        for group in _groups(self.modules):
            own = [param for param in group.fsdp_params if param.sharded_param in params]
            if own and group._partial_reduce_output is not None:
                return True
            if any(
                param.unsharded_accumulated_grad is not None
                or getattr(getattr(param, "_unsharded_param", None), "grad", None) is not None
                for param in own
            ):
                return True
        return False

    @contextmanager
    def unsynchronized_set_aside(self) -> Iterator[None]:
        """Gradients accumulated without synchronization are out of the way inside, and back afterwards."""
        partly = [
            (group, group._partial_reduce_output) for group in _groups(self.modules)
        ]  # reduced, not yet all-reduced
        for group, _ in partly:
            group._partial_reduce_output = None
        held = []
        for param in (param for group, _ in partly for param in group.fsdp_params):
            unsharded = getattr(param, "_unsharded_param", None)
            held.append((param, param.unsharded_accumulated_grad, getattr(unsharded, "grad", None)))
            param.unsharded_accumulated_grad = None
            if unsharded is not None:
                unsharded.grad = None
        try:
            yield
        finally:
            for group, output in partly:
                group._partial_reduce_output = output
            for param, accumulated, gradient in held:
                param.unsharded_accumulated_grad = accumulated
                if getattr(param, "_unsharded_param", None) is not None:
                    param._unsharded_param.grad = gradient


def _groups(modules: Iterable["FSDPModule"]) -> Iterator["FSDPParamGroup"]:
    for module in modules:
        state = module._get_fsdp_state()
        groups = getattr(state, "_fsdp_param_groups", None)  # torch 2.13; before, one
        yield from (group for group in ([state._fsdp_param_group] if groups is None else groups) if group)


def _all_modules(model: nn.Module | None) -> list[nn.Module]:
    """Also those that are not in ``model``: the optimizer may have parameters of several."""
    from torch.distributed import _composable_state

    return list(dict.fromkeys([*(() if model is None else model.modules()), *_composable_state._module_state_mapping]))
