"""The training loop of a stack: as `lowland.training.loop`, with a step and a check for all runs at once."""

import time
import warnings
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.training.experiment import Experiment
from lowland.training.outcome import Outcome, Record, seconds_in
from lowland.training.pace import Pace
from lowland.training.progress import Watch, bar
from lowland.training.randomness import deterministic, random_state, restore_random_state
from lowland.training.run_directory import RunDirectory
from lowland.training.settings import Settings
from lowland.training.shapes import Maybe, fault
from lowland.training.task import Stack
from lowland.training.vectorized.batches import Batches
from lowland.training.vectorized.cost import Cost
from lowland.training.vectorized.program import Program
from lowland.training.vectorized.runs import Runs

_LOOK_EVERY = 200  # steps between two looks at whether any run is left: each waits for the device


def train_stacked(
    experiment: Experiment,
    arms: Mapping[str, Settings],
    directory: RunDirectory,
    device: torch.device,
    *,
    show_progress: bool = True,
    watch: Watch | None = None,
    until: int | None = None,
    without: Collection[str] = (),
    alike: int = 1,
) -> dict[str, Outcome]:
    """Train all ``arms`` as one program; each ends as it would alone, to rounding.

    Args:
        experiment: which.
        arms: name → settings, equal in all but what `Experiment.grid` allows.
        directory: entered; its records and its checkpoint grow.
        device: to train on.
        show_progress: whether there is a bar, on a terminal.
        watch: is told how far training is, in place of the bar.
        until: pause before this step, with everything saved.
        without: arms that are not trained any further; they stay as they are.
        alike: how many stacks of the same program are trained in this process, for whether compiling pays.

    Raises:
        NotStackable: if they can't be one program.
        RunError: for a directory that can't be used.
    """
    saved = directory.load(device) or {"arms": {}, "stacks": []}
    states: dict[str, Any] = saved["arms"]
    left = [name for name in arms if name not in without and not states.get(name, {}).get("finished")]
    with directory.taking_up():
        stacks = saved["stacks"] = _parted(_known(saved["stacks"], arms), left) or [{"names": left}]
    total = sum(arms[name].steps for name in left)
    with nullcontext(watch) if watch else bar(total, show_progress) as shown, deterministic(device):
        for index, stack in enumerate(stacks):
            paused = until is not None and stack.get("step", 0) >= until
            if set(stack["names"]) <= set(left) and left and not paused:
                _StackRun(experiment, arms, directory, device, saved, index, shown, alike).run(until)
    records = directory.records()
    ended = {name: states.get(name, {}) for name in arms}
    return {
        name: Outcome(arms[name], records.get(name, []), state.get("diverged_at"), seconds_in(state))
        for name, state in ended.items()
    }


def _known(stacks: Any, arms: Mapping[str, Settings]) -> list[dict[str, Any]]:
    """The saved ``stacks``; ValueError unless they are stacks, each run in one at most."""
    wrong = fault(stacks, [{"names": [str], "step": Maybe(int)}], "stacks")
    names = [] if wrong else [name for stack in stacks for name in stack["names"]]
    if wrong or len(set(names)) < len(names) or not set(names) <= set(arms):
        raise ValueError(wrong or "its stacks have other runs")
    return list(stacks)


def _parted(stacks: list[dict[str, Any]], left: list[str]) -> list[dict[str, Any]]:
    """The saved ``stacks``, those of which only some runs are ``left`` in two: they may all be wanted again."""
    parted = []
    for stack in stacks:
        kept = [index for index, name in enumerate(stack["names"]) if name in left]
        rest = [index for index, name in enumerate(stack["names"]) if name not in left]
        parted += [_taken(stack, part) if kept and rest else stack for part in (kept, rest) if part]
    return parted


def _taken(stack: dict[str, Any], chosen: list[int]) -> dict[str, Any]:
    """Some of the runs of a saved ``stack``."""
    indices = torch.tensor(chosen)

    def take(tensor: Tensor) -> Tensor:
        return tensor[indices.to(tensor.device)] if tensor.dim() else tensor  # the step is one for all

    return {
        **stack,
        "names": [stack["names"][index] for index in chosen],
        "runs": pytree.tree_map_only(Tensor, take, stack["runs"]),
        "checks": [stack["checks"][index] for index in chosen],
        "random": [stack["random"][index] for index in chosen] if stack["random"] else [],
        "seconds": {name: seconds * len(chosen) / len(stack["names"]) for name, seconds in stack["seconds"].items()},
    }


