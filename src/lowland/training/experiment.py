"""What an experiment is: settings, arms, a task to train, claims to judge, figures to draw. All of it data."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import InitVar, dataclass, field
from typing import Generic, TypeVar

import torch

from lowland.errors import SettingError, suggestion
from lowland.training import own
from lowland.training.claims import Claim, NoArmError, Undecidable, Verdict, asked_in_vain
from lowland.training.drawing import Curve, Figure, Plot
from lowland.training.outcome import Outcome
from lowland.training.selection import Selection
from lowland.training.settings import Settings, SettingValue, Value, repeated, resolve_arms
from lowland.training.table_row import TableRow
from lowland.training.task import Task, Together
from lowland.training.theirs import calling, file_of
from lowland.values import Json, Read

S = TypeVar("S", bound=Settings)
#: Of a grid: which settings take which values.
GridPart = Mapping[str, tuple[SettingValue, ...]]
#: The names of the scales, the shortest first.
SCALES = ("smoke", "laptop", "desk", "paper")
_NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")


@dataclass(frozen=True)
class TakenToDevice(Generic[S]):
    """An experiment's ``build``, as its ``prepare``: what it makes is taken to the device."""

    build: Callable[[S], Task]

    def __call__(self, settings: S, device: torch.device) -> Task:
        """The task of one arm on ``device``; SettingError if ``build`` gives something else."""
        task = self.build(settings)
        if not isinstance(task, Task):
            raise SettingError(
                f"{getattr(self.build, '__name__', 'build')} gives a {type(task).__name__} and not a task: let it "
                "return supervised(model, settings, train)"
            )
        return task.to(device)


