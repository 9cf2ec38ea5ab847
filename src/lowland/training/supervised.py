"""A network of one's own on data of one's own: the task, and the check that goes with it."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from lowland.errors import SettingError
from lowland.optim import SAM
from lowland.torch_tools import evaluating
from lowland.training.examples import ExampleSet, Source, examples_of
from lowland.training.outcome import Record
from lowland.training.settings import Settings
from lowland.training.task import Batch, Optimizer, Task
from lowland.values import StateDict, Tree

LossFn = Callable[[Tree, Tree], Tensor]
Measure = Callable[[nn.Module], Mapping[str, float]]


def misclassified(output: Tensor, target: Tensor) -> Tensor:
    """Whether the most likely class is not the target's, of each example.

    Args:
        output: a score for each class, ``(n, classes, ...)``.
        target: int64 ``(n, ...)``, or the probability of each class, ``(n, classes, ...)``.
    """
    return output.argmax(1) != (target.argmax(1) if target.is_floating_point() else target)


def supervised(
    model: nn.Module,
    settings: Settings,
    train: Source,
    validation: Source = None,
    test: Source = None,
    *,
    loss_fn: LossFn = F.cross_entropy,
    error: LossFn | None = None,
    optimizer: Optimizer | None = None,
    measure: Measure | None = None,
) -> Task:
    """Training of ``model`` by SAM, which is SGD where ρ is 0, checked for loss and error on each set of examples.

    The settings say the rest: ``lr``, ``rho`` and ``seed``; where there are such, ``batch_size`` (without it every step
    is on all examples), ``momentum``, ``weight_decay``, ``m``, and ``examples``, how many training examples are taken,
    the first ones. Batches come in a new random order each epoch, and follow from the seed and the step alone.

    Args:
        model: any network, on the CPU; ``model(x)`` is its output.
        settings: of the run.
        train: ``(x, y)``, two tensors with the examples along the first dimension, or a `lowland.data.Split`; or a
            map-style torch Dataset of pairs, or a DataLoader of one, of which ``collate_fn``, ``drop_last``, sampler
            and workers are kept, and ``batch_size`` where the settings have none.
        validation: the same, by which a sweep selects. By default a random tenth of ``train`` is held out, the same one
            in every run.
        test: the same; None for none.
        loss_fn: ``loss_fn(model(x), y)``, the mean over the batch. With ``m`` it must take ``reduction="none"``.
        error: ``error(model(x), y)``, whose mean over all elements is recorded. By default the share of misclassified
            examples, with another ``loss_fn`` none.
        optimizer: of the model's parameters, in place of `lowland.SAM` around `torch.optim.SGD`.
        measure: ``measure(model)`` gives further numbers for each record by name, the Hessian norm say. The model is in
            evaluation mode and on its device; what it gives must follow from the weights alone.

    Returns:
        A task whose records have ``train_loss``, ``train_error``, the same of ``validation`` and ``test``, and
        ``epoch``.

    Raises:
        SettingError: for data of another kind, tensors of different lengths, or no examples; for more examples in a
            batch, or in training, than there are; for ``epochs`` that come to other ``steps``.
    """
    training = examples_of(train, "train")
    if validation is None:
        training, held = training.held_out()
    else:
        held = examples_of(validation, "validation")
    wanted = getattr(settings, "examples", len(training))
    if wanted > len(training):
        rest = " when a tenth is held out for validation" if validation is None else ""
        raise SettingError(f"examples is {wanted}, and there are {len(training)} training examples{rest}: set examples "
                           f"to at most {len(training)}")  # fmt: skip
    training = training.first(wanted)
    batches = training.drawn(getattr(settings, "batch_size", None), settings.seed)
    per_epoch = getattr(batches, "per_epoch", 1)
    epochs = getattr(settings, "epochs", None)
    if epochs is not None and settings.steps != epochs * per_epoch:
        raise SettingError(
            f"{epochs} epochs are {epochs * per_epoch} steps of these batches, and the settings come to "
            f"{settings.steps}: set examples to {len(training)}, or say steps in place of epochs"
        )
    sets = {"train": training, "validation": held} | ({} if test is None else {"test": examples_of(test, "test")})
    if error is None and loss_fn is F.cross_entropy:
        error = misclassified
    return Task(
        model,
        loss_fn,
        optimizer or _sam(model, settings),
        batches,
        SupervisedCheck(model, sets, loss_fn, error, per_epoch, measure),
        show={"loss": "train_loss", "error" if error else "validation": f"validation_{'error' if error else 'loss'}"},
        losses_fn=partial(_losses, loss_fn),
    )


def _sam(model: nn.Module, settings: Settings) -> SAM:
    base = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=getattr(settings, "momentum", 0.0),
        weight_decay=getattr(settings, "weight_decay", 0.0),
    )
    return SAM(base, rho=settings.rho, model=model, m=getattr(settings, "m", None))


def _losses(loss_fn: Callable[..., Tensor], output: Tree, target: Tree) -> Tensor:
    """The loss of each example."""
    each = loss_fn(output, target, reduction="none")
    return each.flatten(1).mean(1) if each.dim() > 1 else each


def _scalar(loss: Tensor) -> float:
    """The loss as a number; SettingError for anything but a tensor of one value."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise SettingError(f"loss_fn gives {what}: it must give the mean over the batch, a tensor of one value")
    return loss.item()


