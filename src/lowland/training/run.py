"""Runs, one arm after the other: what a step, a check and a checkpoint of each are."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowland.errors import SettingError
from lowland.patience import doing
from lowland.training.claim_validation import claim_check
from lowland.training.drive import LOOK_EVERY, Drive, step_in
from lowland.training.environment import slow_bfloat16
from lowland.training.experiment import Experiment
from lowland.training.files import write_json
from lowland.training.forecast import Forecast, costs
from lowland.training.outcome import Outcome, Record, outcomes_of
from lowland.training.parallel import Alone
from lowland.training.progress import Bar, Watch, watched_by
from lowland.training.randomness import deterministic, random_state, restore_random_state, seed_everything
from lowland.training.run_directory import RunDirectory
from lowland.training.settings import Settings, repeats
from lowland.training.task import Batch, Task
from lowland.training.together import train_together
from lowland.values import StateDict


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
    states: StateDict = saved["arms"] if saved is not None else {}
    offset = 0
    total = sum(settings.steps for settings in arms.values())
    visible = show_progress and processes.leads
    look = claim_check(experiment, arms)
    cost = costs(arms.values())
    with watched_by(watch, total, visible, cost) as shown, deterministic(device), experiment.calling("training"):
        say = shown.say if isinstance(shown, Bar) and visible else _silent
        forecast, told = Forecast(arms, say), set[str]()
        for name, settings in arms.items():
            if not states.get(name, {}).get("finished"):
                run = Run(experiment, arms, name, device, directory, states, offset, processes)
                note = slow_bfloat16(settings, device, run.task.autocast)
                if note and note not in told:
                    say(note)
                    told.add(note)
                forecast.begin(name, run.step)
                Drive(run, directory, shown, processes, forecast, look).run(until)
            forecast.end(name)
            offset += settings.steps
            shown.finish(offset)
    return outcomes_of(arms, states, processes.first(directory.records))


def _silent(text: str) -> None:
    """Says nothing: where there is no bar."""


class Run:
    """One of the ``arms`` as a `lowland.training.drive.Program`, after ``offset`` steps of the arms before it.

    ``states`` are those of all arms in the checkpoint; this arm's is kept up to date there.
    """

    def __init__(
        self,
        experiment: Experiment,
        arms: Mapping[str, Settings],
        name: str,
        device: torch.device,
        directory: RunDirectory,
        states: StateDict,
        offset: int,
        processes: Alone,
    ):
        self.name, self.settings, self.states = name, arms[name], states
        self.offset, self.processes = offset, processes
        seed_everything(self.settings.seed)
        self.task: Task = processes.together(lambda: _task(experiment, name, self.settings, device, processes.count))
        self.seconds = {"train_seconds": 0.0, "check_seconds": 0.0}
        self._rates = [group["lr"] for group in self.task.optimizer.param_groups]
        self._divergence = _Divergence(device, processes)
        self.step = 0
        if name in states:
            with directory.taking_up():
                self._restore(states[name])
        elif self.task.starts_from is not None:
            start = _start(self.task.starts_from, self.settings, arms)
            if not processes.first(lambda: _take_up(self.task.model, states, start)):
                self._divergence.note(0)  # what it starts from has diverged: so has it
        if self.step == 0:
            processes.first(lambda: _write_files(self.task, directory))
        self.model = processes.wrap(self.task, self.step)
        if self.task.compiled:
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        self._drawn: tuple[int, Batch] = (-1, (None, None))
        if name in states:
            with directory.taking_up():
                restore_random_state(processes.own(states[name]["random"]))
        else:
            processes.part_ways(self.settings.seed)

    @property
    def arms(self) -> Mapping[str, Settings]:
        return {self.name: self.settings}

    @property
    def show(self) -> Mapping[str, str]:
        return self.task.show

    @property
    def done(self) -> int:
        return self.offset + self.step

    def train(self, most: int = 1) -> None:
        """Train one step, whatever ``most`` allows."""
        try:
            self._train(self._batch())
        except FloatingPointError:
            self._divergence.note(self.step)

    def _batch(self) -> Batch:
        """The batch of this step, of which a check and the step itself make use."""
        if self._drawn[0] != self.step:
            self._drawn = self.step, self.task.batch(self.step)
        return self._drawn[1]

    def _train(self, batch: Batch) -> None:
        started = time.monotonic()
        (x, y), weight = self.processes.share(batch)
        task, per_example = self.task, getattr(self.task.optimizer, "per_example", False)
        loss_fn = task.losses_fn if per_example else task.loss_fn
        assert loss_fn is not None

        def closure() -> Tensor:
            with torch.autocast(self._divergence.device.type, task.autocast, enabled=task.autocast is not None):
                loss = loss_fn(self.model(x), y)
            if per_example:
                return loss
            loss.backward(None if weight is None else torch.full_like(loss, weight))
            return loss

        if task.schedule is not None:
            factor = task.schedule(self.step)
            for group, rate in zip(task.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor
        loss = task.optimizer.step(closure).detach()
        if task.average is not None:
            task.average.update_parameters(task.model)
        self._divergence.watch(loss, self.step)
        self.step += 1
        self.seconds["train_seconds"] += time.monotonic() - started

    def check(self, record: Callable[[str, Record], None]) -> None:
        """See `Program`: by the first process, on the whole batch."""
        try:
            batch = self._batch()
            self.processes.first(lambda: record(self.name, self.task.check(self.step, batch)))
        except FloatingPointError:
            self._divergence.note(self.step)

    def over(self) -> bool:
        """See `Program`; it looks now and then, and before each check."""
        at_check = self.step % self.settings.check_every == 0 or self.step == self.settings.steps
        return self._divergence.known or ((at_check or self.step % LOOK_EVERY == 0) and self._divergence.found())

    def wait(self) -> object:
        return self._divergence.step.item()

    def state(self, finished: bool) -> StateDict:
        """See `Program`. A diverged arm ends here, and keeps the weights of its last good checkpoint."""
        diverged = self._divergence.found()
        random = self.processes.gather(random_state())
        if diverged or not self.processes.leads:
            state = self.states.get(self.name, {"step": 0})
        else:
            live = {"step": self.step, "model": self.task.model.state_dict()}
            if self.task.average is not None:
                live["average"] = self.task.average.state_dict()
            if not finished:  # the rest is for going on
                live["optimizer"] = self.task.optimizer.state_dict()
                live["check"] = self.task.check.state_dict()
                live["random"] = random
            # Copies: training goes on in the tensors themselves.
            state = pytree.tree_map_only(Tensor, lambda t: t.detach().to("cpu", copy=True), live)
        self.states[self.name] = {
            **state,
            **self.seconds,
            "finished": finished or diverged,
            "diverged_at": self._divergence.step.item() if diverged else None,
        }
        return {"arms": self.states}

    def _restore(self, state: StateDict) -> None:
        self.step = step_in(state, self.settings.steps)
        self.task.model.load_state_dict(state["model"])
        self.task.optimizer.load_state_dict(state["optimizer"])
        self.task.check.load_state_dict(state["check"])
        if self.task.average is not None:
            self.task.average.load_state_dict(state["average"])
        self.seconds = {name: float(state[name]) for name in self.seconds}


class _Divergence:
    """The first step whose loss was not finite, or −1: on the device, so that nothing waits for it until it is asked.

    Attributes:
        device: where the run is trained.
        step: on the device.
        known: whether it was found that there is one.
    """

    def __init__(self, device: torch.device, processes: Alone):
        self.device, self._processes = device, processes
        self.step, self.known = torch.tensor(-1, device=device), False

    def watch(self, loss: Tensor, step: int) -> None:
        """Note ``step`` if its loss is not finite."""
        bad = (self.step < 0) & ~torch.isfinite(loss)
        self.step = torch.where(bad, step, self.step)

    def note(self, step: int) -> None:
        """It has diverged, at ``step`` if no earlier one is known."""
        if self.step.item() < 0:
            self.step.fill_(step)
        self.known = True

    def found(self) -> bool:
        """Whether the loss of any process was not finite: then that of the whole batch wasn't."""
        step = self._processes.earliest(int(self.step.item()))
        if step >= 0:
            self.step.fill_(step)
            self.known = True
        return step >= 0


def _write_files(task: Task, directory: RunDirectory) -> None:
    for file, content in task.files.items():
        write_json(directory.path / file, content)


def _task(experiment: Experiment, name: str, settings: Settings, device: torch.device, processes: int) -> Task:
    with doing("loading data"):
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


def _take_up(model: torch.nn.Module, states: StateDict, start: str) -> bool:
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
