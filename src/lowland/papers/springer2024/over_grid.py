"""SAM against SGD at each ρ and η of a grid, paired by seed, with a correction for looking at several, and a trend.

Where validation errors of all runs are almost 0, selection by them is a coin toss among runs. So beside the selected
runs stand all settings: of each the mean difference over the seeds to SGD at the same η, its two-sided p-value of a
t-test, and that by Holm's correction (Holm 1979, *A simple sequentially rejective multiple test procedure*).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lowland.papers.paired import Unfit, below_zero, judged
from lowland.papers.springer2024.methods import SGD, method_of, values, varied
from lowland.training import Arm, Panel, Verdict, banded
from lowland.training.statistics import Estimate, estimate, holm, paired_difference, slope

LEAST_SEEDS = 5
LEVEL = 0.05


@dataclass(frozen=True)
class Setting:
    """SAM − SGD at one step size and radius; ``p`` two-sided and ``corrected`` by Holm over all settings."""

    lr: float
    rho: float
    difference: Estimate
    p: float
    corrected: float


def settings_of(arms: Mapping[str, Arm], column: str = "hard_error", method: str = "sam") -> list[Setting]:
    """Every setting of ``method`` that has two seeds or more in common with SGD at the same η.

    Raises:
        Unfit: if more varies than η, ρ, method and seed.
    """
    if others := varied(arms):
        raise Unfit(f"more varies than what is compared: {', '.join(sorted(others))}")
    runs: dict[tuple[str, float, float], dict[int, str]] = defaultdict(dict)
    for label, arm in arms.items():
        if arm.status == "done" and arm.records:
            of = method_of(arm.settings)
            runs[of, arm.settings.lr, 0.0 if of == SGD else arm.settings.rho][arm.settings.seed] = label
    found = []
    for (of, lr, rho), labels in sorted(runs.items()):
        if of != method or (SGD, lr, 0.0) not in runs:
            continue
        difference = paired_difference(values(arms, labels, column), values(arms, runs[SGD, lr, 0.0], column))
        if difference is not None and difference.standard_error is not None:
            assert difference.p is not None
            found.append((lr, rho, difference, difference.p))
    corrected = holm([p for *_, p in found])
    return [Setting(*each, by_holm) for each, by_holm in zip(found, corrected, strict=True)]


@judged
def at_some_setting(arms: Mapping[str, Arm]) -> Verdict:
    """Whether SAM's error is below SGD's at a setting, corrected for all of them.

    The measured value is the mean difference where the corrected p-value is lowest. True if there is a setting with a
    mean below 0 and a corrected p-value of at most `LEVEL`; false if there is one above 0 and none below; else null.
    """
    found = settings_of(arms)
    if not found:
        raise Unfit("there is no step size with two seeds or more of both SAM and SGD")
    best = min(found, key=lambda each: (each.corrected, each.difference.mean))
    told = [each for each in found if each.corrected <= LEVEL]
    below, above = ([each for each in told if sign * each.difference.mean > 0] for sign in (-1, 1))
    reason = (
        f"{len(found)} settings: below at {len(below)}, above at {len(above)}; lowest corrected p {best.corrected:.2g} "
        f"at η = {best.lr:g}, ρ = {best.rho:g}"
    )
    if min(each.difference.n for each in found) < LEAST_SEEDS:
        return Verdict(best.difference.mean, None, f"it takes {LEAST_SEEDS} seeds at every setting; {reason}")
    return Verdict(best.difference.mean, True if below else False if above else None, reason)


@judged
def trend(arms: Mapping[str, Arm]) -> Verdict:
    """Whether the probing error falls with ρ: the slope of its least-squares line, SGD at ρ = 0 included.

    A slope for each seed, of the errors' means over the step sizes at each ρ; over the seeds an interval.
    """
    if others := varied(arms):
        raise Unfit(f"more varies than what is compared: {', '.join(sorted(others))}")
    errors: dict[int, dict[float, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for arm in arms.values():
        if arm.status == "done" and arm.records and method_of(arm.settings) in (SGD, "sam"):
            value = arm.records[-1].get("hard_error")
            if value is not None:
                errors[arm.settings.seed][arm.settings.rho][arm.settings.lr] = float(value)
    rhos = {rho for of_seed in errors.values() for rho in of_seed}
    if len(rhos) < 3:
        raise Unfit("a trend takes three values of ρ")
    lrs = {lr for of_seed in errors.values() for of_rho in of_seed.values() for lr in of_rho}
    whole = {
        seed: {rho: fmean(of_rho.values()) for rho, of_rho in of_seed.items()}
        for seed, of_seed in errors.items()
        if set(of_seed) == rhos and all(set(of_rho) == lrs for of_rho in of_seed.values())
    }
    found = estimate([slope(of_seed) for of_seed in whole.values()])
    if found is None:
        raise Unfit("no seed has a run of every setting")
    return below_zero(found, LEAST_SEEDS)


def differences(arms: Mapping[str, Arm]) -> Sequence[Panel]:
    """A panel for each feature: SAM − SGD against ρ with its 95 % interval, a line for each η."""
    panels = []
    for column, title in (("hard_error", "hard feature"), ("easy_error", "easy feature")):
        try:
            found = settings_of(arms, column)
        except Unfit:
            return []
        lines = []
        for lr in dict.fromkeys(each.lr for each in found):
            lines.append(banded({each.rho: each.difference for each in found if each.lr == lr}, f"η = {lr:g}"))
        if lines:
            panels.append(Panel(title, "ρ", "probing error, SAM − SGD", lines))
    return panels