def _numbers(measured: Mapping[str, float]) -> Mapping[str, float]:
    """What ``measure`` gave; SettingError unless it is numbers by name."""
    if not isinstance(measured, Mapping):
        raise SettingError(f"measure gives a {type(measured).__name__}: it must give numbers by name, {{'norm': 1.5}}")
    for name, value in measured.items():
        if not isinstance(value, int | float):
            raise SettingError(
                f"measure gives {name} as a {type(value).__name__}: make it a number, with .item() or float()"
            )
    return measured


class SupervisedCheck:
    """Loss and error on each of several sets of examples, and what else is measured, in evaluation mode; the epoch."""

    def __init__(
        self,
        model: nn.Module,
        sets: dict[str, ExampleSet],
        loss_fn: LossFn,
        error: LossFn | None,
        per_epoch: int,
        measure: Measure | None,
    ):
        self.model, self.sets, self.loss_fn, self.error = model, sets, loss_fn, error
        self.per_epoch, self.measure = per_epoch, measure

    def __call__(self, step: int, batch: Batch) -> Record:
        """A record; FloatingPointError if the training loss is not finite."""
        record: Record = {"epoch": step / self.per_epoch}
        with evaluating(self.model):
            for name, examples in self.sets.items():
                with torch.no_grad():
                    loss, error = self._on(examples)
                record[f"{name}_loss"] = loss
                if error is not None:
                    record[f"{name}_error"] = error
            if self.measure is not None:
                record |= _numbers(self.measure(self.model))
        if not abs(record["train_loss"]) < float("inf"):
            raise FloatingPointError
        return record

    def _on(self, examples: ExampleSet) -> tuple[float, float | None]:
        loss, wrong, count, elements = 0.0, 0.0, 0, 0
        for x, y in examples.batches():
            output = self.model(x)
            number = len(pytree.tree_leaves(x)[0])
            loss += _scalar(self.loss_fn(output, y)) * number
            count += number
            if self.error is not None:
                errors = self.error(output, y).float()
                wrong += errors.sum().item()
                elements += errors.numel()
        return loss / count, wrong / elements if self.error is not None else None

    def to(self, device: torch.device) -> "SupervisedCheck":
        """The same on ``device``."""
        sets = {name: examples.to(device) for name, examples in self.sets.items()}
        return SupervisedCheck(self.model, sets, self.loss_fn, self.error, self.per_epoch, self.measure)

    def state_dict(self) -> StateDict:
        """Empty: no record builds on the one before."""
        return {}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Does nothing: the check keeps no state."""
