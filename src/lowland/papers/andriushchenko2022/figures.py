"""The figures of the paper's experiments on images."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from lowland.papers.andriushchenko2022.methods import METHODS, by_rho, method
from lowland.papers.figures import LevelsOf, over_epochs
from lowland.training import Level, Line, Outcome, Panel, Plot, over_seeds
from lowland.training.statistics import estimate

_STYLES = (":", "--")  # of several levels of one colour


def network_figures(kinds: Sequence[str]) -> tuple[Plot, ...]:
    """The figures of every experiment on images: errors, losses and sharpness over epochs, for each kind of arm."""
    return (
        over_epochs(
            "error", "Errors", kinds,
            (("test_error", "test", "error", False), ("averaged_test_error", "test, averaged weights", "error", False),
             ("train_error", "training", "error", False)),
        ),
        over_epochs(
            "loss", "Cross-entropy", kinds,
            (("train_loss", "training", "loss", True), ("test_loss", "test", "loss", True)),
        ),
        over_epochs(
            "sharpness", "Sharpness on training images", kinds,
            (("sharpness", "one step", "rise of the loss", True),
             ("sharpness_20", "20 steps", "rise of the loss", True),
             ("cosine", "gradients at w and at w + ε", "cosine", False)),
        ),
    )  # fmt: skip


LEAST_RHO, LARGEST_RHO = 0.025, 100.0  # of the paper's figure 1


def read(kind: str, errors: Mapping[float, float]) -> Line:
    """The paper's line of a method; ``errors``: ρ → test error in %."""
    return Line(list(errors), list(errors.values()), METHODS[kind], "o-")


def read_between(kind: str, low: float, high: float, until: float) -> Line:
    """A band, where the paper's test errors in % lie ``until`` that ρ."""
    middle, name = (low + high) / 2, METHODS[kind]
    return Line(
        [LEAST_RHO, until], [middle] * 2, f"{name}: {low:g} to {high:g}", ":", low=[low] * 2, high=[high] * 2, tint=name
    )


def figure_1(dataset: str, erm: float, lines: Sequence[Line], levels: Sequence[Level] = (), note: str = "") -> Plot:
    """Test error against ρ, a line for each method, ERM across; and beside it the paper's figure, as far as it is read.

    Ours have 95 % intervals of the mean over seeds. Smaller networks err more by far, so that each has axes of its own.

    Args:
        dataset: as people write it.
        erm: the paper's test error of ERM, in %.
        lines: the paper's of other methods, in %.
        levels: what of them is known at no ρ of its own.
        note: what else the paper's figure shows.
    """
    across = Line([LEAST_RHO, LARGEST_RHO], [erm] * 2, METHODS["erm"])
    theirs = Panel(
        f"{dataset}, the paper, read by eye", "ρ", "the paper's test error (%)", [*lines, across], logx=True,
        levels=levels, note=note,
    )  # fmt: skip

    def panels(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
        found = [line for kind in METHODS if kind != "erm" and (line := _against_rho(outcomes, kind))]
        if not any(len(line.x) > 1 for line in found):
            return []
        every = sorted({rho for line in (*found, *theirs.lines) for rho in line.x if rho is not None})
        if errors := _errors([outcome for outcome in outcomes.values() if method(outcome) == "erm"]):
            found.append(over_seeds({seed: dict.fromkeys(every, at) for seed, at in errors.items()}, METHODS["erm"]))
        ours = Panel(
            dataset, "ρ", "test error (%)", found, logx=True, against=[METHODS["erm"]], better="lower",
        )  # fmt: skip
        return [ours, theirs]

    return Plot("figure-1", f"{dataset}: test error against ρ", panels, columns=2)


def against_m(dataset: str) -> Plot:
    """Test and training error against m at one ρ, and ERM's as a level."""

    def panels(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
        sams: dict[int, list[Outcome]] = {}
        for outcome in outcomes.values():
            if method(outcome) == "sam":
                sams.setdefault(getattr(outcome.settings, "m", 0), []).append(outcome)
        if len(sams) < 2 or len({outcome.settings.rho for runs in sams.values() for outcome in runs}) > 1:
            return []
        erms = [outcome for outcome in outcomes.values() if method(outcome) == "erm"]
        drawn = []
        for column, label in (("test_error", "test error (%)"), ("train_error", "training error (%)")):
            found = {float(m): _errors(runs, column) for m, runs in sorted(sams.items())}
            level = estimate(list(_errors(erms, column).values()))
            levels = (Level(level.mean, "ERM, ours"),) if level else ()
            whole = max(sams) >= min(getattr(outcome.settings, "batch_size", 0) for outcome in outcomes.values())
            drawn.append(
                Panel(
                    dataset,
                    "m",
                    label,
                    [_marked(found, "SAM")],
                    logx=True,
                    levels=levels,
                    better="" if whole else "lower",
                )
            )
        return drawn

    return Plot("against-m", f"{dataset}: error against m", panels)


def _against_rho(outcomes: Mapping[str, Outcome], kind: str) -> Line | None:
    found = {rho: _errors(runs) for rho, runs in by_rho(outcomes, kind).items()}
    return _marked(found, METHODS[kind]) if any(found.values()) else None


def _marked(found: Mapping[float, Mapping[int, float]], label: str) -> Line:
    """A line of points, of x → seed → y."""
    seeds = dict.fromkeys(seed for values in found.values() for seed in values)
    curves = {seed: {x: values[seed] for x, values in found.items() if seed in values} for seed in seeds}
    return over_seeds(curves, label, "o-", some=True)


def _errors(outcomes: Sequence[Outcome], column: str = "test_error") -> dict[int, float]:
    """In % by seed, of the runs that ended."""
    return {
        outcome.settings.seed: 100 * outcome.records[-1][column]
        for outcome in outcomes
        if outcome.status == "done" and outcome.records
    }


def reported(values: Mapping[str, Mapping[str, Sequence[tuple[str, str, float]]]]) -> LevelsOf:
    """Levels of what the paper reports of the arms' dataset; those of one kind differ in style.

    ``values``: dataset → column of the records → kind of arm, label, value in %.
    """

    def levels(outcomes: Mapping[str, Outcome]) -> dict[str, list[Level]]:
        found = {getattr(outcome.settings, "dataset", "cifar-10") for outcome in outcomes.values()}
        columns = values[found.pop()] if len(found) == 1 else {}
        labels: dict[str, dict[str, None]] = defaultdict(dict)
        for kind, label, _ in (each for several in columns.values() for each in several):
            labels[kind][label] = None
        styles = {label: style for of in labels.values() for label, style in zip(of, _STYLES, strict=False)}
        return {
            column: [Level(value / 100, label, kind, styles[label]) for kind, label, value in several]
            for column, several in columns.items()
        }

    return levels
