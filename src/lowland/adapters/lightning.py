"""SAM under Lightning's automatic optimization, and the monitor of sharpness as a callback.

Lightning evaluates the loss once for each batch, and steps only after the last batch that it accumulates. The callback
replaces that one evaluation by all of the optimizer's passes.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from lowland.errors import install
from lowland.optim import SAM

try:
    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
    except ModuleNotFoundError:  # the older package of the same library
        from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    from torchmetrics import Metric
except ImportError:
    raise ImportError(f"this needs Lightning; {install('lightning')}") from None

__all__ = ["MonitorCallback", "SharpnessAware", "passes", "registered"]


class SharpnessAware(Callback):
    """Train with the `lowland.SAM` that ``configure_optimizers`` returns; ``training_step`` stays unchanged.

    If Lowland is installed by pip, every Trainer has this callback (`registered`). Passed explicitly, it also requires
    that the optimizer is a SAM.

    Precision plugins, gradient clipping, schedulers, loggers, DDP and checkpoints work as for any optimizer. Each
    accumulated batch has its own ascent, as in m-SAM. Logged values, and updates of metrics that are submodules, are
    those of the first pass, at w. SAM's ``model``, if not given, is the LightningModule.

    Args:
        required: whether another optimizer than SAM, or manual optimization, is an error. If False, those train as
            without this callback.

    Raises:
        TypeError: at the start of ``fit``, if ``configure_optimizers`` returned no SAM.
        ValueError: at the start of ``fit``, for manual optimization; for SAM with ``m`` and ESAM, which need
            per-example losses; for DeepSpeed, which has its own optimizer; for a ``training_step`` that takes
            ``dataloader_iter``, whose second pass would see the next batch.
        RuntimeError: if this version of Lightning runs batches in an unknown way.

    Example:
        >>> class Net(LightningModule):
        ...     def configure_optimizers(self):
        ...         return SAM(torch.optim.SGD(self.parameters(), lr=0.1), rho=0.05, model=self)
        >>> trainer = Trainer(callbacks=[SharpnessAware()])
    """

    def __init__(self, required: bool = True):
        self.required = required

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's loop before any step in ``fit``, also before those of a learning-rate search."""
        loop = _loop(trainer)
        if loop is not None and not isinstance(loop, _InPasses):
            # A subclass of the loop's class, which may be from either package, keeps its progress and hooks.
            loop.__class__ = type("SharpnessAwareOptimization", (_InPasses, type(loop)), {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the setup and give SAM the wrapped model; optimizer and wrapper exist only now."""
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        if not pl_module.automatic_optimization or not isinstance(optimizer, SAM):
            self._refuse_if_required(trainer, pl_module)
            return
        _check(optimizer, trainer, pl_module)
        _tell_of_the_model(optimizer, trainer, pl_module)

    def _refuse_if_required(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.required:
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                "SharpnessAware is for automatic optimization: leave it out, and in training_step write `for "
                "evaluation in passes(self, self.optimizers()):` around forward and self.manual_backward(loss), with "
                "passes from lowland.adapters.lightning; or hand step(closure=...) a closure that runs them"
            )
        names = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers) or "no optimizer"
        raise TypeError(
            f"SharpnessAware needs configure_optimizers to return a lowland.SAM, not {names}: wrap it, "
            "lowland.SAM(optimizer, rho=0.05, model=self)"
        )


def passes(module: LightningModule, optimizer: Any, *, sync: bool = True) -> Iterator[AbstractContextManager[None]]:
    """The passes of one step in manual optimization; run forward and ``manual_backward`` in each.

    Works in any precision: the passes get the Trainer's GradScaler, if it has one. SAM's ``model``, if not given, is
    the LightningModule; under DDP it is the wrapper.

    Args:
        module: the LightningModule that calls this in its ``training_step``.
        optimizer: from ``module.optimizers()``; it must hold a SAM.
        sync: as in `lowland.SAM.ascent`: False lets each process under DDP climb along its own gradient.

    Raises:
        TypeError: for another optimizer than SAM, or for several.
        RuntimeError: for SAM with ``m`` and ESAM, which run backward themselves.

    Example::

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            for evaluation in passes(self, optimizer):
                with evaluation:
                    self.manual_backward(self.loss(batch))
            optimizer.step()
            optimizer.zero_grad()
    """
    if not isinstance(optimizer, SAM):
        several = ", one of those in the list" if isinstance(optimizer, list) else ""
        raise TypeError(f"passes() takes a lowland.SAM from self.optimizers(){several}, not {type(optimizer).__name__}")
    trainer = module.trainer
    _tell_of_the_model(optimizer, trainer, module)
    return optimizer.passes(scaler=getattr(trainer.precision_plugin, "scaler", None), sync=sync)


def _tell_of_the_model(optimizer: SAM, trainer: Trainer, module: LightningModule) -> None:
    wrapped: Any = trainer.strategy.model
    if isinstance(wrapped, DistributedDataParallel):
        optimizer.model = wrapped  # the ascent is then synchronized while Lightning accumulates, too
    elif optimizer.model is None:
        optimizer.model = module


def registered() -> list[Callback]:
    """The callbacks that Lightning adds to every Trainer: a `SharpnessAware` that does nothing without a SAM."""
    return [SharpnessAware(required=False)]


def _loop(trainer: Trainer) -> Any | None:
    """Lightning's loop of automatic optimization; None if this version of Lightning has another structure."""
    loop = getattr(getattr(trainer.fit_loop, "epoch_loop", None), "automatic_optimization", None)
    return loop if hasattr(loop, "_make_closure") and hasattr(loop, "_optimizer_step") else None


def _check(optimizer: SAM, trainer: Trainer, module: LightningModule) -> None:
    """Raise an error for setups in which SAM can't work."""
    if not isinstance(_loop(trainer), _InPasses):
        raise RuntimeError(
            f"SAM's passes don't fit into this version of Lightning ({_version(trainer)}), which runs a batch in "
            "another way than 2.6: use that, or manual optimization"
        )
    if optimizer.per_example:
        raise ValueError(
            "this SAM wants the loss of each example and runs backward itself, but Lightning runs backward on the one "
            "loss that training_step returns: m= and ESAM can't be; accumulated batches do climb each for itself"
        )
    if trainer.strategy.handles_gradient_accumulation:
        raise ValueError(
            f"{type(trainer.strategy).__name__} makes the steps itself, with an optimizer of its own: SAM's "
            "passes have no place in it; use strategy='ddp'"
        )
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise ValueError(
            "training_step(self, dataloader_iter) would fetch another batch for the second pass: "
            "take the batch, training_step(self, batch, batch_idx)"
        )


def _version(trainer: Trainer) -> str:
    return version(type(trainer).__module__.partition(".")[0].replace("_", "-"))


class _InPasses:
    """A mixin for Lightning's loop of automatic optimization: the closure of a batch runs all passes."""

    trainer: Trainer

    def _make_closure(self, kwargs: Any, optimizer: Any, batch_idx: int) -> Any:
        closure = super()._make_closure(kwargs, optimizer, batch_idx)  # type: ignore[misc]
        # Without backward, batches only update statistics: after weight averaging, for example.
        if isinstance(optimizer, SAM) and closure._backward_fn is not None:
            # Clear gradients before the passes, not inside: each pass sets existing gradients aside and restores them.
            clear, closure._zero_grad_fn = closure._zero_grad_fn, None
            closure.closure = partial(_evaluate, self.trainer, optimizer, closure.closure, clear)
        return closure

    def _optimizer_step(self, batch_idx: int, closure: Any) -> None:
        optimizer = self.trainer.optimizers[0]
        if not isinstance(optimizer, SAM):
            super()._optimizer_step(batch_idx, closure)  # type: ignore[misc]
            return
        hook = optimizer.register_step_pre_hook(_closure_before_step)
        try:
            super()._optimizer_step(batch_idx, closure)  # type: ignore[misc]
        finally:
            hook.remove()


class _NoLoss(Exception):
    """Raised where ``training_step`` returned None: the batch is skipped."""


def _evaluate(
    trainer: Trainer, optimizer: SAM, once: Callable[[], Any], clear: Callable[[], None] | None, *_: Any, **__: Any
) -> Any:
    """Run ``once``, forward and backward, in each pass of ``optimizer``; the result is that of the first."""
    if clear is not None:
        clear()
    first = None
    try:
        for evaluation in optimizer.passes(scaler=getattr(trainer.precision_plugin, "scaler", None)):
            with evaluation, nullcontext() if first is None else _unrecorded(trainer.lightning_module):
                result = once()
                if result.closure_loss is None:
                    raise _NoLoss
            first = result if first is None else first
    except _NoLoss:  # an exception ends the pass without a check for gradients
        return result
    return first


def _closure_before_step(optimizer: Any, args: Any, kwargs: Any) -> Any:
    """Run the closure before the optimizer's step, and make the step without it.

    Lightning's closure clips gradients and calls hooks after backward: that must come after all passes.
    """
    closure = kwargs["closure"] if "closure" in kwargs else args[-1]
    if callable(closure):
        closure()
    return args, {**kwargs, "closure": None}


@contextmanager
def _unrecorded(module: Any) -> Iterator[None]:
    """Discard what ``module`` logs inside, and its updates of metrics."""
    metrics = [metric for metric in module.modules() if isinstance(metric, Metric)]
    before = [metric.__dict__ | metric._copy_state_dict() for metric in metrics]
    module.log = module.log_dict = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del module.log, module.log_dict
        for metric, values in zip(metrics, before, strict=True):
            metric.__dict__.update(values)


class MonitorCallback(Callback):
    """A monitor of sharpness, such as `lowland.curvature.Monitor`, in a Trainer.

    Calls the monitor's ``step()`` after each optimizer step, not after batches that are only accumulated. A new record
    goes to the Trainer's loggers at once, regardless of ``log_every_n_steps``, and to the progress bar.

    Args:
        build: makes the monitor from the optimizer and the LightningModule when training starts, after a checkpoint is
            loaded and the weights are on their device. Under DDP each process makes one.
        prefix: put before the names of logged entries.
        show: the entries of the newest record to show on the progress bar.

    Attributes:
        monitor: what ``build`` made, once training has started; its ``records`` are the whole history.

    Example:
        >>> def build(optimizer, module):
        ...     return curvature.Monitor(optimizer, module, F.cross_entropy, batches, every=100)
        >>> trainer = Trainer(callbacks=[MonitorCallback(build)])
    """

    def __init__(
        self,
        build: Callable[[Any, LightningModule], Any],
        prefix: str = "sharpness/",
        show: Sequence[str] = ("hessian_norm", "edge"),
    ):
        self.build, self.prefix, self.show = build, prefix, show
        self.monitor: Any = None
        self._steps = 0
        self._saved: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {} if self.monitor is None else {"monitor": self.monitor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state for the monitor, which is made when training starts."""
        self._saved = state_dict.get("monitor")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.monitor = self.build(trainer.optimizers[0], pl_module)
        if self._saved is not None:
            self.monitor.load_state_dict(self._saved)
            self._saved = None
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Call the monitor's ``step`` if the batch ended in an optimizer step."""
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            seen = len(self.monitor.records)
            self.monitor.step()
            if len(self.monitor.records) > seen:
                self._log(trainer)
        for name in self.show:  # after every batch: the bar forgets its entries
            if self.monitor.records and (value := self.monitor.records[-1].get(name)) is not None:
                pl_module.log(self.prefix + name, value, prog_bar=True, logger=False, on_step=True)

    def _log(self, trainer: Trainer) -> None:
        newest = {name: value for name, value in self.monitor.records[-1].items() if isinstance(value, int | float)}
        for logger in trainer.loggers:
            logger.log_metrics({self.prefix + name: value for name, value in newest.items()}, trainer.global_step)
