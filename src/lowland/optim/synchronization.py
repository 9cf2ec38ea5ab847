"""What the passes of one SAM need of its processes: an ascent whose gradient is the mean over them."""

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lowland.optim.parallel import Fsdp, ddp_synchronization, several
from lowland.torch_tools import ddp

#: What may be the reason for gradients that aren't there.
FSDP2 = (
    " (With FSDP2, set_requires_gradient_sync(False) and set_requires_all_reduce(False) keep gradients from the "
    "optimizer: leave them on for the ascent, and for every pass where a rule takes both gradients.)"
)
_NOTHING: AbstractContextManager[None] = nullcontext()


class Synchronization:
    """Of the gradients of one optimizer, by DDP or FSDP2.

    Attributes:
        fsdp: the modules that gather weights, as the last step found them.
    """

    def __init__(self) -> None:
        self.fsdp = Fsdp(None, ())
        #: The wrappers that were looked for; None before.
        self._found: list[weakref.ref[DistributedDataParallel]] | None = None
        #: Whether the last forward pass in an ascent began a backward pass that averages nothing.
        self._alone = False

    def start(self, model: nn.Module | None, params: Iterable[Tensor]) -> None:
        """A step begins: look for FSDP2's modules anew."""
        self.fsdp = Fsdp(model, params)

    def ascending(
        self, model: nn.Module | None, params: Iterable[Tensor], sync: bool, search: bool = True
    ) -> AbstractContextManager[None]:
        """What an ascent needs of the processes while its pass runs.

        Under DDP, gradients are averaged or not as ``sync`` says, whatever holds outside (``no_sync``, say). Under
        FSDP2, gradients accumulated without synchronization are out of the way: they would be reduced with the pass's.

        Args:
            model: that SAM was given. Where that is no DDP wrapper, those around ``params`` are looked for.
            params: of the optimizer.
            sync: whether the processes climb together.
            search: whether wrappers are looked for.

        Raises:
            ValueError: for ``sync=False`` unless ``model`` is a DDP wrapper.
        """
        self._alone = False
        wrapper = ddp(model)
        if wrapper is not None and sync:
            return self._synchronized(wrapper, watched=wrapper is model)
        if wrapper is not None:
            return ddp_synchronization(wrapper, False)
        if not sync:
            raise ValueError(
                "sync=False keeps an ascent under DDP local: it needs model=, and that must be the "
                "DistributedDataParallel wrapper (FSDP2 can't climb locally: each process holds only a part)"
            )
        if self.fsdp.modules:
            return self.fsdp.unsynchronized_set_aside()
        around = self._around(params) if search and several() else []
        return _all_synchronized(around) if around else _NOTHING

    def check(self, needed: Callable[[], list[Tensor]]) -> None:
        """Raise RuntimeError if gradients of an ascent that was to be synchronized are not.

        Args:
            needed: gives the parameters whose gradients say where to climb.
        """
        if self._alone:
            raise RuntimeError(
                "no_sync() inside this pass kept each process's gradient to itself, and each would climb along its "
                "own. Put no_sync() around the passes: this one is synchronized all the same. To climb locally: "
                "optimizer.passes(sync=False)"
            )
        if self.fsdp.modules and self.fsdp.keeps_gradients_of(needed()):
            raise RuntimeError(
                "FSDP2 has kept gradients of this pass from the optimizer, and the norm would be of the rest." + FSDP2
            )

    @contextmanager
    def _synchronized(self, wrapper: DistributedDataParallel, watched: bool) -> Iterator[None]:
        def look(wrapper: DistributedDataParallel, _: object) -> None:
            if torch.is_grad_enabled():
                self._alone = not wrapper.require_backward_grad_sync

        # Compilers take hooks that stand there when they begin for those of ever after.
        handle = wrapper.register_forward_pre_hook(look) if watched and wrapper._compiled_call_impl is None else None
        try:
            with ddp_synchronization(wrapper, True):
                yield
        finally:
            if handle is not None:
                handle.remove()

    def _around(self, params: Iterable[Tensor]) -> list[DistributedDataParallel]:
        """The DDP wrappers that hold some of ``params``; looked for once, and again when one is gone."""
        if self._found is None or any(reference() is None for reference in self._found):
            self._found = [weakref.ref(wrapper) for wrapper in _wrappers_around(set(params))]
        return [wrapper for reference in self._found if (wrapper := reference()) is not None]


def _wrappers_around(params: set[Tensor]) -> list[DistributedDataParallel]:
    """Among all objects that Python's garbage collector knows: torch keeps no list of its wrappers."""
    wrappers = [each for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel)]
    return [each for each in wrappers if any(param in params for param in each.parameters())]


@contextmanager
def _all_synchronized(wrappers: list[DistributedDataParallel]) -> Iterator[None]:
    with ExitStack() as stack:
        for wrapper in wrappers:
            stack.enter_context(ddp_synchronization(wrapper, True))
        yield
