"""The one training loop: it steps a program, has it checked, writes records and checkpoints, and says how far it is."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from lowland.patience import doing
from lowland.training.outcome import Record
from lowland.training.parallel import Alone
from lowland.training.progress import Watch
from lowland.training.run_directory import RunDirectory
from lowland.training.settings import Settings
from lowland.values import StateDict

LOOK_EVERY = 50  # steps between two looks at whether the loss is finite: each waits for device and processes
_SECONDS = 5.0  # between two checkpoints, at least
_SHARE = 0.05  # of the time may go into saving


class Program(Protocol):
    """What is trained: a run, runs side by side, or an experiment's own program of all its arms.

    Attributes:
        name: of what is under way, for the bar.
        step: how many steps were made.
        seconds: what they took, by name; the driver counts those of checks.
    """

    name: str
    step: int
    seconds: dict[str, float]

    @property
    def arms(self) -> Mapping[str, Settings]:
        """Name → settings, of all that it trains; the steps between two checks are the same for all."""

    @property
    def done(self) -> int:
        """How many steps the bar counts."""

    @property
    def show(self) -> Mapping[str, str] | None:
        """The entries of a record that the bar shows, by label; None where it shows no records."""

    def train(self, most: int) -> None:
        """One step, or several, but at most so many."""

    def check(self, record: Callable[[str, Record], None]) -> None:
        """Measure at this step, and ``record`` what each arm gives."""

    def over(self) -> bool:
        """Whether there is nothing left to train: all arms have diverged, or stopped."""

    def wait(self) -> object:
        """Return when the device has made the steps so far."""

    def state(self, finished: bool) -> StateDict:
        """The checkpoint of the run directory; ``finished`` says that training ends here."""


class Forecaster(Protocol):
    """Says how long training will take."""

    def check(self, seconds: float) -> None:
        """A check took so long."""

    def step(self, wait: Callable[[], object]) -> None:
        """The program has made a step, or several; ``wait`` waits until the device has, too."""


class Pace:
    """Says when the next checkpoint is due: often enough to lose little, seldom enough to cost little."""

    def __init__(self) -> None:
        self._at, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether to save now: time has passed, and saving takes a small share of it."""
        return time.monotonic() - self._at > max(_SECONDS, self._took / _SHARE)

    def saved(self, seconds: float) -> None:
        """A checkpoint was made just now, in so many seconds."""
        self._at, self._took = time.monotonic(), seconds


class Drive:
    """Trains a `Program` from where it stands: at its first step, or as it was taken up from the checkpoint.

    ``directory`` is entered, by the first of the ``processes``; its records and its checkpoint grow. ``look`` is called
    with the first record of each arm.
    """

    def __init__(
        self,
        program: Program,
        directory: RunDirectory,
        watch: Watch,
        processes: Alone,
        forecast: Forecaster | None = None,
        look: Callable[[str, Record], None] | None = None,
    ):
        self.program, self.directory, self.watch = program, directory, watch
        self.processes, self.forecast = processes, forecast
        self.look, self.seen = look, set[str]()
        self.every = next(iter(program.arms.values())).check_every
        self.ends = sorted({settings.steps for settings in program.arms.values()})
        self.pace = Pace()

    def run(self, until: int | None = None) -> bool:
        """Train to the end, or ``until`` this step, with everything saved; whether that was the end."""
        program, last = self.program, self.ends[-1]
        while not program.over():
            if until is not None and until <= program.step < last:
                self._save()
                return False
            if program.step % self.every == 0 or program.step in self.ends:
                self._check()
                if program.step == last or program.over():
                    break
            program.train(self._most(until))
            if self.forecast is not None:
                self.forecast.step(program.wait)
            if self._may_save():
                self._save()
            self.watch.update(program.done, program.name)
        self._save(finished=True)
        return True

    def _most(self, until: int | None) -> int:
        """How many steps there are to the next check, or to where training pauses."""
        step = self.program.step
        stops = [step - step % self.every + self.every, *(end for end in self.ends if end > step)]
        return min(stops if until is None or until <= step else [*stops, until]) - step

    def _check(self) -> None:
        started = time.monotonic()
        with doing("checking"):
            self.program.check(self._record)
        took = time.monotonic() - started
        self.program.seconds["check_seconds"] += took
        if self.forecast is not None:
            self.forecast.check(took)

    def _record(self, arm: str, measured: Record) -> None:
        record = {"arm": arm, "step": self.program.step, **measured}
        self.directory.append(record)
        if self.look is not None and arm not in self.seen:
            self.seen.add(arm)
            self.look(arm, record)
        if self.program.show is not None:
            self.watch.update(self.program.done, arm, record, self.program.show)

    def _may_save(self) -> bool:
        checked = (self.program.step - 1) % self.every == 0
        if self.processes.count > 1 and not checked and self.program.step % LOOK_EVERY:
            return False  # to agree takes its time
        return self.processes.agree(self.pace.due())

    def _save(self, finished: bool = False) -> None:
        started = time.monotonic()
        with doing("saving"):
            state = self.program.state(finished)
            self.processes.first(lambda: self.directory.save(state))
        self.pace.saved(time.monotonic() - started)


def step_in(state: StateDict, last: int) -> int:
    """The step at which a program goes on; ValueError unless it is one of its steps."""
    step = state["step"]
    if type(step) is not int or not 0 <= step <= last:
        raise ValueError(f"step {step} of {last}")
    return step
