"""Runs side by side: what each of their tasks starts from, in tensors with one entry a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils import _pytree as pytree

from lowland.errors import SettingError
from lowland.optim import SAM
from lowland.training.experiment import Experiment
from lowland.training.randomness import random_state, seed_everything
from lowland.training.settings import Settings, values_of
from lowland.training.task import Task
from lowland.values import StateDict

# What runs of one program may differ in: see `Experiment.grid`.
_FREE = ("lr", "rho", "momentum", "weight_decay", "seed")
_USES = 3  # how many entries of a program_key say what a program has, before the settings


class NotVectorizable(SettingError):
    """These runs can't be one program; the message says why, and what can train them."""

    def __init__(self, why: str):
        self.why = why
        super().__init__(f"these runs can't be trained as one program: {why}; use --engine process")


def program_key(settings: Settings) -> tuple[object, ...]:
    """Equal for settings whose runs are the same program: whether it climbs, and all but lr, rho, seed and the like.

    Runs without an ascent are kept apart from those with one, since they take half the time.
    """
    rest = {name: value for name, value in values_of(settings).items() if name not in _FREE}
    uses = [bool(getattr(settings, name, 0)) for name in ("rho", "momentum", "weight_decay")]
    assert len(uses) == _USES
    return (*uses, *rest.items())


class RunHyperparameters(NamedTuple):
    """Of each run, ``(runs,)``: step size η, radius ρ, momentum, weight decay."""

    lr: Tensor
    rho: Tensor
    momentum: Tensor
    decay: Tensor


@dataclass
class Runs:
    """Tensors with one entry a run, changed in place by `lowland.training.vectorized.step.VectorizedStep`.

    Attributes:
        tasks: of each run, as the experiment prepared it.
        params: name → ``(runs, *shape)``, those that require gradients.
        constants: name → ``(runs, *shape)``: buffers, and the other parameters.
        velocities: name → ``(runs, *shape)``, of momentum; empty without.
        hyper: step sizes and the like of each run.
        bad_step: the first step whose loss was not finite, or −1; int64 ``(runs,)``.
        step: how many steps were made, int64, 0-d.
        random: the state of the global generators after each task was prepared.
        eps: added to the gradient norm in the ascent.
        nesterov: Nesterov's momentum.
        program: the experiment and its settings but for those that a program's runs may differ in: equal programs
            are equal here. Nothing else tells them apart: two networks can have the same parameters, and print alike.
    """

    tasks: list[Task]
    params: dict[str, Tensor]
    constants: dict[str, Tensor]
    velocities: dict[str, Tensor]
    hyper: RunHyperparameters
    bad_step: Tensor
    step: Tensor
    random: list[StateDict]
    eps: float
    nesterov: bool
    program: tuple[object, ...]

    @classmethod
    def prepare(
        cls, experiment: Experiment, arms: Sequence[Settings], device: torch.device, begun: "Runs | None" = None
    ) -> "Runs":
        """Prepare the task of each of ``arms`` as it would be alone, and put them side by side.

        Args:
            experiment: which.
            arms: the settings of each.
            device: to train on.
            begun: runs of the first of ``arms`` that are prepared already, and not trained: their tasks are taken.

        Raises:
            NotVectorizable: if they are not the same program, or one that can't be vectorized.
        """
        tasks, random = (list(begun.tasks), list(begun.random)) if begun is not None else ([], [])
        for settings in arms[len(tasks) :]:
            seed_everything(settings.seed)
            if experiment.prepare is None:
                raise NotVectorizable(f"{experiment.name} trains its runs as one program of its own")
            tasks.append(experiment.task(settings, device))
            random.append(random_state())
        for task in tasks:
            _check_task(task)
            _check_model(task.model)
        optimizers = [_plain_sam(task) for task in tasks]
        groups = [optimizer.param_groups[0] for optimizer in optimizers]
        first = tasks[0]
        if len({program_key(settings)[_USES:] for settings in arms}) > 1 or any(
            _shape(task) != _shape(first) for task in tasks
        ):
            raise NotVectorizable("their networks differ")
        if len({(o.eps, group["nesterov"]) for o, group in zip(optimizers, groups, strict=True)}) > 1:
            raise NotVectorizable("their optimizers differ in eps or nesterov")
        trainable = {name for name, p in first.model.named_parameters() if p.requires_grad}
        named = [dict(task.model.named_parameters()) | dict(task.model.named_buffers()) for task in tasks]
        tensors = {name: torch.stack([own[name].detach() for own in named]) for name in named[0]}
        params = {name: tensor for name, tensor in tensors.items() if name in trainable}
        dtype = torch.promote_types(next(iter(params.values())).dtype, torch.float32)

        def column(key: str) -> Tensor:
            return torch.tensor([group[key] for group in groups], dtype=dtype, device=device)

        moving = any(group["momentum"] for group in groups)
        return cls(
            tasks=tasks,
            params=params,
            constants={name: tensor for name, tensor in tensors.items() if name not in trainable},
            velocities={name: torch.zeros_like(p) for name, p in params.items()} if moving else {},
            hyper=RunHyperparameters(*map(column, ("lr", "rho", "momentum", "weight_decay"))),
            bad_step=torch.full((len(tasks),), -1, device=device),
            step=torch.zeros((), dtype=torch.int64, device=device),
            random=random,
            eps=optimizers[0].eps,
            nesterov=groups[0]["nesterov"],
            program=(experiment.name, experiment.prepare, *program_key(arms[0])),
        )

    def __len__(self) -> int:
        """How many runs there are."""
        return len(self.tasks)

    def changing(self) -> StateDict:
        """The tensors that training changes: what a checkpoint has to hold."""
        return {
            "params": self.params,
            "velocities": self.velocities,
            "bad_step": self.bad_step,
            "step": self.step,
        }

    def copy(self) -> "Runs":
        """The same with tensors of its own for all that training changes."""
        return replace(self, **pytree.tree_map(Tensor.clone, self.changing()))

    def load(self, state: StateDict) -> None:
        """Copy in the tensors that `changing` gave, from a checkpoint."""
        for name in ("params", "velocities"):
            own = getattr(self, name)
            for key, value in state[name].items():
                own[key].copy_(value)
        self.bad_step.copy_(state["bad_step"])
        self.step.copy_(state["step"])

    def of(self, run: int) -> nn.Module:
        """The model of one run, with its weights as they are now."""
        model = self.tasks[run].model
        with torch.no_grad():
            for name, param in model.named_parameters():
                if name in self.params:
                    param.copy_(self.params[name][run])
        return model