@dataclass(frozen=True)
class Experiment(Generic[S]):
    """An experiment, of a paper or of one's own. It is pickled by where it stands (`lowland.training.registry`).

    An experiment of one's own needs ``settings`` and ``build``::

        Experiment(settings=defaults(lr=0.1, rho=0.05, steps=500), build=build)

    Whatever else it leaves out it has by `lowland.training.own`: arms ``sam`` and ``sgd``, a grid of η and ρ,
    curves, a table, and a selection by validation error, of the columns that `lowland.training.supervised` records.

    Attributes:
        name: ``paper/experiment``, or any words of letters, digits, dots and dashes with slashes between; one from a
            file has the file's name, and the variable's if the file has several, unless it says another.
        title: one line; by default the first sentence of the docstring of its file, if that has one experiment alone,
            else the name.
        paper: the reference, if there is one.
        datasets: names in `lowland.data`; empty where nothing needs to be fetched.
        settings: dataclass of its settings.
        scales: for each of `SCALES` the values; the smaller ones give only what differs from ``paper``. A scale may be
            missing but ``paper``: then it is refused. Values without an origin are ours; where the settings have
            ``defaults``, yours. Then these needn't be here, and all four scales are there.
        arms: what its claims compare: arm → the settings that make it.
        arm_notes: arm → which of these settings are ours, and why; for arms whose settings the paper doesn't state.
        grid: what a sweep of it covers, setting by setting. Runs that differ only in ``lr``, ``rho``, ``momentum``,
            ``weight_decay`` and ``seed`` must be the same program: those five reach nothing but the optimizer, the
            check, and what is drawn at random for initial weights and batches.
        more_grids: further grids, by name, each of one or several parts.
        claims: judged at the end; a smoke run judges none.
        figures: drawn at the end, the first one first.
        cost: what a run at each scale is expected to take, and on what.
        prepare: builds the task of one arm on a device.
        together: in place of ``prepare``: builds all arms as one program.
        digest: further entries for the metrics of a summary, from all outcomes.
        table: what a summary says beside its claims, of a run and of a sweep, and what is printed above them: rows of
            means over seeds, from all outcomes.
        selection: how a sweep chooses among the points of a grid.
        outcomes: what a sweep draws of its runs' last records.
        sweep_figures: what a sweep draws beside them: plots of its runs, by label.

    ``build``, in place of ``prepare``, is given the settings alone and builds the task on the CPU; training takes it to
    its device.

    Raises:
        ValueError: if it says in two ways, or in none, how it is trained; for a name that is no path of words; for
            settings without values; for a note on an arm that it doesn't have.
    """

    name: str = ""
    title: str = ""
    paper: str = ""
    datasets: tuple[str, ...] = ()
    settings: type[S] = Settings  # type: ignore[assignment]
    scales: Mapping[str, Mapping[str, Value | SettingValue]] = field(default_factory=dict)
    arms: Mapping[str, Mapping[str, SettingValue]] = field(default_factory=dict)
    arm_notes: Mapping[str, str] = field(default_factory=dict)
    grid: GridPart = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    figures: tuple[Figure | Plot, ...] = ()
    cost: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[S, torch.device], Task] | None = None
    together: Callable[[Mapping[str, S], torch.device], Together] | None = None
    digest: Callable[[Mapping[str, Outcome]], Mapping[str, Json]] | None = None
    table: Callable[[Mapping[str, Outcome]], Sequence[TableRow]] | None = None
    selection: Selection | None = None
    outcomes: tuple[Curve, ...] = ()
    sweep_figures: tuple[Plot, ...] = ()
    more_grids: Mapping[str, Sequence[GridPart]] = field(default_factory=dict)
    build: InitVar[Callable[[S], Task] | None] = None

    def __post_init__(self, build: Callable[[S], Task] | None) -> None:
        """Fill in what is left out, and refuse what doesn't go together."""
        if self.name and not _NAME.fullmatch(self.name):
            raise ValueError(f"an experiment is called by words with slashes between, not {self.name!r}")
        if build is not None and isinstance(self.prepare, TakenToDevice):
            self._set(prepare=None)  # `dataclasses.replace` hands on what was built with before
        ways = [way for way in (self.prepare, self.together, build) if way is not None]
        if len(ways) != 1:
            raise ValueError(f"{self.name or 'an experiment'} needs one of build, prepare and together")
        if self.settings.defaults:
            self._set(scales={**own.scales(self.settings.defaults), **self.scales})
        if "paper" not in self.scales:
            raise ValueError(f"{self.name or 'an experiment'} has no values for its settings: say settings=defaults(…)")
        if not self.arms:
            self._set(arms=own.ARMS)
        if unknown := [arm for arm in self.arm_notes if arm not in self.arms]:
            raise ValueError(f"{self.name or 'an experiment'} has a note on {unknown[0]}, which is none of its arms")
        if build is not None:
            self._set(
                prepare=TakenToDevice(build),
                grid=self.grid or own.grid(self.values("paper")),
                figures=self.figures or (own.CURVES,),
                table=self.table or own.rows,
                selection=self.selection or own.SELECTION,
                outcomes=self.outcomes or own.OUTCOMES,
            )
        self.call(self.name)

    def call(self, name: str, title: str = "") -> None:
        """Give it a name and a title, where it has none; without ``title`` that is the name."""
        own = "" if self.title == self.name else self.title
        self._set(name=self.name or name)
        self._set(title=own or title or self.name)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def task(self, settings: S, device: torch.device) -> Task:
        """The task of one arm; SettingError if there are none."""
        if self.prepare is None:
            raise SettingError(f"{self.name} trains all its runs as one program of its own")
        with self.calling("build"):
            return self.prepare(settings, device)

    def judge(self, claim: Claim, outcomes: Mapping[str, Outcome]) -> Verdict:
        """The verdict on one of its claims.

        Raises:
            ExperimentError: if its judge fails.
            SettingError: if it asks for a column or an arm that isn't there.
        """
        try:
            with self.calling(f"the claim {claim.id}", Undecidable):
                return claim.decide(outcomes)
        except KeyError as error:
            columns = _columns(outcomes)
            key = error.args[0] if error.args else None
            if not self.is_own or not isinstance(key, str) or key in columns or key in outcomes:
                raise
            raise asked_in_vain(claim, key, [] if isinstance(error, NoArmError) else columns, self.arms) from None

    def calling(self, what: str, *passing: type[Exception]) -> AbstractContextManager[None]:
        """Inside, functions of the experiment are called: see `lowland.training.theirs.calling`."""
        return calling(what, self.name, self._builds, passing)

    @property
    def is_own(self) -> bool:
        """Whether it is one of a user's own, and not of Lowland's papers."""
        return file_of(self._builds) is not None

    @property
    def _builds(self) -> object:
        built = self.prepare or self.together
        return built.build if isinstance(built, TakenToDevice) else built

    @property
    def grids(self) -> dict[str, list[dict[str, tuple[SettingValue, ...]]]]:
        """Every grid by name, as the parts that it is made of.

        The first is ``grid``: ``paper``, but ``own`` of an experiment of one's own.
        """
        first = "paper" if self.paper and not self.is_own else "own"
        return {first: [dict(self.grid)]} | {
            name: [dict(part) for part in parts] for name, parts in self.more_grids.items()
        }

    @property
    def scales_in_order(self) -> list[str]:
        """The scales that it has, the smallest first."""
        return [scale for scale in SCALES if scale in self.scales]

    def values(self, scale: str) -> dict[str, Value]:
        """Every setting's value at ``scale``, with its origin.

        Raises:
            SettingError: for an unknown scale, or one that this experiment doesn't have.
        """
        if scale in SCALES and scale not in self.scales:
            raise SettingError(f"{self.name} has no {scale} scale: choose {' or '.join(self.scales_in_order)}")
        if scale not in self.scales:
            raise SettingError(f"unknown scale {scale}.{suggestion(scale, self.scales)}")
        given = {**self.scales["paper"], **self.scales[scale]}
        origin = "yours" if self.settings.defaults else "ours"
        return {name: value if isinstance(value, Value) else Value(value, origin) for name, value in given.items()}

    def like(self, scale: str) -> list[str]:
        """The scales with the same settings as ``scale``, itself among them, the smallest first."""
        values = {each: {name: one.value for name, one in self.values(each).items()} for each in self.scales_in_order}
        return [each for each in values if values[each] == values[scale]]

    def configure(self, scale: str, changes: Mapping[str, Read]) -> dict[str, Settings]:
        """The settings of each arm at ``scale`` with the user's ``changes``; raises SettingError for bad ones."""
        values = {name: value.value for name, value in self.values(scale).items()}
        return repeated(resolve_arms(self.settings, values, self.arms_at(scale), changes))

    def arms_at(self, scale: str) -> Mapping[str, Mapping[str, SettingValue]]:
        """The settings that make each arm; at smoke scale those of an experiment of one's own are shorter, too."""
        if scale != "smoke" or not self.settings.defaults:
            return self.arms
        return own.shortened_arms(self.arms, self.values("paper"), self.values("smoke"))


def _columns(outcomes: Mapping[str, Outcome]) -> list[str]:
    """The columns of the last records, each once; of a grid's outcomes those that it has."""
    found = dict[str, None]()
    for name in outcomes:
        with suppress(Undecidable):
            found |= dict.fromkeys((outcomes[name].records or [{}])[-1])
    return list(found)
