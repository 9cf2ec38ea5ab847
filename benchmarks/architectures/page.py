"""The table as markdown, and its place in the documents."""

from collections.abc import Sequence
from pathlib import Path

from architectures.case import Case
from architectures.measure import Found

PAGE = Path(__file__).parents[2] / "docs/exact-m-sam.md"
BEGIN, END = "<!-- real models -->\n", "<!-- end of real models -->"
Row = tuple[Case, Sequence[Found]]


def table(rows: Sequence[Row], ms: Sequence[int], columns: str) -> str:
    """A line for each architecture."""
    return "\n".join([f"| model | from | {columns} |", "|---|---|---|---|", *(line(*row, ms) for row in rows)])


def line(case: Case, found: Sequence[Found], ms: Sequence[int]) -> str:
    """Way and error at each m; the way once where it is the same."""
    ways = [each.way if not each.why else f"{each.way}: {shortened(each.why)}" for each in found]
    if len({each.way for each in found}) == 1:
        way = ways[0]
    else:
        way = "; ".join(f"m = {m}: {each}" for m, each in zip(ms, ways, strict=True))
    errors = ", ".join("–" if each.error is None else f"{each.error:.0e}" for each in found)
    return f"| {case.name} | {case.source} | {way.replace('|', '∣')} | {errors} |"


def shortened(why: str, most: int = 110) -> str:
    """One line that fits a table."""
    why = " ".join(why.split())
    return why if len(why) <= most else f"{why[:most].rsplit(' ', 1)[0]} …"


def write(text: str) -> None:
    """Between the marks in the document."""
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(head + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")
