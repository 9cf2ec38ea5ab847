"""What a notebook shows of a run or sweep: its tables and its figures."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from lowland.experiments.summary import TextTable

_MOST = 12  # figures; the others are named


def page(title: str, tables: Sequence[TextTable], pictures: Mapping[str, bytes]) -> str:
    """HTML that needs nothing from elsewhere.

    Args:
        title: one line.
        tables: in order.
        pictures: name → PNG.
    """
    shown = list(pictures.items())[:_MOST]
    images = [
        f'<img src="data:image/png;base64,{b64encode(content).decode()}" alt="{escape(name, quote=True)}" '
        'style="max-width: 100%">'
        for name, content in shown
    ]
    rest = list(pictures)[_MOST:]
    more = [f"<p>and {escape(', '.join(rest))}, in <code>figures</code></p>"] if rest else []
    return "\n".join([f"<p><b>{escape(title)}</b></p>", *map(_table, tables), *images, *more])


def _table(table: TextTable) -> str:
    head = _row("th", table.columns)
    return f"<table><thead>{head}</thead><tbody>{''.join(_row('td', row) for row in table.rows)}</tbody></table>"


def _row(kind: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f'<{kind} style="text-align: left">{escape(cell)}</{kind}>' for cell in cells) + "</tr>"
