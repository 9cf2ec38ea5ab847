"""The training loop of an experiment that trains all its arms as one program of its own."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from statistics import fmean
from typing import Any

import torch
from torch.utils import _pytree as pytree

from lowland.errors import SettingError
from lowland.training.experiment import Experiment
from lowland.training.forecast import SHORT, STEPS, duration
from lowland.training.outcome import Outcome, seconds_in
from lowland.training.pace import Pace
from lowland.training.parallel import Alone
from lowland.training.progress import Bar, Watch, bar
from lowland.training.randomness import deterministic
from lowland.training.run_directory import RunDirectory
from lowland.training.settings import Settings

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
    """As `lowland.training.loop.train`, which calls this one.

    Raises:
        SettingError: in several processes, or if the arms are not checked at the same steps.
    """
    assert experiment.together is not None
    if processes.count > 1:
        raise SettingError(f"{experiment.name} trains all its runs as one program: start it without torchrun")
    if len({settings.check_every for settings in arms.values()}) > 1:
        raise SettingError("check_every must be the same in all arms: they are trained and checked together")
    saved: dict[str, Any] = directory.load(device) or {"arms": {}}
    states: dict[str, Any] = saved["arms"]
    with nullcontext(watch) if watch else bar(max(s.steps for s in arms.values()), show_progress) as shown:
        if not all(states.get(name, {}).get("finished") for name in arms):
            with deterministic(device):
                _Run(experiment, arms, directory, device, saved, shown, show_progress).run(until)
    records = directory.records()
    return {
        name: Outcome(settings, records.get(name, []), states[name]["diverged_at"], seconds_in(states[name]))
        for name, settings in arms.items()
    }


class _Run:
    """All arms under way."""

    def __init__(
        self,
        experiment: Experiment,
        arms: Mapping[str, Settings],
        directory: RunDirectory,
        device: torch.device,
        saved: dict[str, Any],
        shown: Watch,
        show: bool,
    ):
        assert experiment.together is not None
        self.arms, self.directory, self.saved, self.bar = arms, directory, saved, shown
        self.every = next(iter(arms.values())).check_every
        self.program = experiment.together(arms, device)
        self.step = 0
        self.states: dict[str, Any] = saved["arms"]
        for name in arms:
            self.states.setdefault(name, {"finished": False, "diverged_at": None})
        self.seconds = {"train_seconds": 0.0, "check_seconds": 0.0}
        if "program" in saved:
            with directory.taking_up():
                self._restore(saved)
        self.pace = Pace()
        self.forecast_due, self.checks = show, list[float]()
        self.mark: tuple[int, float] | None = None  # the step and the seconds of training at the first look

    def _restore(self, saved: dict[str, Any]) -> None:
        self.step, self.seconds = saved["step"], {name: float(saved["seconds"][name]) for name in self.seconds}
        last = max(settings.steps for settings in self.arms.values())
        if type(self.step) is not int or not 0 <= self.step <= last:
            raise ValueError(f"step {self.step} of {last}")
        self.program.load_state_dict(saved["program"])

    def run(self, until: int | None) -> None:
        last = max(settings.steps for settings in self.arms.values())
        stride, began = min(self.every, STEPS), self.step
        while True:
            if until is not None and until <= self.step < last:
                self._save()
                return
            ends = {settings.steps for settings in self.arms.values() if settings.steps >= self.step}
            if self.step % self.every == 0 or self.step in ends:
                self._check()
            if all(state["finished"] for state in self.states.values()):
                break
            steps = min(self.every - self.step % self.every, min(end for end in ends if end > self.step) - self.step)
            if until is not None:
                steps = min(steps, until - self.step)
            stride = self._train(min(steps, stride), stride)
            self._forecast(began)
            if self.pace.due():
                self._save()
            self.bar.update(self.step, f"{len(self.arms)} runs")
        self._save()
        self.bar.finish(last)

    def _forecast(self, began: int) -> None:
        """Say once how long it will take: from the first steps that took as long as a look, with the checks so far.

        But for those before the first look, which are warming up.
        """
        if not self.forecast_due or not isinstance(self.bar, Bar):
            return
        if self.mark is None:
            self.mark = self.step, self.seconds["train_seconds"]
            return
        steps, seconds = self.step - self.mark[0], self.seconds["train_seconds"] - self.mark[1]
        if seconds < _LOOK:
            return
        self.forecast_due = False
        last = max(settings.steps for settings in self.arms.values())
        checks = fmean(self.checks) * ((last - self.step) // self.every + 1) if self.checks else 0.0
        left = seconds / steps * (last - self.step) + checks
        if left >= SHORT:
            more = " more" if began else ""
            self.bar.say(
                f"about {duration(left)}{more}, from the first {self.step - began} steps of {len(self.arms)} runs"
            )

    def _train(self, steps: int, stride: int) -> int:
        """How many steps to take before looking at the clock again: about `_LOOK` seconds of them."""
        started = time.monotonic()
        self.program.train(steps)
        self.step += steps
        took = time.monotonic() - started
        self.seconds["train_seconds"] += took
        return max(1, min(self.every, round(stride * 2 if took < _LOOK / 2 else steps * _LOOK / took)))

    def _check(self) -> None:
        started = time.monotonic()
        measured, ended = self.program.measure(), self.program.ended()
        for name, settings in self.arms.items():
            state = self.states[name]
            if state["finished"]:
                continue
            found = measured[name]
            if isinstance(found, FloatingPointError):
                state |= {"finished": True, "diverged_at": self.step}
                continue
            if found is not None:
                self.directory.append({"arm": name, "step": self.step, **found})
            state["finished"] = ended or self.step == settings.steps
        self.checks.append(time.monotonic() - started)
        self.seconds["check_seconds"] += self.checks[-1]

    def _save(self) -> None:
        started = time.monotonic()
        live = {"program": self.program.state_dict(), "step": self.step, "seconds": self.seconds}
        state = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().to("cpu", copy=True), live)
        share = {name: seconds / len(self.arms) for name, seconds in self.seconds.items()}
        self.saved.update(state, arms={name: state | share for name, state in self.states.items()})
        self.states.update(self.saved["arms"])
        self.directory.save(self.saved)
        self.pace.saved(time.monotonic() - started)
