"""What the loop trains and measures: one arm, several side by side, or all of them together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

from lowland.training.outcome import Record
from lowland.values import Json, ParameterGroup, StateDict, Tree

# Inputs and targets: tensors, or dictionaries, tuples and lists of tensors.
Batch = tuple[Tree, Tree]


class Optimizer(Protocol):
    """What the loop asks of an optimizer; `lowland.SAM` has it.

    One with an attribute ``per_example`` that is true is handed closures that return the loss of each example and call
    no ``backward``.
    """

    @property
    def param_groups(self) -> list[ParameterGroup]:
        """The parameters, with what holds for them, ``lr`` above all."""

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Evaluate ``closure`` as often as needed, update, and return the loss at w."""

    def state_dict(self) -> StateDict:
        """What it takes to go on from here to the same bits."""

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on from a state that `state_dict` gave."""


class Check(Protocol):
    """Measures the model at a step.

    A check may also have a class method ``together(checks, snapshot)``, which measures several runs of one network
    at once: the checks of a `Snapshot`'s runs, in order → for each its record, or the FloatingPointError that it found.
    Without it, they are measured one by one.
    """

    def __call__(self, step: int, batch: Batch) -> Record:
        """A record: plain numbers by name. FloatingPointError says that the run has diverged."""

    def state_dict(self) -> StateDict:
        """What the next check builds on (a warm start, say)."""

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on from a state that `state_dict` gave."""


@dataclass
class Task:
    """One arm, ready to train.

    Attributes:
        model: on its device.
        loss_fn: ``loss_fn(model(x), y)``, the mean over the batch. Where several processes share a batch, the mean of
            theirs is only that of the whole if every example counts the same: none left out, as padding may be.
        optimizer: over the model's parameters.
        batch: ``batch(step)`` gives ``(x, y)``. A function of the step alone, so that a resumed run sees the
            same data, and all processes of a run do; each of them passes its share, along the first dimension of
            every tensor.
        check: measures; called every ``check_every`` steps and after the last one. In several processes, by the first,
            on the whole batch.
        show: the entries of a record that the bar shows, by label.
        schedule: what the step size is multiplied by at a step; a function of the step alone.
        losses_fn: ``losses_fn(model(x), y)``, the loss of each example, for an optimizer that asks for it.
        average: of the weights; brought up to date after every step.
        autocast: what training computes in, where that isn't the type of the weights.
        compiled: whether training runs the compiled model.
        starts_from: the arm with whose last weights (of the run with the same seed) this one begins.
        files: what is written beside the records: name of the file → what it holds, as JSON. That of one arm must
            not contradict that of another.
    """

    model: nn.Module
    loss_fn: Callable[[Tree, Tree], Tensor]
    optimizer: Optimizer
    batch: Callable[[int], Batch]
    check: Check
    show: Mapping[str, str] = field(default_factory=dict)
    schedule: Callable[[int], float] | None = None
    losses_fn: Callable[[Tree, Tree], Tensor] | None = None
    average: AveragedModel | None = None
    autocast: torch.dtype | None = None
    compiled: bool = False
    starts_from: str | None = None
    files: Mapping[str, Json] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Task":
        """The task on ``device``, of one that was built on the CPU.

        Model and averaged weights are moved themselves. Where ``batch`` or ``check`` has a method ``to(device)``, what
        that returns takes its place; what another ``batch`` gives is moved at each step.
        """
        if device.type == "cpu":
            return self
        self.model.to(device)
        if self.average is not None:
            self.average.to(device)
        batch = self.batch.to(device) if hasattr(self.batch, "to") else _MovedBatches(self.batch, device)
        check = self.check.to(device) if hasattr(self.check, "to") else self.check
        return replace(self, batch=batch, check=check)


@dataclass(frozen=True)
class _MovedBatches:
    """Batches of ``draw``, each moved to ``device``."""

    draw: Callable[[int], Batch]
    device: torch.device

    def __call__(self, step: int) -> Batch:
        return moved(self.draw(step), self.device)


def moved(batch: Batch, device: torch.device) -> Batch:
    """``batch`` with its tensors on ``device``."""
    there: Batch = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=True), batch)
    return there


class Together(Protocol):
    """All arms of a run as one program of an experiment's own, for those that are too small to be trained singly."""

    def train(self, steps: int) -> None:
        """So many steps further, all of them. Where training is cut into calls must not change a bit."""

    def measure(self) -> Mapping[str, "Record | FloatingPointError | None"]:
        """Each arm's record at this step, plain numbers by name, or that it has diverged; None for no record."""

    def ended(self) -> bool:
        """Whether all arms have stopped, by a criterion of the experiment's own."""

    def state_dict(self) -> StateDict:
        """What it takes to go on from here to the same bits."""

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on from a state that `state_dict` gave."""


@dataclass(frozen=True)
class Snapshot:
    """Vectorized runs of one network at one step, for checks that measure them together.

    Attributes:
        model: one of the networks, for its code; its own parameters mean nothing here.
        loss_fn: ``loss_fn(model(x), y)``, the mean over a run's batch.
        params: name → ``(runs, *shape)``.
        x: the batch's inputs: those of each run, ``(runs, n, ...)``, or one batch for all of them, ``(n, ...)``.
        y: its targets, likewise.
        shared: whether it is one batch for all.
        step: the step.
    """

    model: nn.Module
    loss_fn: Callable[[Tree, Tree], Tensor]
    params: Mapping[str, Tensor]
    x: Tree
    y: Tree
    shared: bool
    step: int
