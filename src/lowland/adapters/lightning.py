"""SAM under Lightning's automatic optimization, and the monitor of sharpness as a callback.

Lightning evaluates the loss once for each batch, and calls the optimizer's step only for the last of the batches it
accumulates. The callback makes that one evaluation all the passes that the optimizer asks for.
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
    except ModuleNotFoundError:  # the same library under its older name
        from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    from torchmetrics import Metric
except ImportError:
    raise ImportError(f"this needs Lightning; {install('lightning')}") from None

__all__ = ["MonitorCallback", "SharpnessAware", "passes", "registered"]


class SharpnessAware(Callback):
    """Train with the `lowland.SAM` that ``configure_optimizers`` returns; ``training_step`` stays as it is.

    Where Lowland is installed by pip, each Trainer gets one by itself (`registered`). Given by hand, it also makes
    sure that there is a SAM.

    Precision plugins, gradient clipping, schedulers, loggers, DDP and checkpoints do what they do for any optimizer.
    Each batch that is accumulated climbs for itself, as in m-SAM. What ``training_step`` logs, and what it adds to
    metrics that are submodules, is that of the first pass, at w. SAM's ``model``, if not given, is the LightningModule.

    Args:
        required: whether another optimizer than SAM, or manual optimization, is an error. If not, those train as
            they would without this callback.

    Raises:
        TypeError: at the start of ``fit``, if ``configure_optimizers`` returned no SAM.
        ValueError: at the start of ``fit``, for manual optimization; for SAM with ``m`` and ESAM, which want the
            loss of each example; for DeepSpeed, which has an optimizer of its own; for a ``training_step`` that takes
            ``dataloader_iter``, whose second pass would see the next batch.
        RuntimeError: if this version of Lightning runs a batch in another way than those this was written for.

    Example:
        >>> class Net(LightningModule):
        ...     def configure_optimizers(self):
        ...         return SAM(torch.optim.SGD(self.parameters(), lr=0.1), rho=0.05, model=self)
        >>> trainer = Trainer(callbacks=[SharpnessAware()])
    """

    def __init__(self, required: bool = True):
        self.required = required

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before anything in ``fit`` can step, a search for the learning rate included."""
        loop = _loop(trainer)
        if loop is not None and not isinstance(loop, _InPasses):
            # A class made of the loop's own, which may be that of either package; progress and hooks stay its own.
            loop.__class__ = type("SharpnessAwareOptimization", (_InPasses, type(loop)), {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizer exists, and the model is wrapped: check, and tell SAM of the wrapper."""
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
    """The evaluations that one step takes, in manual optimization; run forward and ``manual_backward`` in each.

    In any precision: the passes are told of the Trainer's GradScaler, if it has one. SAM's ``model``, if not given, is
    the LightningModule; under DDP it is the wrapper.

    Args:
        module: whose ``training_step`` this is called in.
        optimizer: from ``module.optimizers()``: there must be a SAM in it.
        sync: as in `lowland.SAM.ascent`: False lets each process under DDP climb along its own gradient.

    Raises:
        TypeError: for another optimizer than SAM, or for several.
        RuntimeError: for SAM with ``m`` and ESAM, which run backward by themselves.

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
        optimizer.model = wrapped  # so that an ascent is synchronized also where Lightning accumulates
    elif optimizer.model is None:
        optimizer.model = module


def registered() -> list[Callback]:
    """What Lightning adds to every Trainer: a `SharpnessAware` that does nothing where there is no SAM."""
    return [SharpnessAware(required=False)]


def _loop(trainer: Trainer) -> Any | None:
    """What turns a batch into a step; None where it isn't what it was in the versions that this was written for."""
    loop = getattr(getattr(trainer.fit_loop, "epoch_loop", None), "automatic_optimization", None)
    return loop if hasattr(loop, "_make_closure") and hasattr(loop, "_optimizer_step") else None


def _check(optimizer: SAM, trainer: Trainer, module: LightningModule) -> None:
    """Raise an error for what can't be made right."""
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
    """Over Lightning's loop of automatic optimization: each batch's closure is all the passes."""

    trainer: Trainer

    def _make_closure(self, kwargs: Any, optimizer: Any, batch_idx: int) -> Any:
        closure = super()._make_closure(kwargs, optimizer, batch_idx)  # type: ignore[misc]
        # Without a backward pass batches only update statistics, as where weights have been averaged.
        if isinstance(optimizer, SAM) and closure._backward_fn is not None:
            # Gradients are cleared before the passes, not in them: each sets aside what is there, and puts it back.
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
    """Forward and backward in each pass of ``optimizer``; the result is that of the first."""
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
    except _NoLoss:  # raised, so that the pass ends without looking for gradients
        return result
    return first


def _closure_before_step(optimizer: Any, args: Any, kwargs: Any) -> Any:
    """Run the closure, and let the step be one without.

    In Lightning's closure the gradients are clipped and its hooks called once they are there: behind all passes.
    """
    closure = kwargs["closure"] if "closure" in kwargs else args[-1]
    if callable(closure):
        closure()
    return args, {**kwargs, "closure": None}


@contextmanager
def _unrecorded(module: Any) -> Iterator[None]:
    """Nothing that ``module`` logs inside counts, nor what it adds to its metrics."""
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

    After each optimizer step (not after batches that are only accumulated) it calls the monitor's ``step()``; a new
    record goes to the Trainer's loggers at that step, whatever ``log_every_n_steps`` says, and to the progress bar.

    Args:
        build: makes the monitor, from the optimizer and the LightningModule, when training starts: a checkpoint is
            loaded then, and the weights are on their device. Under DDP each process makes one.
        prefix: of the names under which records are logged.
        show: which entries of the newest record stand on the progress bar.

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
        """The monitor's state, for Lightning's checkpoints."""
        return {} if self.monitor is None else {"monitor": self.monitor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """For the monitor, which is made later."""
        self._saved = state_dict.get("monitor")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the monitor."""
        self.monitor = self.build(trainer.optimizers[0], pl_module)
        if self._saved is not None:
            self.monitor.load_state_dict(self._saved)
            self._saved = None
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Let the monitor look, if a step was made."""
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            seen = len(self.monitor.records)
            self.monitor.step()
            if len(self.monitor.records) > seen:
                self._log(trainer)
        for name in self.show:  # every time: the bar forgets
            if self.monitor.records and (value := self.monitor.records[-1].get(name)) is not None:
                pl_module.log(self.prefix + name, value, prog_bar=True, logger=False, on_step=True)

    def _log(self, trainer: Trainer) -> None:
        newest = {name: value for name, value in self.monitor.records[-1].items() if isinstance(value, int | float)}
        for logger in trainer.loggers:
            logger.log_metrics({self.prefix + name: value for name, value in newest.items()}, trainer.global_step)
