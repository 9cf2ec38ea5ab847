"""Words of sentences that people read: numbers with their noun, long lists cut short, a claim's verdict and value."""

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