def _plain_sam(task: Task) -> SAM:
    """The optimizer, plain SAM around plain SGD with a single parameter group."""
    optimizer = task.optimizer
    if type(optimizer) is not SAM or not optimizer.is_plain or optimizer.m is not None:
        raise NotVectorizable("only plain SAM is vectorized, no other rule of the family and no m")
    if optimizer.l2:
        raise NotVectorizable("l2= of SAM is not vectorized")
    if optimizer.is_scheduled:
        raise NotVectorizable("a schedule of rho is not vectorized")
    if type(optimizer.base) is not torch.optim.SGD:
        raise NotVectorizable(f"only SGD is vectorized, not {type(optimizer.base).__name__}")
    if len(optimizer.param_groups) != 1:
        raise NotVectorizable("the optimizer has several parameter groups")
    group = optimizer.param_groups[0]
    trainable = [p for p in task.model.parameters() if p.requires_grad]
    if {id(p) for p in group["params"]} != {id(p) for p in trainable}:
        raise NotVectorizable("the optimizer has other parameters than the network")
    if group["dampening"] or group["maximize"]:
        raise NotVectorizable("SGD with dampening or maximize is not vectorized")
    return optimizer


def _check_task(task: Task) -> None:
    for attribute, what in (("average", "the weights are averaged"), ("autocast", "training is in mixed precision"),
                            ("starts_from", "it starts from another run's weights"),
                            ("files", "it writes files of its own")):  # fmt: skip
        if getattr(task, attribute):
            raise NotVectorizable(what)


def _check_model(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if not module.training:
            continue
        if getattr(module, "track_running_stats", False):
            raise NotVectorizable(
                f"{name} is a batch norm in training mode, whose running statistics are not vectorized"
            )
        if is_parametrized(module):
            raise NotVectorizable(f"{name} is parametrized, which may change its buffers")
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise NotVectorizable(f"{name} is dropout, whose masks would not be those of each run alone")


def _shape(task: Task) -> tuple[object, ...]:
    """What must agree for two tasks to be the same program, as far as it can be seen."""
    function: Callable[..., Tensor] = task.loss_fn
    tensors = [*task.model.named_parameters(), *task.model.named_buffers()]
    return (
        repr(task.model),
        getattr(function, "__code__", function),
        [(name, tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in tensors],
    )
