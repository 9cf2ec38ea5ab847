"""Tables as text: fitted to the terminal's width, or without one a line for each row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowland.streams import visible

_GAP = 2  # spaces between two columns
_COMFORTABLE = 14  # least width of a column of running text, in characters


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: heading of the column.
        flows: whether it holds running text, which may be wrapped between words. Names, numbers, paths and verdicts
            are never wrapped.
        paint: what is done to a cell that isn't wrapped before it is printed; its width doesn't change.
    """

    title: str
    flows: bool = False
    paint: Callable[[str], str] = str


def layout(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    strong: Callable[[str], str] = str,
) -> list[str]:
    """The lines of a table.

    If the columns don't fit side by side, each row becomes a block: its first cell, and below it a line for each other
    cell that isn't empty. No word is ever broken; a word longer than ``width`` has its own line.

    Args:
        columns: from left to right.
        rows: each with one cell for each column.
        width: of the terminal, in characters; None for no limit, with each row on one line.
        strong: marks headings.
    """
    cells = [[*map(visible, row)] for row in rows]
    widths = _widths(columns, cells, width)
    return _blocks(columns, cells, width or 0, strong) if widths is None else _grid(columns, cells, widths, strong)


def _cells(text: str) -> int:
    from rich.cells import cell_len  # knows which characters are two columns wide

    return cell_len(text)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[int] | None:
    """The width of each column, in characters; None if they don't fit side by side."""
    whole = [max(map(_cells, (column.title, *cells))) for column, *cells in zip(columns, *rows, strict=True)]
    if width is None:
        return whole
    least = []
    for column, natural, *cells in zip(columns, whole, *rows, strict=True):
        words = [word for cell in (column.title, *cells) for word in cell.split()]
        longest = max(map(_cells, words), default=0)
        least.append(max(longest, min(natural, _COMFORTABLE)) if column.flows else natural)
    room = width - _GAP * (len(columns) - 1)
    if sum(least) > room:
        return None
    level, fitting = 0, least
    while sum(fitting) < sum(whole):  # columns of running text grow alike until the room is used
        level += 1
        grown = [min(natural, max(some, level)) for natural, some in zip(whole, least, strict=True)]
        if sum(grown) > room:
            break
        fitting = grown
    return fitting


def _grid(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int], strong: Callable[[str], str]
) -> list[str]:
    head = _beside([[column.title] if _cells(column.title) <= width else wrap(column.title, width)
                    for column, width in zip(columns, widths, strict=True)], widths)  # fmt: skip
    rule = (" " * _GAP).join("-" * width for width in widths)
    lines = [*map(strong, head), rule]
    for row in rows:
        parts = [wrap(cell, width) if column.flows else [cell]
                 for column, cell, width in zip(columns, row, widths, strict=True)]  # fmt: skip
        lines += _beside(parts, widths, [column.paint for column in columns])
    return lines


def _beside(
    parts: Sequence[Sequence[str]], widths: Sequence[int], paints: Sequence[Callable[[str], str]] = ()
) -> list[str]:
    """Join columns of lines side by side."""
    lines = []
    for number in range(max(map(len, parts))):
        cells = [part[number] if number < len(part) else "" for part in parts]
        blank = [" " * (width - _cells(cell)) for cell, width in zip(cells, widths, strict=True)]
        painted = [paint(cell) for paint, cell in zip(paints, cells, strict=True)] if paints else cells
        lines.append((" " * _GAP).join(cell + rest for cell, rest in zip(painted, blank, strict=True)).rstrip())
    return lines


def _blocks(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, strong: Callable[[str], str]
) -> list[str]:
    label = max((_cells(column.title) for column in columns[1:]), default=0) + 2 + _GAP
    lines: list[str] = []
    for row in rows:
        lines += [strong(row[0])] if row[0] else []
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if cell:
                lines += _entry(column, cell, label, width)
        lines.append("")
    return lines[:-1]


def _entry(column: Column, cell: str, label: int, width: int) -> list[str]:
    """One cell of a block: beside its title if it fits there, else below."""
    title = f"  {column.title}"
    if column.flows and max(map(_cells, cell.split()), default=0) <= width - label:
        first, *rest = wrap(cell, width - label)
        return [title + " " * (label - _cells(title)) + first, *(" " * label + line for line in rest)]
    if _cells(cell) <= width - label:
        return [title + " " * (label - _cells(title)) + column.paint(cell)]
    indent = 4 if column.flows or _cells(cell) <= width - 4 else 0
    below = wrap(cell, width - indent) if column.flows else [cell]
    return [title.rstrip(), *(" " * indent + line for line in below)]


def wrap(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` characters, broken between words only."""
    lines = [""]
    for word in text.split():
        if lines[-1] and _cells(lines[-1]) + 1 + _cells(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
