"""The paper's figures: probing error against ρ, Lorenz curves, feature quality over training."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from lowland.papers.claims import by_seed, last
from lowland.papers.figures import against_rho, over_epochs
from lowland.papers.springer2024.claims import selected, values
from lowland.papers.springer2024.domain_claims import DOMAIN_METHODS, MEAN, domain_table, measure_of
from lowland.papers.springer2024.methods import METHODS, SGD, method_of, toy_arm
from lowland.papers.springer2024.settings import TOY_RHOS
from lowland.training import Bars, Level, Line, Outcome, Panel, Plot, chance, over_seeds
from lowland.training.statistics import Estimate, estimate

_PROBES = (("easy_error", "easy feature"), ("hard_error", "hard feature"))
_LORENZ = (SGD, "lsam", "sam")


def _against_rho(outcomes: Mapping[str, Outcome], by_chance: Level) -> Sequence[Panel]:
    by_rho: dict[float, dict[str, Outcome]] = defaultdict(dict)
    for label, outcome in outcomes.items():
        by_rho[outcome.settings.rho][label] = outcome
    chosen = {rho: selected(by_rho[rho]) for rho in sorted(by_rho)}
    methods = [
        name for name in dict.fromkeys(method_of(outcome.settings) for outcome in outcomes.values()) if name != SGD
    ]
    measured, differences = list[Panel](), list[Panel]()
    for column, title in _PROBES:
        found = {
            method: {
                rho: values(by_rho[rho], runs[method], column) for rho, runs in chosen.items() if rho and method in runs
            }
            for method in methods
        }
        sgd = values(by_rho[0.0], chosen[0.0].get(SGD, {}), column) if 0.0 in chosen else {}
        panels = against_rho(title, "probing error", found, (SGD, sgd), (by_chance,))
        measured += panels[:1]
        differences += panels[1:]
    return [*measured, *differences]


def _lorenz(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    runs, panels = selected(outcomes), []
    for method in _LORENZ:
        ends = {seed: outcomes[label].records[-1] for seed, label in runs.get(method, {}).items()}
        ends = {seed: end for seed, end in ends.items() if "lorenz_real" in end}
        if not ends:
            continue
        lines = []
        for name in ("real", "phantom"):
            shares = {seed: end[f"lorenz_{name}"] for seed, end in ends.items()}
            fractions = np.linspace(0, 1, len(next(iter(shares.values())))).tolist()
            curves = {seed: dict(zip(fractions, share, strict=True)) for seed, share in shares.items()}
            lines.append(over_seeds(curves, f"{name} parameters"))
        even = Line([0, 1], [0, 1], "even", "--")
        panels.append(
            Panel(
                method, "fraction of the examples", "share of the weight", [*lines, even], against=["real parameters"]
            )
        )
    return panels


def feature_figures(kinds: Sequence[str], classes: int = 2) -> tuple[Plot, ...]:
    """What every experiment draws; ``kinds`` of arms are those that are drawn over epochs.

    ``classes``: of each feature, among which a probe could guess.
    """
    by_chance = chance(classes)
    probed: Mapping[str, Sequence[Level]] = {column: (by_chance,) for column, _ in _PROBES}
    return (
        Plot(
            "probing", "Probing error against ρ (0: SGD), mean over seeds with 95 % intervals",
            lambda outcomes: _against_rho(outcomes, by_chance), columns=2,
        ),
        Plot("lorenz", "Importance weights of the training examples, mean over seeds", _lorenz),
        over_epochs(
            "quality", "Feature quality over training", kinds,
            (("easy_error", "easy feature", "probing error", False),
             ("hard_error", "hard feature", "probing error", False),
             ("worst_group_error", "worst group", "error", False)),
            lambda outcomes: probed,
        ),
        over_epochs(
            "training", "Training", kinds,
            (("train_loss", "training", "loss", True), ("validation_error", "validation", "error", False),
             ("gini_real", "importance weights, real", "Gini coefficient", False),
             ("gini_phantom", "importance weights, phantom", "Gini coefficient", False)),
        ),
    )  # fmt: skip


def probe_curves(classes: int = 2) -> Plot:
    """The probing error against how many pairs the probe was fitted on, of the selected runs."""
    title = "Probing error against the probe's examples, mean over seeds with 95 % intervals"
    return Plot("probes", title, lambda outcomes: _curves(outcomes, chance(classes)), columns=2)


def _curves(outcomes: Mapping[str, Outcome], by_chance: Level) -> Sequence[Panel]:
    runs = selected(outcomes)
    drawn = [o for o in outcomes.values() if o.records and "seen_sizes" in o.records[0] and o.records[0]["step"] == 0]
    ends = {
        name: {seed: outcomes[label].records[-1] for seed, label in labels.items()} for name, labels in runs.items()
    }
    methods = {"as drawn": {outcome.settings.seed: outcome.records[0] for outcome in drawn}, **ends}
    panels = []
    for feature in ("hard", "easy"):
        for fitted_on, words in (("seen", "training images"), ("held_out", "held-out images")):
            lines = []
            for name, records in methods.items():
                curves = {
                    seed: dict(zip(record[f"{fitted_on}_sizes"], record[f"{fitted_on}_{feature}_errors"], strict=True))
                    for seed, record in records.items()
                    if f"{fitted_on}_sizes" in record
                }
                if curves:
                    lines.append(over_seeds(curves, name, "o-"))
            where = "pairs that the probe is fitted on"
            panels.append(
                Panel(f"{feature} feature, {words}", where, "probing error", lines, logx=True, levels=(by_chance,))
            )
    return panels


def ratio_against_rho(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    """What the last layer takes at the end against ρ, a line for each method; SGD is at ρ = 0."""
    done = {label: outcome for label, outcome in outcomes.items() if outcome.status == "done" and outcome.records}
    measured, differences = list[Panel](), list[Panel]()
    for column, title in (("ratio", "v_hard / v_easy"), ("hard_share", "share of the hard feature")):
        found = {
            method: {rho: seeds for rho in TOY_RHOS if (seeds := by_seed(done, toy_arm(method, rho), last(column)))}
            for method in METHODS
        }
        panels = against_rho("", title, found, (SGD, by_seed(done, SGD, last(column))), better="")
        measured += panels[:1]
        differences += panels[1:]
    return [*measured, *differences]


def domain_bars(outcomes: Mapping[str, Outcome]) -> Sequence[Bars]:
    """The means of `domain_table` as bars with standard errors; nothing without runs."""
    rows = [row for row in domain_table(outcomes) if row.runs]
    if not rows:
        return []
    found = {row.name: [estimate(list(values.values())) for values in row.measures.values()] for row in rows}
    if measure_of(outcomes) == "probe" and (constant := _constant(outcomes, list(rows[0].measures))):
        found["the most frequent class"] = constant
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


def _constant(outcomes: Mapping[str, Outcome], domains: Sequence[str]) -> list[Estimate | None]:
    """What naming the most frequent class of the domain comes to: by domain, and over all of them."""
    by_domain: dict[str, dict[int, float]] = defaultdict(dict)
    for outcome in outcomes.values():
        found = outcome.records[-1].get("constant_accuracy") if outcome.records else None
        if found is not None:
            by_domain[getattr(outcome.settings, "held_out", "")][outcome.settings.seed] = found
    if not by_domain:
        return []
    seeds = [seed for seed in next(iter(by_domain.values())) if all(seed in each for each in by_domain.values())]
    by_domain[MEAN] = {seed: fmean(each[seed] for each in by_domain.values()) for seed in seeds}
    return [estimate(list(by_domain[name].values())) for name in domains]


def domain_errors(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    """Of each seed means over the domains, of the steps at which all of them have records."""
    panels = []
    for column, heading in (("validation_error", "validation, training domains"), ("test_error", "held-out domain")):
        lines = []
        for method in DOMAIN_METHODS:
            by_domain: dict[int, list[dict[float, float]]] = defaultdict(list)
            for outcome in outcomes.values():
                if DOMAIN_METHODS[outcome.settings.rho > 0] == method and outcome.records:
                    found = {record["step"]: record[column] for record in outcome.records}
                    by_domain[outcome.settings.seed].append(found)
            curves = {
                seed: {
                    step: fmean(each[step] for each in several)
                    for step in several[0]
                    if all(step in e for e in several)
                }
                for seed, several in by_domain.items()
            }
            if curves:
                lines.append(over_seeds(curves, method))
        panels.append(Panel(heading, "step", "error", lines, against=[line.label for line in lines[:1]]))
    return panels
