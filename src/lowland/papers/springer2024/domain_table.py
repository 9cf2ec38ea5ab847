"""Errors by held-out domain: a row for each method, chosen by validation, over seeds."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from lowland.papers.paired import Unfit, below_zero, judged
from lowland.papers.springer2024.domain_settings import domain_names
from lowland.training import Arm, Row, Verdict
from lowland.training.statistics import paired_difference

METHODS = ("erm", "sam")
MEAN = "mean"
LEAST = 5  # seeds that a verdict takes
_CHOSEN_BY = ("selected_validation_error", "selected_validation_loss")
_ERROR = "selected_test_error"


def table(arms: Mapping[str, Arm]) -> list[Row]:
    """A row for each method: test error by held-out domain, and the mean over the domains of seeds that have them all.

    Of several arms of one method, domain and seed (in a sweep: several η or ρ) that with the lowest validation error
    counts, then with the lowest validation loss: training-domain validation, as the benchmark has it.
    """
    domains = _domains(arms)
    rows = []
    for method in METHODS:
        chosen = {domain: _chosen(arms, method, domain) for domain in domains}
        runs: dict[int, str] = {}
        measures: dict[str, dict[int, float]] = {}
        for domain, labels in chosen.items():
            measures[domain] = {seed: arms[label].records[-1][_ERROR] for seed, label in labels.items()}
            for seed, label in labels.items():
                runs[seed] = f"{runs[seed]}, {label}" if seed in runs else label
        shared = [seed for seed in runs if all(seed in errors for errors in measures.values())]
        mean = {seed: fmean(errors[seed] for errors in measures.values()) for seed in shared}
        rows.append(Row(method, runs, {**measures, MEAN: mean}))
    return rows


def _chosen(arms: Mapping[str, Arm], method: str, domain: str) -> dict[int, str]:
    """Seed → label."""
    best: dict[int, tuple[tuple[float, ...], str]] = {}
    for label, arm in arms.items():
        settings: Any = arm.settings
        if (METHODS[settings.rho > 0], settings.held_out) != (method, domain) or arm.status != "done":
            continue
        end = arm.records[-1]
        key = tuple(end[column] for column in _CHOSEN_BY)
        if None not in (*key, end[_ERROR]) and (settings.seed not in best or key < best[settings.seed][0]):
            best[settings.seed] = key, label
    return {seed: label for seed, (_, label) in best.items()}


def _domains(arms: Mapping[str, Arm]) -> list[str]:
    """Those that are held out, in the order of the dataset."""
    asked: list[Any] = [arm.settings for arm in arms.values()]
    names = dict.fromkeys(name for settings in asked for name in domain_names(settings.dataset))
    held_out = {settings.held_out for settings in asked}
    return [name for name in names if name in held_out]


@judged
def sam_below_erm(arms: Mapping[str, Arm]) -> Verdict:
    """The difference of the means over all domains, paired by seed."""
    settings: list[Any] = [arm.settings for arm in arms.values()]
    if len({each.dataset for each in settings}) > 1:
        raise Unfit("there are runs on several datasets: a claim is about one")
    lacking = [name for name in domain_names(settings[0].dataset) if name not in _domains(arms)]
    if lacking:
        raise Unfit(f"no run holds out {', '.join(lacking)}: the mean is over every domain")
    erm, sam = (row.measures[MEAN] for row in table(arms))
    found = paired_difference(sam, erm)
    if found is None:
        raise Unfit("no seed has runs of both methods, trained to their end, on every domain")
    return below_zero(found, LEAST)
