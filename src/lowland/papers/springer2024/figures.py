"""The paper's figures: probing error against ρ, Lorenz curves, feature quality over training."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from lowland.papers.claims import by_seed, last
from lowland.papers.figures import over_epochs
from lowland.papers.springer2024.claims import selected, values
from lowland.papers.springer2024.domain_claims import DOMAIN_METHODS, domain_table, measure_of
from lowland.papers.springer2024.methods import METHODS, SGD, method_of, toy_arm
from lowland.papers.springer2024.settings import TOY_RHOS
from lowland.training import Bars, Line, Outcome, Panel, Plot
from lowland.training.statistics import estimate

_PROBES = (("easy_error", "easy feature"), ("hard_error", "hard feature"))
_MOST = 20  # seeds whose differences are drawn one by one
_LORENZ = (SGD, "lsam", "sam")


def _against_rho(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    by_rho: dict[float, dict[str, Outcome]] = defaultdict(dict)
    for label, outcome in outcomes.items():
        by_rho[outcome.settings.rho][label] = outcome
    chosen = {rho: selected(by_rho[rho]) for rho in sorted(by_rho)}
    methods = dict.fromkeys(method_of(outcome.settings) for outcome in outcomes.values())
    panels = []
    for column, title in _PROBES:
        lines = []
        for method in methods:
            points = [
                (rho, fmean(found))
                for rho, runs in chosen.items()
                # SGD is every method's point at ρ = 0.
                if (of := runs.get(SGD if rho == 0 else method)) and (found := values(by_rho[rho], of, column).values())
            ]
            if points:
                rhos, errors = zip(*points, strict=True)
                lines.append(Line(rhos, errors, method, "o" if len(points) == 1 else "o-"))
        panels.append(Panel(title, "ρ", "probing error", lines))
    return panels


def _lorenz(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    runs, panels = selected(outcomes), []
    for method in _LORENZ:
        ends = [outcomes[label].records[-1] for label in runs.get(method, {}).values()]
        ends = [end for end in ends if "lorenz_real" in end]
        if not ends:
            continue
        fractions = np.linspace(0, 1, len(ends[0]["lorenz_real"])).tolist()
        lines = [
            Line(fractions, np.mean([end[f"lorenz_{name}"] for end in ends], 0).tolist(), label)
            for name, label in (("real", "real parameters"), ("phantom", "phantom parameters"))
        ]
        even = Line([0, 1], [0, 1], "even", "--")
        panels.append(Panel(method, "fraction of the examples", "share of the weight", [*lines, even]))
        gaps = [np.subtract(end["lorenz_phantom"], end["lorenz_real"]) for end in ends]
        of_seeds = [Line(fractions, gap.tolist(), beside="phantom − real") for gap in gaps[:_MOST]]
        mean = Line(fractions, np.mean(gaps, 0).tolist(), "phantom − real")
        panels.append(
            Panel(f"{method}: difference", "fraction of the examples", "share of the weight", [*of_seeds, mean])
        )
    return panels


def feature_figures(kinds: Sequence[str]) -> tuple[Plot, ...]:
    """What every experiment draws; ``kinds`` of arms are those that are drawn over epochs."""
    return (
        Plot("probing", "Probing error against ρ, mean over seeds", _against_rho),
        Plot("lorenz", "Importance weights of the training examples, mean over seeds", _lorenz, columns=2),
        over_epochs(
            "quality", "Feature quality over training", kinds,
            (("easy_error", "easy feature", "probing error", False),
             ("hard_error", "hard feature", "probing error", False),
             ("worst_group_error", "worst group", "error", False)),
        ),
        over_epochs(
            "training", "Training", kinds,
            (("train_loss", "training", "loss", True), ("validation_error", "validation", "error", False),
             ("gini_real", "importance weights, real", "Gini coefficient", False),
             ("gini_phantom", "importance weights, phantom", "Gini coefficient", False)),
        ),
    )  # fmt: skip


def _curves(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    """The probing error against how many pairs the probe was fitted on, mean over the selected runs."""
    runs = selected(outcomes)
    drawn = [r for outcome in outcomes.values() for r in outcome.records[:1] if "seen_sizes" in r and r["step"] == 0]
    ends = {name: [outcomes[label].records[-1] for label in labels.values()] for name, labels in runs.items()}
    panels = []
    for feature, title in (("hard", "hard feature"), ("easy", "easy feature")):
        lines = []
        for name, records in {"as drawn": drawn, **ends}.items():
            for fitted_on, style in (("seen", "o-"), ("held_out", "s--")):
                found = [record for record in records if f"{fitted_on}_sizes" in record]
                if found:
                    errors = np.mean([record[f"{fitted_on}_{feature}_errors"] for record in found], 0).tolist()
                    words = "training images" if fitted_on == "seen" else "held out"
                    lines.append(Line(found[0][f"{fitted_on}_sizes"], errors, f"{name}, {words}", style))
        if lines:
            panels.append(Panel(title, "pairs that the probe is fitted on", "probing error", lines, logx=True))
    return panels


PROBE_CURVES = Plot("probes", "Probing error against the examples of the probe, mean over seeds", _curves)


def ratio_against_rho(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    """What the last layer takes at the end against ρ, mean over seeds, a line for each method; SGD is at ρ = 0."""
    done = {label: outcome for label, outcome in outcomes.items() if outcome.status == "done" and outcome.records}
    panels = []
    for column, title in (("ratio", "v_hard / v_easy"), ("hard_share", "share of the hard feature")):
        lines = []
        for method in METHODS:
            kinds = {0.0: SGD, **{rho: toy_arm(method, rho) for rho in TOY_RHOS}}
            found = {rho: by_seed(done, kind, last(column)).values() for rho, kind in kinds.items()}
            points = {rho: fmean(values) for rho, values in found.items() if values}
            if points:
                lines.append(Line(list(points), list(points.values()), method, "o-"))
        panels.append(Panel(title, "ρ", title, lines))
    return panels


def domain_bars(outcomes: Mapping[str, Outcome]) -> Sequence[Bars]:
    """The means of `domain_table` as bars with standard errors; nothing without runs."""
    rows = [row for row in domain_table(outcomes) if row.runs]
    if not rows:
        return []
    found = {row.name: [estimate(list(values.values())) for values in row.measures.values()] for row in rows}
    return [
        Bars(
            "",
            "held-out domain",
            "accuracy of the probe" if measure_of(outcomes) == "probe" else "test error",
            list(rows[0].measures),
            {name: [each.mean if each else None for each in several] for name, several in found.items()},
            {name: [each.standard_error if each else None for each in several] for name, several in found.items()},
        )
    ]


def domain_errors(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    """Means over seeds and domains of the steps at which all of them have records."""
    panels = []
    for column, heading in (("validation_error", "validation, training domains"), ("test_error", "held-out domain")):
        lines = []
        for method in DOMAIN_METHODS:
            curves = [
                {record["step"]: record[column] for record in outcome.records}
                for outcome in outcomes.values()
                if DOMAIN_METHODS[outcome.settings.rho > 0] == method and outcome.records
            ]
            steps = sorted(set.intersection(*map(set, curves))) if curves else []
            if steps:
                lines.append(Line(steps, [fmean(curve[step] for curve in curves) for step in steps], method))
        panels.append(Panel(heading, "step", "error", lines))
    return panels
