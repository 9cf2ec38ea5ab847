"""What a finished directory came to, in a sentence or two: the first that a reader sees."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowland.report.axes import labelled, symbol
from lowland.report.grid_end import said_at_end
from lowland.report.page.claims import ShownClaim, claims_of
from lowland.report.page.comparison import differences
from lowland.report.page.groups import groups_of
from lowland.report.page.rounding import settled
from lowland.report.page.shown import ShownDirectory
from lowland.values import Read
from lowland.wording import counted, few, short

_SAID = {"holds": ("holds", "hold"), "fails": ("fails", "fail"), "undecided": ("is undecided", "are undecided"),
         "reported": ("is only reported", "are only reported")}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A sentence, and the verdict that ends it, if it has one: a class of the style, and its words."""

    text: str
    kind: str = ""
    verdict: str = ""


def answers_of(source: ShownDirectory) -> list[Answer]:
    """Of a sweep the selected settings, and what SAM changes; then what became of the claims. None while under way.

    Of a run without claims what lies between its two arms, if one is SAM and the other has ρ = 0.
    """
    if source.summary is None:
        return []
    claims = _of_claims(claims_of(source))
    if source.is_sweep:
        first = _selected(source, source.summary.get("selection") or {})
    else:
        first = _between_arms(source) if claims is None else None
    return [answer for answer in (first, claims) if answer is not None]


def at_the_end(source: ShownDirectory, selected: Mapping[str, Read]) -> str:
    """Which of the selected settings are the grid's last, beyond which a better one may lie; empty if none is."""
    return said_at_end(selected, (run.settings for run in source.runs), symbol)


def _selected(source: ShownDirectory, selection: Mapping[str, Read]) -> Answer | None:
    if not selection.get("metric"):
        return None  # the experiment names none to select by
    selected = selection["selected"]
    if selected is None:
        return Answer(f"No settings are selected: {selection['reason']}.")
    what = labelled(selected) if len(selected) != 1 else short(next(iter(selected.values())))
    name = symbol(next(iter(selected))) if len(selected) == 1 else "settings"
    head = f"Best {name} by {_spoken(source, selection['metric'])}: {what}"
    if tied := (selection.get("tied") or {}).get("text"):
        head += f" ({tied})"
    end = at_the_end(source, selected)
    by_rho = selection.get("by_rho") or {}
    if not by_rho.get("with_sam") or not by_rho.get("without_sam"):
        return Answer(". ".join(filter(None, (head, end.rstrip(".")))) + ".")
    return _compared(source, selection, f"{head}. {end}".rstrip(". ") + ". ")


def _compared(source: ShownDirectory, selection: Mapping[str, Read], head: str) -> Answer:
    """The best settings with SAM beside the best without, on test data where there are some."""
    by_rho, test = selection["by_rho"], selection.get("test") or {}
    sam = f"The best with SAM ({labelled(by_rho['with_sam']['settings'])})"
    on_test = by_rho.get("test_difference")
    between = on_test or by_rho.get("difference")
    if not between:
        return Answer(f"{head}{sam} can't be compared with the best without: they share no seed that ended.")
    column = test["metric"] if on_test else selection["metric"]
    scale = (test if on_test else by_rho["with_sam"]).get("mean") or 1.0
    against = "the best without" if on_test else "the best without, on the data that chose them"
    mean, interval = settled(between["mean"], scale), between.get("interval_95")
    ends_of = None if not interval else (settled(interval[0], scale), settled(interval[1], scale))
    return _judged(f"{head}{sam} has a {_spoken(source, column)}", against, mean, ends_of, between["n"])


def _judged(what: str, against: str, mean: float, interval: tuple[float, float] | None, n: int) -> Answer:
    """What lies between two, and whether its whole interval lies on one side of 0."""
    side = "the same as" if mean == 0 else f"{abs(mean):.3g} {'lower' if mean < 0 else 'higher'} than"
    text, seeds = f"{what} {side} {against}", counted(n, "seed")
    if interval is None or interval[0] == interval[1]:
        why = "one seed has no interval" if n == 1 else f"no interval: the same of all {seeds}"
        return Answer(f"{text} ({why})", "undecided", "undecided")
    low, high = interval
    text += f" (95 % interval of the difference {low:.3g} to {high:.3g}, {seeds})"
    if low <= 0 <= high:
        return Answer(text, "undecided", "undecided")
    return Answer(text, "holds", "SAM lowers it") if high < 0 else Answer(text, "fails", "SAM raises it")


def _between_arms(source: ShownDirectory) -> Answer | None:
    """Of the first column that is of test data; None if there is none, or more than one arm to compare."""
    columns = source.description["columns"] if source.description else {}
    tests = [column for column in columns if column.startswith("test")]
    groups = groups_of([source], [""])
    found = differences(groups, tests[:1]).get(tests[0], []) if tests else []
    if len(found) != 1:
        return None
    (one,) = found
    what = f"{groups[one['group']].name} has a {_spoken(source, tests[0])}"
    interval = None if one["interval"] is None else (one["interval"][0], one["interval"][1])
    return _judged(what, groups[one["against"]].name, one["mean"], interval, one["n"])


def _spoken(source: ShownDirectory, column: str) -> str:
    """A column as people say it: by its label, where the experiment has one."""
    columns: Mapping[str, str] = source.description["columns"] if source.description else {}
    return columns.get(column) or column.replace("_", " ")


def _of_claims(claims: Sequence[ShownClaim]) -> Answer | None:
    """As ``"Of 6 claims 4 hold, 1 fails (flatter) and 1 is undecided (alignment)."`` says it."""
    if not claims:
        return None
    if len(claims) == 1:
        return _of_one(claims[0])
    counts = Counter(claim.verdict for claim in claims)
    if len(counts) == 1:
        (verdict,) = counts
        reasons = {claim.reason for claim in claims}
        why = f": {reasons.pop()}" if verdict == "undecided" and len(reasons) == 1 else ""
        return Answer(f"{'Both' if len(claims) == 2 else f'All {len(claims)}'} claims {_SAID[verdict][1]}{why}.")
    parts = []
    for verdict in (each for each in _SAID if counts[each]):
        names = "" if verdict == "holds" else f" ({few([each.id for each in claims if each.verdict == verdict])})"
        parts.append(f"{counts[verdict]} {_SAID[verdict][counts[verdict] > 1]}{names}")
    return Answer(f"Of {len(claims)} claims {', '.join(parts[:-1])} and {parts[-1]}.")


def _of_one(claim: ShownClaim) -> Answer:
    at = f" at {claim.at}" if claim.at else ""
    measured = f": {claim.measured}" if claim.measured else ""
    condition = f", and it holds if {claim.threshold}" if claim.measured and claim.threshold else ""
    why = f" ({claim.reason})" if claim.verdict == "undecided" and claim.reason else ""
    everywhere = f". Over the grid: {claim.over_grid}" if claim.over_grid else ""
    return Answer(f"The claim {claim.id} {_SAID[claim.verdict][0]}{at}{measured}{condition}{why}{everywhere}.")
