"""The training loop: step, check, record, checkpoint; resume to the same bits."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils import _pytree as pytree

from lowland.errors import SettingError
from lowland.training.experiment import Experiment
from lowland.training.files import write_json
from lowland.training.forecast import Forecast
from lowland.training.outcome import Outcome, Record, seconds_in
from lowland.training.pace import Pace
from lowland.training.parallel import Alone
from lowland.training.progress import Bar, Watch, bar
from lowland.training.randomness import deterministic, random_state, restore_random_state, seed_everything
from lowland.training.run_directory import RunDirectory
from lowland.training.settings import Settings, repeats
from lowland.training.task import Task
from lowland.training.together import train_together

_LOOK_EVERY = 50  # steps between two looks at whether the loss is finite: each waits for device and processes


def train(
    experiment: Experiment,
    arms: Mapping[str, Settings],
    directory: RunDirectory,
    device: torch.device,
    *,
    show_progress: bool = True,
    watch: Watch | None = None,
    until: int | None = None,
    processes: Alone | None = None,
) -> dict[str, Outcome]:
    """Train every arm, from where ``directory`` stands; what each became, in order.

    Args:
        experiment: which.
        arms: name → settings.
        directory: entered, by the first process; its records and its checkpoint grow.
        device: to train on.
        show_progress: whether there is a bar, on a terminal.
        watch: is told how far training is, in place of the bar.
        until: pause before this step, with everything saved.
        processes: that train together, of which this is one; by default it is the only one.

    Raises:
        RunError: for a directory that can't be used.
        SettingError: for a batch of fewer examples than there are processes.
    """
    processes = processes or Alone()
    if experiment.together is not None:
        return train_together(
            experiment, arms, directory, device,
            show_progress=show_progress, watch=watch, until=until, processes=processes,
        )  # fmt: skip
    saved = processes.first(lambda: directory.load(device))
    states: dict[str, Any] = saved["arms"] if saved is not None else {}
    offset = 0
    total = sum(settings.steps for settings in arms.values())
    visible = show_progress and processes.leads
    with nullcontext(watch) if watch else bar(total, visible) as shown, deterministic(device):
        forecast = Forecast(arms, shown.say if isinstance(shown, Bar) and visible else _silent)
        for name, settings in arms.items():
            if not states.get(name, {}).get("finished"):
                run = _ArmRun(experiment, arms, name, device, directory, states, shown, offset, processes, forecast)
                run.run(until)
            forecast.end(name)
            offset += settings.steps
            shown.finish(offset)
    records = processes.first(directory.records)
    return {
        name: Outcome(
            settings,
            records.get(name, []),
            states[name]["diverged_at"],
            seconds_in(states[name]),
        )
        for name, settings in arms.items()
    }


def _silent(text: str) -> None:
    """Where nobody watches."""


class _ArmRun:
    """One arm under way."""

    def __init__(
        self,
        experiment: Experiment,
        arms: Mapping[str, Settings],
        name: str,
        device: torch.device,
        directory: RunDirectory,
        states: dict[str, Any],
        shown: Watch,
        offset: int,
        processes: Alone,
        forecast: Forecast,
    ):
        settings = arms[name]
        self.name, self.settings, self.device = name, settings, device
        self.directory, self.states, self.bar, self.offset = directory, states, shown, offset
        self.processes, self.forecast = processes, forecast
        seed_everything(settings.seed)
        self.task: Task = processes.together(lambda: _task(experiment, name, settings, device, processes.count))
        self.seconds = {"train_seconds": 0.0, "check_seconds": 0.0}
        self.pace = Pace()
        self.rates = [group["lr"] for group in self.task.optimizer.param_groups]
        # The first step whose loss was not finite, kept on the device so that nothing waits for it.
        self.bad_step = torch.tensor(-1, device=device)
        self.step = 0
        if name in states:
            with directory.taking_up():
                self._restore(states[name])
        elif self.task.starts_from is not None:
            start = _start(self.task.starts_from, settings, arms)
            if not processes.first(lambda: _take_up(self.task.model, states, start)):
                self.bad_step.fill_(0)  # what it starts from has diverged: so has it
        if self.step == 0:
            processes.first(self._write_files)
        self.model = processes.wrap(self.task, self.step)
        if self.task.compiled:
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        if name in states:
            with directory.taking_up():
                restore_random_state(processes.own(states[name]["random"]))
        else:
            processes.part_ways(settings.seed)

    def run(self, until: int | None = None) -> None:
        steps, every = self.settings.steps, self.settings.check_every
        self.forecast.begin(self.name, self.step)
        try:
            while True:
                if until is not None and until <= self.step < steps:
                    self._save()
                    return
                batch = self.task.batch(self.step)
                if self.step % every == 0 or self.step == steps:
                    self._check(batch)
                if self.step == steps:
                    break
                self._train(batch)
                self.forecast.step(self.bad_step.item)
                if self.step % _LOOK_EVERY == 0 and self._has_diverged():
                    break
                self._save_now_and_then()
                self.bar.update(self.offset + self.step, self.name)
        except FloatingPointError:  # a check found it first
            if self.bad_step.item() < 0:
                self.bad_step.fill_(self.step)
        self._save(finished=True)

    def _train(self, batch: tuple[Any, Any]) -> None:
        started = time.monotonic()
        (x, y), weight = self.processes.share(batch)
        task, per_example = self.task, getattr(self.task.optimizer, "per_example", False)
        loss_fn = task.losses_fn if per_example else task.loss_fn
        assert loss_fn is not None

        def closure() -> torch.Tensor:
            with torch.autocast(self.device.type, task.autocast, enabled=task.autocast is not None):
                loss = loss_fn(self.model(x), y)
            if per_example:
                return loss
            loss.backward(None if weight is None else torch.full_like(loss, weight))
            return loss

        if self.task.schedule is not None:
            factor = self.task.schedule(self.step)
            for group, rate in zip(self.task.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
        loss = self.task.optimizer.step(closure).detach()
        if self.task.average is not None:
            self.task.average.update_parameters(self.task.model)
        bad = (self.bad_step < 0) & ~torch.isfinite(loss)
        self.bad_step = torch.where(bad, self.step, self.bad_step)
        self.step += 1
        self.seconds["train_seconds"] += time.monotonic() - started

    def _check(self, batch: tuple[Any, Any]) -> None:
        if self._has_diverged():
            raise FloatingPointError
        started = time.monotonic()
        record = self.processes.first(lambda: self._measure(batch))
        took = time.monotonic() - started
        self.seconds["check_seconds"] += took
        self.forecast.check(took)
        self.bar.update(self.offset + self.step, self.name, record, self.task.show)

    def _measure(self, batch: tuple[Any, Any]) -> Record:
        record = {"arm": self.name, "step": self.step, **self.task.check(self.step, batch)}
        self.directory.append(record)
        return record

    def _has_diverged(self) -> bool:
        """Whether the loss of any process was not finite: then that of the whole batch wasn't."""
        step = self.processes.earliest(int(self.bad_step.item()))
        if step >= 0:
            self.bad_step.fill_(step)
        return step >= 0

    def _save_now_and_then(self) -> None:
        checked = (self.step - 1) % self.settings.check_every == 0
        if self.processes.count > 1 and not checked and self.step % _LOOK_EVERY:
            return  # to agree takes its time
        if self.processes.agree(self.pace.due()) and not self._has_diverged():
            self._save()

    def _save(self, finished: bool = False) -> None:
        """Checkpoint. A diverged arm keeps the weights of its last good one."""
        started = time.monotonic()
        diverged = self._has_diverged()
        random = self.processes.gather(random_state())
        if diverged or not self.processes.leads:
            state = self.states.get(self.name, {"step": 0})
        else:
            live = {
                "step": self.step,
                "model": self.task.model.state_dict(),
            }
            if self.task.average is not None:
                live["average"] = self.task.average.state_dict()
            if not finished:  # the rest is for going on
                live["optimizer"] = self.task.optimizer.state_dict()
                live["check"] = self.task.check.state_dict()
                live["random"] = random
            # Copies: training goes on in the tensors themselves.
            state = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().to("cpu", copy=True), live)
        self.states[self.name] = {
            **state,
            **self.seconds,
            "finished": finished,
            "diverged_at": self.bad_step.item() if diverged else None,
        }
        self.processes.first(lambda: self.directory.save({"arms": self.states}))
        self.pace.saved(time.monotonic() - started)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        if type(self.step) is not int or not 0 <= self.step <= self.settings.steps:
            raise ValueError(f"step {self.step} of {self.settings.steps}")
        self.task.model.load_state_dict(state["model"])
        self.task.optimizer.load_state_dict(state["optimizer"])
        self.task.check.load_state_dict(state["check"])
        if self.task.average is not None:
            self.task.average.load_state_dict(state["average"])
        self.seconds = {name: float(state[name]) for name in self.seconds}

    def _write_files(self) -> None:
        for file, content in self.task.files.items():
            write_json(self.directory.path / file, content)


