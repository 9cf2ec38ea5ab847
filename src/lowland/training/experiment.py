"""What an experiment is: settings, arms, a task to train, claims to judge, figures to draw. All of it data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from lowland.errors import SettingError, suggestion
from lowland.training.claims import Claim
from lowland.training.drawing import Curve, Figure, Plot
from lowland.training.outcome import Outcome
from lowland.training.settings import Settings, SettingValue, Value, repeated, resolve_arms
from lowland.training.statistics import estimate
from lowland.training.task import Task, Together
from lowland.values import Json, Read

S = TypeVar("S", bound=Settings)
#: Of a grid: which settings take which values.
GridPart = Mapping[str, tuple[SettingValue, ...]]
SCALES = ("smoke", "laptop", "desk", "paper")


@dataclass(frozen=True)
class TableRow:
    """A row of an experiment's table: runs of one kind over several seeds.

    Attributes:
        name: of the kind.
        runs: seed → label of the run.
        measures: name → seed → value; a seed without a finite value is left out.
    """

    name: str
    runs: Mapping[int, str]
    measures: Mapping[str, Mapping[int, float]]

    def entry(self) -> dict[str, Json]:
        """For a summary: of each measure the mean, its standard error, n, and the value of each seed."""
        return {
            "name": self.name,
            "runs": dict(self.runs),
            "measures": {
                name: {**found.entry(), "by_seed": dict(values)}
                for name, values in self.measures.items()
                if (found := estimate(list(values.values()))) is not None
            },
        }


@dataclass(frozen=True)
class Selection:
    """How the best settings of a grid are found: the lowest mean over the seeds of a final metric.

    Attributes:
        metric: the column of the records that is to be small.
        on: what data it is measured on: ``"validation"``, or ``"training"`` where an experiment holds nothing out.
            Never test data.
        ties: the column that decides between equals.
        test: the column that is reported of the selected settings, and by which nothing is selected.

    Raises:
        ValueError: for other data, or a column whose name says that it is of test data.
    """

    metric: str
    on: str
    ties: str | None = None
    test: str | None = None

    def __post_init__(self) -> None:
        """Refuse to select by test data."""
        if self.on not in ("validation", "training"):
            raise ValueError(f"settings are selected on validation or training data, not on {self.on!r}")
        for column in (self.metric, self.ties or ""):
            if column.lower().startswith("test"):
                raise ValueError(f"{column} is of test data, by which nothing may be selected")


@dataclass(frozen=True)
class Experiment(Generic[S]):
    """An experiment of a paper. It is pickled by its name (`lowland.training.registry`).

    Attributes:
        name: ``paper/experiment``.
        title: one line.
        paper: the reference.
        datasets: names in `lowland.data`; empty where nothing needs to be fetched.
        settings: dataclass of its settings.
        scales: for each of `SCALES` the values; the smaller ones give only what differs from ``paper``. A scale may be
            missing but ``paper``: then it is refused.
        arms: what its claims compare: arm → the settings that make it.
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
    """

    name: str
    title: str
    paper: str
    datasets: tuple[str, ...]
    settings: type[S]
    scales: Mapping[str, Mapping[str, Value]]
    arms: Mapping[str, Mapping[str, SettingValue]]
    grid: GridPart
    claims: tuple[Claim, ...]
    figures: tuple[Figure | Plot, ...]
    cost: Mapping[str, str]
    prepare: Callable[[S, torch.device], Task] | None = None
    together: Callable[[Mapping[str, S], torch.device], Together] | None = None
    digest: Callable[[Mapping[str, Outcome]], Mapping[str, Json]] | None = None
    table: Callable[[Mapping[str, Outcome]], Sequence["TableRow"]] | None = None
    selection: Selection | None = None
    outcomes: tuple[Curve, ...] = ()
    sweep_figures: tuple[Plot, ...] = ()
    more_grids: Mapping[str, Sequence[GridPart]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an experiment that says in two ways, or in none, how it is trained."""
        if (self.prepare is None) == (self.together is None):
            raise ValueError(f"{self.name} needs either prepare or together")

    def task(self, settings: S, device: torch.device) -> Task:
        """The task of one arm; SettingError if there are none."""
        if self.prepare is None:
            raise SettingError(f"{self.name} trains all its runs as one program of its own")
        return self.prepare(settings, device)

    @property
    def grids(self) -> dict[str, list[dict[str, tuple[SettingValue, ...]]]]:
        """Every grid by name, ``paper`` first, as the parts that it is made of."""
        return {"paper": [dict(self.grid)]} | {
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
        return {**self.scales["paper"], **self.scales[scale]}

    def configure(self, scale: str, changes: Mapping[str, Read]) -> dict[str, Settings]:
        """The settings of each arm at ``scale`` with the user's ``changes``; raises SettingError for bad ones."""
        values = {name: value.value for name, value in self.values(scale).items()}
        return repeated(resolve_arms(self.settings, values, self.arms, changes))