class _StackRun:
    """A stack under way."""

    def __init__(
        self,
        experiment: Experiment,
        arms: Mapping[str, Settings],
        directory: RunDirectory,
        device: torch.device,
        saved: dict[str, Any],
        index: int,
        shown: Watch,
        alike: int,
    ):
        stack = saved["stacks"][index]
        self.saved, self.index, self.names = saved, index, stack["names"]
        self.directory, self.bar, self.device = directory, shown, device
        chosen = [arms[name] for name in self.names]
        settings = chosen[0]
        self.steps, self.every = settings.steps, settings.check_every
        self.runs = Runs.prepare(experiment, chosen, device)
        self.tasks = self.runs.tasks
        self.batches = Batches(self.tasks)
        self.step = 0
        self.seconds = {"train_seconds": 0.0, "check_seconds": 0.0, "compile_seconds": 0.0}
        if "runs" in stack:
            with directory.taking_up():
                self._restore(stack)
        else:
            self.compiled = Cost(self.runs, self.batches).pays_to_compile(self.steps * alike, device)
        self.warm = set[Any]()  # shapes of batches that a compiled step has seen
        self.pace = Pace()

    def run(self, until: int | None) -> None:
        while True:
            if until is not None and until <= self.step < self.steps:
                self._save()
                return
            if self.step % self.every == 0 or self.step == self.steps:
                self._check()
            if self.step == self.steps or (self.step % _LOOK_EVERY == 0 and not self._alive()):
                break
            self._train()
            if self.pace.due():
                self._save()
            self.bar.update(self.step * len(self.runs), f"{len(self.runs)} runs")
        self._save(finished=True)
        self.bar.finish(self.steps * len(self.runs))

    def _train(self) -> None:
        started = time.monotonic()
        x, y, picked, shared = self.batches(self.step)
        rows = picked.shape[1] if picked is not None else _rows(x, shared)
        schedule = self.tasks[0].schedule
        batch = (x, y, picked, shared, 1.0 if schedule is None else schedule(self.step))
        program = Program.of(self.runs, rows, compiled=self.compiled)
        first = self.compiled and rows not in self.warm
        self.warm.add(rows)
        if first and not program.agrees(self.runs, *batch):
            warnings.warn("the compiler makes a wrong program of these runs; they are trained without it", stacklevel=2)
            self.compiled = False
            program = Program.of(self.runs, rows, compiled=False)
        program(self.runs, *batch)
        self.step += 1
        self.seconds["compile_seconds" if first else "train_seconds"] += time.monotonic() - started

    def _alive(self) -> list[int]:
        """The runs that have not diverged."""
        return (self.runs.bad_step < 0).nonzero().flatten().tolist()

    def _check(self) -> None:
        started = time.monotonic()
        alive = self._alive()
        for run, record in zip(alive, self._measure(alive), strict=True):
            if isinstance(record, FloatingPointError):
                self.runs.bad_step[run] = self.step
                continue
            record = {"arm": self.names[run], "step": self.step, **record}
            self.directory.append(record)
            self.bar.update(self.step * len(self.runs), self.names[run], record, self.tasks[run].show)
        self.seconds["check_seconds"] += time.monotonic() - started

    def _measure(self, alive: list[int]) -> list[Record | FloatingPointError]:
        if not alive:
            return []
        checks = [self.tasks[run].check for run in alive]
        together = getattr(type(checks[0]), "together", None)
        if together is None:
            return [self._measure_alone(run) for run in alive]
        x, y, shared = self.batches.together(self.step)
        chosen = torch.tensor(alive, device=self.device)
        if not shared:
            x, y = pytree.tree_map(lambda tensor: tensor[chosen], (x, y))
        task = self.tasks[0]
        params = {name: param[chosen] for name, param in self.runs.params.items()}
        measured: list[Record | FloatingPointError] = together(
            checks, Stack(task.model, task.loss_fn, params, x, y, shared, self.step)
        )
        return measured

    def _measure_alone(self, run: int) -> Record | FloatingPointError:
        self.runs.of(run)
        before = random_state()
        restore_random_state(self.runs.random[run])
        try:
            return self.tasks[run].check(self.step, self.batches.of(run, self.step))
        except FloatingPointError as error:
            return error
        finally:
            self.runs.random[run] = random_state()
            restore_random_state(before)

    def _save(self, finished: bool = False) -> None:
        started = time.monotonic()
        share = {name: seconds / len(self.runs) for name, seconds in self.seconds.items()}
        states = self.saved["arms"]
        bad_steps = self.runs.bad_step.tolist()
        for name, bad in zip(self.names, bad_steps, strict=True):
            states[name] = {**share, "finished": finished, "diverged_at": bad if bad >= 0 else None, "step": self.step}
        self.saved["stacks"][self.index] = {
            "names": self.names,
            "compiled": self.compiled,
            "step": self.step,
            "seconds": self.seconds,
            "runs": pytree.tree_map_only(Tensor, lambda t: t.detach().to("cpu", copy=True), self.runs.changing()),
            "checks": [task.check.state_dict() for task in self.tasks],
            "random": self.runs.random if self._checks_alone() else [],
        }
        self.directory.save({"arms": states, "stacks": self.saved["stacks"]})
        self.pace.saved(time.monotonic() - started)

    def _checks_alone(self) -> bool:
        return getattr(type(self.tasks[0].check), "together", None) is None

    def _restore(self, stack: dict[str, Any]) -> None:
        """Go on where ``stack`` was saved."""
        self.step, self.compiled = stack["step"], bool(stack["compiled"])
        if type(self.step) is not int or not 0 <= self.step <= self.steps:
            raise ValueError(f"step {self.step} of {self.steps}")
        self.seconds = {name: float(stack["seconds"][name]) for name in self.seconds}
        self.runs.load(stack["runs"])
        for task, state in zip(self.tasks, stack["checks"], strict=True):
            task.check.load_state_dict(state)
        if stack["random"]:
            self.runs.random = [stack["random"][run] for run in range(len(self.runs))]


def _rows(x: Any, shared: bool) -> int:
    first = pytree.tree_leaves(x)[0]
    return int(first.shape[0] if shared else first.shape[1])
