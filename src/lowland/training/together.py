"""An experiment's own program of all its arms, as the training loop drives it."""

import time
from collections.abc import Callable, Mapping

import torch
from torch.utils import _pytree as pytree

from lowland.errors import SettingError
from lowland.patience import doing
from lowland.training.claim_validation import claim_check
from lowland.training.drive import Drive, step_in
from lowland.training.experiment import Experiment
from lowland.training.forecast import STEPS, ForecastTogether
from lowland.training.outcome import Outcome, Record, outcomes_of
from lowland.training.parallel import Alone
from lowland.training.progress import Bar, Watch, watched_by
from lowland.training.randomness import deterministic
from lowland.training.run_directory import RunDirectory
from lowland.training.settings import Settings
from lowland.values import StateDict

_LOOK = 2.0  # seconds between two looks at the clock for the bar and the next checkpoint, about


def train_together(
    experiment: Experiment,
    arms: Mapping[str, Settings],
    directory: RunDirectory,
    device: torch.device,
    *,
    show_progress: bool = True,
    watch: Watch | None = None,
    until: int | None = None,
    processes: Alone,
) -> dict[str, Outcome]:
    """As `lowland.training.run.train`, which calls this one.

    Raises:
        SettingError: in several processes, or if the arms are not checked at the same steps.
    """
    if processes.count > 1:
        raise SettingError(f"{experiment.name} trains all its runs as one program: start it without torchrun")
    if len({settings.check_every for settings in arms.values()}) > 1:
        raise SettingError("check_every must be the same in all arms: they are trained and checked together")
    saved: StateDict = directory.load(device) or {"arms": {}}
    last = max(settings.steps for settings in arms.values())
    with watched_by(watch, last, show_progress) as shown:
        if not all(saved["arms"].get(name, {}).get("finished") for name in arms):
            with deterministic(device), experiment.calling("training"):
                program = OwnProgram(experiment, arms, directory, device, saved)
                say = shown.say if isinstance(shown, Bar) and show_progress else None
                forecast = None if say is None else ForecastTogether(program, _LOOK, say)
                if Drive(program, directory, shown, processes, forecast, claim_check(experiment, arms)).run(until):
                    shown.finish(last)
    return outcomes_of(arms, saved["arms"], directory.records())


class OwnProgram:
    """All arms of an experiment that has a `lowland.training.task.Together`, as a `lowland.training.drive.Program`."""

    show = None

    def __init__(
        self,
        experiment: Experiment,
        arms: Mapping[str, Settings],
        directory: RunDirectory,
        device: torch.device,
        saved: StateDict,
    ):
        assert experiment.together is not None
        self.name, self.arms, self.saved = f"{len(arms)} runs", arms, saved
        with doing("loading"):
            with experiment.calling("together"):
                self.program = experiment.together(arms, device)
        self.step = 0
        for name in arms:
            saved["arms"].setdefault(name, {"finished": False, "diverged_at": None})
        self.seconds = {"train_seconds": 0.0, "check_seconds": 0.0}
        if "program" in saved:
            with directory.taking_up():
                self.step = step_in(saved, max(settings.steps for settings in arms.values()))
                self.seconds = {name: float(saved["seconds"][name]) for name in self.seconds}
                self.program.load_state_dict(saved["program"])
        self._every = next(iter(arms.values())).check_every
        self._stride = min(self._every, STEPS)  # how many steps to make before looking at the clock again

    @property
    def done(self) -> int:
        return self.step

    def train(self, most: int) -> None:
        """See `Program`: about `_LOOK` seconds of steps."""
        started, steps = time.monotonic(), min(most, self._stride)
        self.program.train(steps)
        self.step += steps
        took = time.monotonic() - started
        self.seconds["train_seconds"] += took
        stride = self._stride * 2 if took < _LOOK / 2 else steps * _LOOK / took
        self._stride = max(1, min(self._every, round(stride)))

    def check(self, record: Callable[[str, Record], None]) -> None:
        measured, ended = self.program.measure(), self.program.ended()
        for name, settings in self.arms.items():
            state = self.saved["arms"][name]
            if state["finished"]:
                continue
            found = measured[name]
            if isinstance(found, FloatingPointError):
                state |= {"finished": True, "diverged_at": self.step}
                continue
            if found is not None:
                record(name, found)
            state["finished"] = ended or self.step == settings.steps

    def over(self) -> bool:
        return all(state["finished"] for state in self.saved["arms"].values())

    def wait(self) -> None:
        """See `Program`: the experiment's own code does."""

    def state(self, finished: bool) -> StateDict:
        live = {"program": self.program.state_dict(), "step": self.step, "seconds": self.seconds}
        share = {name: seconds / len(self.arms) for name, seconds in self.seconds.items()}
        self.saved.update(pytree.tree_map_only(torch.Tensor, lambda t: t.detach().to("cpu", copy=True), live))
        self.saved["arms"] = {name: state | share for name, state in self.saved["arms"].items()}
        return self.saved
