"""The figures of the diagonal linear networks: losses over steps, against ρ, across a switch, along a line."""

from collections.abc import Callable, Mapping, Sequence

from lowland.papers.andriushchenko2022.diagonal.claims import final_loss, losses_on_line
from lowland.papers.andriushchenko2022.diagonal.settings import FIGURE_6, LONG, RUNS, SWITCHING, arm_name, gd_like
from lowland.training import Level, Line, Outcome, Panel, Plot

METHODS = {"gd": "gradient descent", "n-sam": "n-SAM", "1-sam": "1-SAM"}
_LOSSES = {"test_loss": "test loss", "train_loss": "training loss"}


def _curve(outcome: Outcome, column: str, label: str = "", style: str = "-") -> Line:
    return Line(outcome.column("step"), outcome.column(column), label, style)


def _over_steps(group: str, method: str) -> Callable[[Mapping[str, Outcome]], Sequence[Panel]]:
    times, alpha, rhos = RUNS[group][method]

    def panels(outcomes: Mapping[str, Outcome]) -> list[Panel]:
        gd = outcomes[gd_like(group, method)]
        if len(gd.records) < 3:  # with the first at step 0, where a logarithmic axis doesn't reach
            return []
        arms = {f"ρ = {rho:g}": outcomes[arm_name(group, method, rho)] for rho in rhos}
        diverged = [f"{label} diverged" for label, outcome in arms.items() if outcome.diverged_at is not None]
        return [
            Panel(
                f"{METHODS[method]}, γ = {times}/d, α = {alpha:g}",
                "step", label,
                [
                    *(_curve(outcome, column, name) for name, outcome in arms.items()),
                    _curve(gd, column, METHODS["gd"], ":"),
                ],
                logx=True, logy=True, against=[METHODS["gd"]], note=", ".join(diverged),
            )
            for column, label in _LOSSES.items()
        ]  # fmt: skip

    return panels


def _against_rho(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    panels = []
    for group, methods in RUNS.items():
        lines, diverged = [], []
        for method, (_, _, rhos) in methods.items():
            if method == "gd":
                continue
            losses = [final_loss(outcomes, arm_name(group, method, rho)) for rho in rhos]
            lines.append(Line(rhos, losses, METHODS[method], "o-"))
            diverged += [f"{METHODS[method]} {rho:g}" for rho, loss in zip(rhos, losses, strict=True) if loss is None]
        every = sorted({rho for line in lines for rho in line.x if rho is not None})
        lines.append(Line(every, [final_loss(outcomes, f"{group}-gd")] * len(every), METHODS["gd"], "--"))
        panels.append(
            Panel(
                f"setting {group}", "radius ρ", "final test loss", lines, logx=True, logy=True,
                against=[METHODS["gd"]], better="lower", note=f"diverged: {', '.join(diverged)}" if diverged else "",
            )
        )  # fmt: skip
    return panels


def _switching(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    labels = {"gd": "GD", "1-sam": "1-SAM", "gd-to-1-sam": "GD, then 1-SAM", "1-sam-to-gd": "1-SAM, then GD"}
    styles = {"gd": "-", "1-sam": "-", "gd-to-1-sam": "--", "1-sam-to-gd": "--"}
    return [
        Panel(
            f"switch at step {outcomes['switch-gd'].settings.steps // 2}", "step", label,
            [_curve(outcomes[f"switch-{name}"], column, labels[name], styles[name]) for name in SWITCHING],
            logy=True, against=[labels["gd"]],
        )
        for column, label in _LOSSES.items()
    ]  # fmt: skip


def _on_the_line(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    found = losses_on_line(outcomes)
    if found is None:
        return []
    lines = [
        Line(found["t"], found["test_loss"], "test loss"),
        Line(found["t"], found["train_loss"], "training loss", "--"),
    ]
    return [Panel("0: GD, 1: GD, then 1-SAM", "t", "loss", lines)]


def _figure_6(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    """Of each method the best radius, and thinly the others; with the test losses at which the paper's curves end."""
    if len(outcomes[f"{LONG}-gd"].records) < 3:
        return []
    times, alpha, rhos = FIGURE_6
    panels = []
    for column, label in _LOSSES.items():
        lines = [_curve(outcomes[f"{LONG}-gd"], column, METHODS["gd"], ":")]
        labels = []
        for method, style in (("n-sam", "--"), ("1-sam", "-")):
            names = {rho: arm_name(LONG, method, rho) for rho in rhos}
            lines += _best_and_others(outcomes, names, method, column, style)
            labels.append(next(line.label for line in lines[::-1] if line.label))
        ends = zip((METHODS["gd"], labels[1]), _ENDS.items(), strict=True)
        levels = [Level(end, name, like, "-.") for like, (name, end) in ends] if column == "test_loss" else ()
        title = f"γ = {times}/d, α = {alpha:g}"
        panels.append(Panel(title, "step", label, lines, logx=True, logy=True, levels=levels, against=[METHODS["gd"]]))
    return panels


def _best_and_others(
    outcomes: Mapping[str, Outcome], radii: Mapping[float, str], method: str, column: str, style: str
) -> list[Line]:
    losses = {rho: final_loss(outcomes, name) for rho, name in radii.items()}
    finite = {rho: loss for rho, loss in losses.items() if loss is not None}
    best = min(finite or losses, key=lambda rho: finite.get(rho, rho))
    label = f"{METHODS[method]}, ρ = {best:g} (thin: {', '.join(f'{rho:g}' for rho in radii if rho != best)})"
    lines = []
    for rho, name in radii.items():
        outcome = outcomes[name]
        shown, beside = (label, "") if rho == best else ("", label)
        lines.append(Line(outcome.column("step"), outcome.column(column), shown, style, beside))
    return lines


_ENDS = {"paper: ERM, n-SAM": 1.2e-3, "paper: 1-SAM": 1.5e-4}


FIGURES = (
    Plot("test-loss", "Final test loss against the radius", _against_rho, columns=4),
    *(
        Plot(f"{group}-{method}", f"Setting {group}: losses", _over_steps(group, method))
        for group, methods in RUNS.items()
        for method in methods
        if method != "gd"
    ),
    Plot(LONG, "Figure 6: a million steps", _figure_6),
    Plot("switching", "Switching between gradient descent and 1-SAM", _switching),
    Plot("line", "Between two solutions", _on_the_line),
)
