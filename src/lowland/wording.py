"""Words of sentences that people read: numbers with their noun, long lists cut short, settings, what claims came to."""

from collections.abc import Iterable, Mapping, Sequence

from lowland.values import Read

#: Whether a claim holds, as people read it.
VERDICTS = {True: "holds", False: "fails", None: "undecided"}
_FEW = 3


def counted(number: int, noun: str) -> str:
    """A number and its noun, which takes an s: ``1 point``, ``2 points``.

    Args:
        number: how many.
        noun: of one.
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def few(names: Sequence[str]) -> str:
    """The first three names, and how many more there are: ``a, b, c and 7 more``; four are named all."""
    if len(names) <= _FEW + 1:
        return ", ".join(names)
    return f"{', '.join(names[:_FEW])} and {len(names) - _FEW} more"


def seeds_of(started: int, means: Iterable[Mapping[str, Read] | None]) -> str:
    """How many seeds stand behind the means of a row: ``5``, or ``4 of 5``, ``3 to 4 of 5`` where some have no value.

    Args:
        started: how many seeds there are.
        means: entries of a summary with their ``n``; None where there is no value at all.
    """
    counts = [mean.get("n", started) for mean in means if mean is not None]
    fewest, most = min(counts, default=started), max(counts, default=started)
    if fewest == most == started:
        return str(started)
    return f"{most} of {started}" if fewest == most else f"{fewest} to {most} of {started}"


def describe(settings: Mapping[str, Read]) -> str:
    """``lr = 0.1, rho = 0``."""
    return ", ".join(f"{name} = {short(value)}" for name, value in settings.items())


def short(value: Read) -> str:
    """A setting's value as a person writes it."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def interval_of(estimate: Mapping[str, Read] | None) -> str:
    """The 95 % interval of an entry of a summary, ``-0.02 to 0.1``; a dash where there is none."""
    between = None if estimate is None else estimate["interval_95"]
    return "–" if between is None else f"{between[0]:.2g} to {between[1]:.2g}"


def spread_of(estimate: Mapping[str, Read]) -> str:
    """The interval over seeds in words, or that there is none."""
    seeds = counted(estimate["n"], "seed")
    if estimate["interval_95"] is None:
        return f"no interval from {seeds}"
    return f"95 % interval {interval_of(estimate)} over {seeds}"


def trend_of(metric: str, trend: Mapping[str, Read]) -> str:
    """An entry of a sweep's ``trends`` in words, with and without the grid's largest ρ.

    Args:
        metric: as people call it.
        trend: the entry; one by an earlier version has no trend without the largest.
    """
    where = "over all" if trend["settings"] is None else describe(trend["settings"])
    by, without = trend["per_decade"], trend.get("without_largest")
    text = f"trend of {metric} with ρ{where and f', {where}'}: {by['mean']:+.2g} for each tenfold ρ, {spread_of(by)}"
    if not without:
        return text
    return f"{text}; without the largest ρ, {short(trend['largest'])}: {without['mean']:+.2g}, {spread_of(without)}"


def places(several: Sequence[Mapping[str, Read]]) -> str:
    """Several settings as ``rho = 0.1, 0.2``, or ``(lr = 0.1, rho = 0), (lr = 0.2, rho = 0)``; many are cut short."""
    names = dict.fromkeys(name for settings in several for name in settings)
    if len(names) == 1:
        return f"{next(iter(names))} = {few([short(value) for settings in several for value in settings.values()])}"
    return few([f"({describe(settings)})" for settings in several])


def worsened_of(summary: Mapping[str, Read]) -> str:
    """Which runs got worse than where they began, in a sentence without its full stop; empty if none did.

    Args:
        summary: of a run or a sweep.
    """
    worsened = summary.get("worsened") or {}
    if not worsened:
        return ""
    told = [f"{name} ({entry['first']:.4g}, then {entry['last']:.4g})" for name, entry in worsened.items()]
    column = next(iter(worsened.values()))["column"]
    return f"worse than where it began, with a higher {column} at the end than before the first step: {few(told)}"


def verdict_of(claim: Mapping[str, Read]) -> str:
    """*holds*, *fails* or *undecided*; *reported* for a claim without a threshold.

    Args:
        claim: an entry of a summary's ``claims``.
    """
    return VERDICTS[claim["passed"]] if claim["threshold"] or claim["passed"] is not None else "reported"


def measured_of(claim: Mapping[str, Read]) -> str:
    """What was measured, with its 95 % interval: ``-0.0275 (-0.106 to 0.0526)``; empty if nothing was."""
    interval, value = claim.get("interval_95"), claim["measured"]
    if value is None:
        return ""
    return f"{value:.4g}" + (f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else "")


def mark_of(settings: Mapping[str, Read], selection: Mapping[str, Read]) -> str:
    """What a sweep's selection makes of ``settings``: *selected*, *tied* with those that are, or nothing."""
    if settings == selection["selected"]:
        return "selected"
    return "tied" if settings in (selection.get("tied") or {}).get("settings", []) else ""


def place_of(claim: Mapping[str, Read]) -> str:
    """The settings of a sweep at which its verdict is: ``rho = 0.1 (selected)``; empty for a run's."""
    return (claim.get("at") or {}).get("text", "")


def paper_of(claim: Mapping[str, Read]) -> str:
    """The paper's value, a number with four digits, and where the paper states it; empty if unknown."""
    reference = claim.get("reference")
    if reference is None:
        return ""
    value = reference["value"]
    return f"{f'{value:.4g}' if isinstance(value, float) else value} ({reference['where']})"


def claim_columns(claims: Sequence[Mapping[str, Read]]) -> dict[str, list[str]]:
    """A table of the entries of a summary's ``claims``: title → cells, without the columns that would be empty.

    Those are the paper's own value, or of a run where on a grid a claim was judged.
    """
    cells = {
        "claim": [str(claim["id"]) for claim in claims],
        "what it says": [str(claim["text"]) for claim in claims],
        "measured (95 % interval)": [measured_of(claim) for claim in claims],
        "in the paper": [paper_of(claim) for claim in claims],
        "holds if": [claim["threshold"] or "" for claim in claims],
        "verdict": [verdict_of(claim) for claim in claims],
        "at": [place_of(claim) for claim in claims],
        "over the grid": [claim.get("over_grid", "") for claim in claims],
        "reason": [str(claim["reason"]) for claim in claims],
    }
    return {title: column for title, column in cells.items() if any(column)}
