"""How long a run will take, from its first steps: one line, and another where a new kind of arm says otherwise."""

import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from itertools import accumulate
from statistics import fmean

from lowland.training.drive import Program
from lowland.training.settings import Settings, values_of

STEPS = 20  # of each kind of arm that are timed
PATIENCE = 60.0  # seconds after which fewer steps must do
SHORT = 60.0  # a run of fewer seconds needs no forecast
CHANGED = 0.25  # a forecast that differs by less from the one before isn't told


def passes(rho: float | None) -> int:
    """What a step is taken to cost before one was seen, in passes: SAM has two where ρ = 0 has one."""
    return 2 if rho else 1


def costs(arms: Collection[Settings]) -> Callable[[int], float]:
    """Steps that were done, where ``arms`` are trained one after the other → the passes that they had, by `passes`."""
    ends = [0, *accumulate(settings.steps for settings in arms)]
    passes_at = [0, *accumulate(settings.steps * passes(settings.rho) for settings in arms)]
    each = [*(passes(settings.rho) for settings in arms), 0]

    def of(steps: int) -> float:
        arm = bisect_right(ends, steps) - 1
        return passes_at[arm] + (steps - ends[arm]) * each[arm]

    return of


def duration(seconds: float) -> str:
    """A time in words: ``"74 minutes"``, ``"90 s"``."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"


class Forecast:
    """Times the first steps of each kind of arm, and its checks.

    Arms that differ in their seed alone are of one kind. What a kind costs that hasn't been seen yet is taken from the
    others by `passes`.

    Args:
        arms: name → settings, in the order in which they are trained.
        say: prints a line.
        clock: in seconds.
    """

    def __init__(
        self, arms: Mapping[str, Settings], say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ):
        self._arms, self._say, self._clock = arms, say, clock
        self._kinds = {name: _kind(settings) for name, settings in arms.items()}
        self._steps, self._checks = dict[str, float](), dict[str, float]()  # seconds of one, by kind
        self._ends: float | None = None  # by the clock, as told before
        self._from = dict.fromkeys(arms, 0)

    def begin(self, name: str, step: int) -> None:
        """The arm ``name`` goes on at ``step``."""
        self._name, self._from[name] = name, step
        self._count, self._mark, self._checked = 0, 0.0, 0.0

    def check(self, seconds: float) -> None:
        """A check of the arm took so long."""
        self._checks[self._kinds[self._name]] = seconds
        self._checked += seconds

    def step(self, wait: Callable[[], object]) -> None:
        """The arm has made a step; ``wait`` waits until the device has, too. The first one is warming up."""
        kind = self._kinds[self._name]
        if kind in self._steps:
            return
        self._count += 1
        if self._count == 1:
            wait()
            self._mark, self._checked = self._clock(), 0.0
            return
        took = self._clock() - self._mark - self._checked
        if self._count < STEPS and took < PATIENCE:
            return
        wait()
        self._steps[kind] = (self._clock() - self._mark - self._checked) / (self._count - 1)
        self._tell()

    def end(self, name: str) -> None:
        """The arm ``name`` is trained."""
        self._from[name] = self._arms[name].steps + 1

    def left(self) -> float:
        """Seconds that are left, by the kinds of arms that have been seen; it takes one."""
        a_pass = fmean(seconds / passes(self._of(kind).rho) for kind, seconds in self._steps.items())
        a_check = fmean(self._checks.values()) if self._checks else 0.0
        total = 0.0
        for name, settings in self._arms.items():
            kind, done = self._kinds[name], self._from[name] + (self._count if name == self._name else 0)
            steps = max(0, settings.steps - done)
            checks = sum(1 for step in _checked(settings) if step >= done)
            total += steps * self._steps.get(kind, a_pass * passes(settings.rho))
            total += checks * self._checks.get(kind, a_check)
        return total

    def _of(self, kind: str) -> Settings:
        return next(settings for name, settings in self._arms.items() if self._kinds[name] == kind)

    def _tell(self) -> None:
        left, now = self.left(), self._clock()
        before = None if self._ends is None else self._ends - now
        if left < SHORT or (before is not None and abs(left - before) <= CHANGED * max(left, before)):
            return
        more = "" if before is None and not any(self._from.values()) else " more"
        self._ends = now + left
        self._say(f"about {duration(left)}{more}, from the first {self._count} steps of {self._name}")


class ForecastTogether:
    """Says once how long a program of all arms will take: from the first steps that took as long as a look.

    But for those before the first look, which are warming up.

    Args:
        program: where it begins.
        look: in seconds.
        say: prints a line.
    """

    def __init__(self, program: Program, look: float, say: Callable[[str], None]):
        self._program, self._look, self._say = program, look, say
        self._began, self._checks = program.step, list[float]()
        self._mark: tuple[int, float] | None = None  # the step and the seconds of training at the first look
        self._told = False

    def check(self, seconds: float) -> None:
        """A check took so long."""
        self._checks.append(seconds)

    def step(self, wait: Callable[[], object]) -> None:
        """The program has made some steps."""
        made, took = self._program.step, self._program.seconds["train_seconds"]
        if self._mark is None:
            self._mark = made, took
        steps, seconds = made - self._mark[0], took - self._mark[1]
        if self._told or seconds < self._look:
            return
        self._told = True
        settings = list(self._program.arms.values())
        last, every = max(each.steps for each in settings), settings[0].check_every
        checks = fmean(self._checks) * ((last - made) // every + 1) if self._checks else 0.0
        left = seconds / steps * (last - made) + checks
        if left >= SHORT:
            more = " more" if self._began else ""
            self._say(
                f"about {duration(left)}{more}, from the first {made - self._began} steps of {len(settings)} runs"
            )


def _kind(settings: Settings) -> str:
    return repr({name: value for name, value in values_of(settings).items() if name != "seed"})


def _checked(settings: Settings) -> list[int]:
    """The steps at which an arm is checked."""
    return [*range(0, settings.steps, settings.check_every), settings.steps]
