"""Figures of measures over epochs and against ρ, a line for each kind of arm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lowland.training import Level, Line, Outcome, Panel, Plot, banded, over_seeds, repeats
from lowland.training.statistics import estimate, paired_difference

# A column of the records and how its panel is drawn: heading, label of the vertical axis, whether logarithmic.
PanelOf = tuple[str, str, str, bool]
# The arms → column → levels across its panel: what a paper reports.
LevelsOf = Callable[[Mapping[str, Outcome]], Mapping[str, Sequence[Level]]]
Seeds = Mapping[int, float]  # seed → value


def over_epochs(
    name: str, title: str, kinds: Sequence[str], columns: Sequence[PanelOf], levels: LevelsOf | None = None
) -> Plot:
    """A panel for each of ``columns``: of each kind of arm the mean over seeds; the kinds are compared with the first.

    ``levels``: what is drawn across them.
    """

    def panels(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
        across = levels(outcomes) if levels is not None else {}
        drawn = []
        for column, heading, label, log in columns:
            lines = [line for kind in kinds if (line := _line(outcomes, kind, column)) is not None]
            against = [line.label for line in lines[:1]]
            drawn.append(
                Panel(heading, "epoch", label, lines, logy=log, levels=across.get(column, ()), against=against)
            )
        return drawn

    return Plot(name, title, panels, columns=4 if len(columns) == 4 else 3)


def since(panel: Panel, first: float) -> Panel:
    """The part of a panel from x = ``first`` on."""

    def kept(line: Line) -> Line:
        there = [at for at, x in enumerate(line.x) if x is not None and x >= first]

        def part(values: Sequence[float | None]) -> list[float | None]:
            return [values[at] for at in there] if values else []

        seeds = {seed: part(values) for seed, values in line.seeds.items()}
        return replace(line, x=part(line.x), y=part(line.y), low=part(line.low), high=part(line.high), seeds=seeds)

    return replace(panel, lines=[kept(line) for line in panel.lines])


def _line(outcomes: Mapping[str, Outcome], kind: str, column: str) -> Line | None:
    found = [outcome for label, outcome in outcomes.items() if repeats(label, kind) and outcome.records]
    # A value that was not finite is None in the records.
    curves = {
        outcome.settings.seed: {r["epoch"]: r[column] for r in outcome.records if r.get(column) is not None}
        for outcome in found
    }
    return over_seeds(curves, kind) if any(curves.values()) else None


def against_rho(
    title: str,
    what: str,
    found: Mapping[str, Mapping[float, Seeds]],
    base: tuple[str, Seeds],
    levels: Sequence[Level] = (),
    better: str = "lower",
) -> list[Panel]:
    """A measure against ρ with 95 % intervals over seeds, and what each method does to it, paired by seed.

    Args:
        title: above both panels.
        what: is measured.
        found: method → ρ > 0 → the measure by seed.
        base: the name of ρ = 0 and its measure by seed: every method's point there.
        levels: across the first panel.
        better: see `Panel`.
    """
    without, at_zero = base
    lines, differences = list[Line](), list[Line]()
    for method, by_rho in found.items():
        means = {rho: estimate(list(seeds.values())) for rho, seeds in {0.0: at_zero, **by_rho}.items()}
        between = {rho: paired_difference(seeds, at_zero) for rho, seeds in by_rho.items()}
        for drawn, several in ((lines, means), (differences, between)):
            known = {rho: mean for rho, mean in several.items() if mean is not None}
            drawn += [banded(known, method)] if known else []
    mean = estimate(list(at_zero.values()))
    note = f"{without}: {mean.mean:.3g}" if mean is not None else ""
    measured = Panel(title, "ρ", what, lines, levels=levels, better=better, note=note)
    none = Level(0.0, "no difference", style="-", within=True)
    return [measured, Panel(title, "ρ", f"{what}\ndifference to {without}", differences, levels=(none,))]
