"""SAM in the `Trainer` of Hugging Face's transformers."""

from collections.abc import Callable
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowland.curvature.sinks import numbers
from lowland.errors import RunError, install
from lowland.files import open_regular, write_atomically
from lowland.optim import SAM
from lowland.optim.sam import Rho
from lowland.saved import tensors_in

try:
    from transformers import Trainer, TrainerCallback

    from lowland.adapters.accelerate import check, inner, passes
except ImportError:
    raise ImportError(f"this needs transformers and Accelerate; {install('huggingface')}") from None

if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
else:
    _Trainer = object


class SAMMixin(_Trainer):
    """Makes a subclass of transformers' ``Trainer`` train with SAM: ``class Mine(SAMMixin, TheirTrainer)``.

    A SAM is put around the optimizer that the trainer makes or was given. Each ``training_step`` runs once for each of
    SAM's passes, and so does whatever it calls, such as ``compute_loss``. Everything else is the trainer's. The logged
    loss is that of the first, at w but for rules with a single pass.

    Args:
        args: the trainer's arguments, and so are keyword arguments that aren't named here.
        rho: radius of the ascent, or a function from the number of SAM steps made to it; by default that of ``sam``.
        sam: makes the optimizer. It is called with the base optimizer, ``model``, and ``rho`` if given: for example
            `lowland.optim.presets.ASAM`, or ``functools.partial(lowland.SAM, same_masks=True)``.
        sync: False lets each process under DDP climb along its own gradient.
        together: with ``gradient_accumulation_steps``, whether all micro-batches of a step share one ascent: SAM on the
            whole batch. By default each micro-batch has its own: m-SAM with m = ``per_device_train_batch_size`` times
            the number of processes. Both take the same time.

    If the optimizer given to the trainer is a SAM, it is used unchanged.

    Raises:
        TypeError: for a subclass that names the trainer before this class, or a ``sam`` that can't be called.
        ValueError: for ``rho`` beside a SAM in ``optimizers``.
        NotImplementedError: when training starts: under DeepSpeed, Megatron-LM, XLA or the older
            FullyShardedDataParallel; with optimizers that update during backward (LOMO, layer-wise ones); with ``m``.
        RuntimeError: before an update without SAM's passes, if a subclass's ``training_step`` doesn't call this one.

    Example::

        trainer = SAMTrainer(model, arguments, train_dataset=data, rho=0.05)  # was: Trainer(model, ...)
        trainer.train()
    """

    def __init__(
        self,
        *args: Any,
        rho: Rho | None = None,
        sam: Callable[..., Optimizer] = SAM,
        sync: bool = True,
        together: bool = False,
        **kwargs: Any,
    ):
        if not callable(sam):
            raise TypeError(
                "sam= makes the optimizer: a class or a preset. A finished SAM goes in optimizers=(sam, None)"
            )
        self._make_sam, self._sync, self._together = sam, sync, together
        self._radius = {} if rho is None else {"rho": rho}
        self._made: Any = None
        self._waiting: list[Any] = []  # micro-batches, kept until the last one of their step
        self._guard = _Guard()
        super().__init__(*args, **kwargs)
        self.add_callback(self._guard)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and order.index(Trainer) < order.index(SAMMixin):
            raise TypeError(f"the trainer's own step would win: class {cls.__name__}(SAMMixin, Trainer), in this order")

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Optimizer:
        """Make the trainer's optimizer and put a SAM around it."""
        check(self.accelerator)
        self._waiting.clear()
        if any(name in self.args.optim for name in ("lomo", "layerwise")):
            raise NotImplementedError(
                f"no SAM here: {self.args.optim!r} updates the weights during the ascent's backward"
            )
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, MonitorCallback) and callback.log is None:
                callback.log = self.log
        base = super().create_optimizer(*args, **kwargs)
        if not isinstance(inner(base), SAM):  # it is a SAM when train() is called again
            self.optimizer = self._made = self._make_sam(base, model=self.model, **self._radius)
        elif self._radius and inner(base) is not self._made:
            raise ValueError("optimizers= has a SAM, which has its rho: leave rho= out")
        return self.optimizer

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Run the trainer's step in each of SAM's passes; the loss is that of the first."""
        self._waiting.append((args, kwargs))
        if self._together and not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)  # the loss of all comes with the last micro-batch
        batches, self._waiting = self._waiting, []
        losses = []
        for evaluation in passes(self.accelerator, self.optimizer, model, sync=self._sync):
            with evaluation:
                parts = []
                for number, (others, named) in enumerate(batches, start=1):
                    with nullcontext() if number == len(batches) else self.accelerator.no_sync(model):
                        parts.append(super().training_step(model, *others, **named))
            losses.append(sum(parts[1:], start=parts[0]))
        self._guard.passed = True
        return losses[0]


class SAMTrainer(SAMMixin, Trainer):
    """transformers' ``Trainer`` with SAM; see `SAMMixin` for the arguments."""


