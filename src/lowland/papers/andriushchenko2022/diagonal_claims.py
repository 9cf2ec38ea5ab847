"""The claims about diagonal linear networks.

The paper says "orders of magnitude" and "almost all"; what they shall mean here is ours.
"""

import math
from collections.abc import Callable, Mapping

from lowland.papers.andriushchenko2022.diagonal_runs import (
    FIGURE_6,
    LONG,
    RUNS,
    arm_name,
    final_loss,
    gd_like,
)
from lowland.training import Claim, Outcome, Reference, Verdict

_FITTED = 1e-12  # figure 6's runs end below that training loss
_SOURCE = "the section on diagonal linear networks"
_FIGURE = "figure 6, read by eye"


def _best_ratio(
    gd: str, radii: Mapping[float, str], passes: Callable[[float], bool]
) -> Callable[[Mapping[str, Outcome]], Verdict]:
    """The best test loss of some ``radii``, by arm, over that of gradient descent with the same step size and α."""

    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        reference = final_loss(outcomes, gd)
        losses = [final_loss(outcomes, arm) for arm in radii.values()]
        finite = [loss for loss in losses if loss is not None]
        if not reference or not finite:
            return Verdict(None, None, f"{gd} diverged" if not reference else "every radius diverged")
        measured = min(finite) / reference
        return Verdict(measured, passes(measured))

    return judge


def _in_setting(group: str, method: str, passes: Callable[[float], bool]) -> Callable[[Mapping[str, Outcome]], Verdict]:
    radii = {rho: arm_name(group, method, rho) for rho in RUNS[group][method][2]}
    return _best_ratio(gd_like(group, method), radii, passes)


def _fitted(outcomes: Mapping[str, Outcome], name: str) -> bool:
    loss = final_loss(outcomes, name, "train_loss")
    return loss is not None and loss < _FITTED


def _in_figure_6(method: str, passes: Callable[[float], bool]) -> Callable[[Mapping[str, Outcome]], Verdict]:
    """As in the settings, of the radii with which the training loss ends where the figure's does."""
    names = {rho: arm_name(LONG, method, rho) for rho in FIGURE_6[2]}

    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        fitted = {rho: name for rho, name in names.items() if _fitted(outcomes, name)}
        if not fitted:
            return Verdict(None, None, f"with no radius the training loss of {method} ends below {_FITTED:g}")
        return _best_ratio(f"{LONG}-gd", fitted, passes)(outcomes)

    return judge


def _too_short(outcomes: Mapping[str, Outcome]) -> str:
    """Why the runs of figure 6 don't reach the figure's regime: gradient descent hasn't fitted the data."""
    loss = final_loss(outcomes, f"{LONG}-gd", "train_loss")
    if loss is None or loss < _FITTED:
        return ""
    return f"gradient descent's training loss is {loss:.1e}, and the figure's runs end below {_FITTED:g}"


def _recovered(outcomes: Mapping[str, Outcome]) -> Verdict:
    losses = [final_loss(outcomes, f"switch-{name}") for name in ("gd", "1-sam", "gd-to-1-sam")]
    if not all(losses):
        return Verdict(None, None, "one of the runs diverged")
    gd, sam, switched = (math.log(loss) for loss in losses if loss)
    if sam >= gd:
        return Verdict(None, None, "1-SAM from the start gains nothing over gradient descent")
    share = (gd - switched) / (gd - sam)
    return Verdict(share, share >= 0.9)


def _kept(outcomes: Mapping[str, Outcome]) -> Verdict:
    first, last = final_loss(outcomes, "switch-1-sam"), final_loss(outcomes, "switch-1-sam-to-gd")
    if not first or not last:
        return Verdict(None, None, "one of the runs diverged")
    return Verdict(last / first, None, "reported without a threshold")


def _diverge(outcomes: Mapping[str, Outcome]) -> Verdict:
    count = sum(outcome.diverged_at is not None for outcome in outcomes.values())
    return Verdict(count, count >= 1)


def _gains(group: str, most: float, reference: Reference | None) -> Claim:
    return Claim(
        f"1-sam-{group}",
        f"Setting {group}: the best test loss of 1-SAM lies orders of magnitude below gradient descent's: ratio",
        _SOURCE, f"<= {most:g}", _in_setting(group, "1-sam", lambda ratio: ratio <= most), reference=reference,
    )  # fmt: skip


def _gains_not(group: str, reference: Reference | None) -> Claim:
    return Claim(
        f"n-sam-{group}",
        f"Setting {group}: the best test loss of n-SAM does not, at the same step size: ratio",
        _SOURCE, ">= 0.1", _in_setting(group, "n-sam", lambda ratio: ratio >= 0.1), reference=reference,
    )  # fmt: skip


CLAIMS = (
    _gains("b", 0.1, Reference(1 / 41, "the authors' notebook")),
    _gains("c", 0.01, None),
    _gains("d", 0.01, None),
    _gains_not("a", Reference(0.015143589 / 0.015056044, "the authors' notebook")),
    _gains_not("d", None),
    Claim(
        "1-sam-figure-6",
        "Figure 6: after a million steps the test loss of 1-SAM lies far below gradient descent's: ratio (threshold "
        "ours)",
        _SOURCE, "<= 0.25", _in_figure_6("1-sam", lambda ratio: ratio <= 0.25),
        reference=Reference(1.5e-4 / 1.2e-3, _FIGURE), regime=_too_short,
    ),
    Claim(
        "n-sam-figure-6",
        "Figure 6: that of n-SAM does not: ratio (threshold ours)",
        _SOURCE, ">= 0.5", _in_figure_6("n-sam", lambda ratio: ratio >= 0.5),
        reference=Reference(1.0, _FIGURE), regime=_too_short,
    ),
    Claim(
        "late-switch",
        "Gradient descent that switches to 1-SAM late gains almost all that 1-SAM from the start gains: "
        "share of the fall of log test loss, after as many steps",
        _SOURCE, ">= 0.9", _recovered, reference=Reference("almost all of it", _SOURCE),
    ),
    Claim(
        "early-stop",
        "1-SAM that switches to gradient descent keeps its gain: test loss over that of 1-SAM to the end",
        _SOURCE, None, _kept,
    ),
    Claim("divergence", "Some radii are too large: runs that diverged", _SOURCE, ">= 1", _diverge),
)  # fmt: skip