def _task(experiment: Experiment, name: str, settings: Settings, device: torch.device, processes: int) -> Task:
    task = experiment.task(settings, device)
    if processes > 1 and getattr(task.optimizer, "per_example", False):
        # Each would cut its own share of a batch into groups, and average the ascents of several groups.
        raise SettingError(f"arm {name}: groups of m examples climb in one process alone: start it without torchrun")
    return task


def _start(name: str, settings: Settings, arms: Mapping[str, Settings]) -> str:
    """The arm that `repeated` made of ``name`` for the same seed.

    Raises:
        SettingError: if there is none among ``arms``.
    """
    found = [label for label, other in arms.items() if repeats(label, name) and other.seed == settings.seed]
    if not found:
        raise SettingError(f"there is no arm {name} with seed {settings.seed} in this run to start from: set start")
    return found[0]


def _take_up(model: torch.nn.Module, states: Mapping[str, Any], start: str) -> bool:
    """Load the last weights of the arm ``start``; whether it has some: not if it diverged.

    Raises:
        SettingError: if it isn't trained to its end yet.
    """
    state = states.get(start, {})
    if not state.get("finished"):
        raise SettingError(f"arm {start} is not trained to its end: there is nothing to start from yet")
    if state["diverged_at"] is not None:
        return False
    model.load_state_dict(state["model"])
    return True