class _Guard(TrainerCallback):
    """Raises an error before an update without SAM's passes: a user's ``training_step`` may not call the mixin's."""

    passed = False

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        if not self.passed:
            raise RuntimeError("no SAM passes before this update: call super().training_step() in your own, once")
        self.passed = False


class MonitorCallback(TrainerCallback):
    """A `lowland.curvature.Monitor` in a ``Trainer``, with or without SAM: its ``step`` after each update.

    Args:
        make: a function of optimizer and model that makes the monitor. It is called at the first update, since neither
            exists before. The optimizer comes without Accelerate's wrapper; the model, with SAM, in DDP's wrapper.
        log: the trainer's ``log``: it gets each record as ``lowland/hessian_norm`` and so on, so that they are in its
            ``log_history`` and wherever it reports to (TensorBoard, W&B). A trainer with SAM hands over its own; to any
            other the callback is added once it exists: ``trainer.add_callback(MonitorCallback(make, trainer.log))``.

    Attributes:
        monitor: what ``make`` returned; None until then.

    Raises:
        TypeError: for a ``log`` that can't be called.
        RunError: when training is resumed, if the monitor's state beside the checkpoint can't be read or is damaged.

    Example::

        callback = MonitorCallback(lambda optimizer, model: Monitor(optimizer, model, loss_fn, batches, every=50))
        SAMTrainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
        callback.monitor.records
    """

    def __init__(
        self, make: Callable[[Optimizer, nn.Module], Any], log: Callable[[dict[str, float]], None] | None = None
    ):
        if log is not None and not callable(log):
            raise TypeError(f"log is a function of a dict, trainer.log: not a {type(log).__name__}")
        self.make, self.log = make, log
        self.monitor: Any = None
        self._began_at = 0

    def on_train_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        self._began_at = state.global_step

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if self.monitor is not None and state.is_world_process_zero:
            content = BytesIO()
            torch.save(self.monitor.state_dict(), content)
            write_atomically(self._file(args, state.global_step), content.getbuffer())

    @staticmethod
    def _file(args: Any, step: int) -> Path:
        return Path(args.output_dir) / f"checkpoint-{step}" / "sharpness_monitor.pt"

    def on_step_end(self, args: Any, *_: Any, **objects: Any) -> None:
        if self.monitor is None:
            optimizer = inner(objects["optimizer"])
            self.monitor = self.make(optimizer, getattr(optimizer, "model", None) or objects["model"])
            saved = self._file(args, self._began_at)
            if self._began_at and saved.exists():  # training was resumed there
                self._restore(saved)
        record = self.monitor.step()
        if record and self.log is not None:
            self.log(numbers(record))

    def _restore(self, saved: Path) -> None:
        try:
            with open_regular(saved) as file:
                content = file.read()
            self.monitor.load_state_dict(tensors_in(content, "cpu"))
        except OSError as error:
            raise RunError(f"{saved} can't be read: {error.strerror or error}. Mend that and resume again") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(
                f"{saved} is damaged: remove that file, to resume with a monitor that begins anew, or resume from "
                "another checkpoint"
            ) from error
