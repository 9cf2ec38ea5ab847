"""The page: read, put together, rendered, written."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from lowland import __version__
from lowland.files import write_atomically
from lowland.report.page.answer import answers_of
from lowland.report.page.claims import claims_beside
from lowland.report.page.comparison import RULE, comparable
from lowland.report.page.curves import draw
from lowland.report.page.data import script_data
from lowland.report.page.figures import figures_of
from lowland.report.page.groups import columns_of, groups_of, names_of
from lowland.report.page.reading import read_source
from lowland.report.page.rounding import short
from lowland.report.page.settings import origins_of, settings_of
from lowland.report.page.shown import ShownDirectory
from lowland.report.page.tables import table_of

if TYPE_CHECKING:
    from jinja2 import Environment

# In the order in which they need each other.
_SCRIPTS = (
    "data", "state", "theme", "colours", "chart", "legend", "keys", "range", "curves", "filter", "table", "csv",
    "sweep", "sweep-lines", "sweep-map", "sweep-parallel", "differences", "figures", "scrolled", "main", "watching",
)  # fmt: skip


def write_page(directories: Sequence[Path], out: Path, *, reload_every: float = 0.0) -> list[ShownDirectory]:
    """Write one HTML file that shows run and sweep directories, finished or under way; it needs no network.

    Args:
        directories: of runs and sweeps, in the order of the page. Differences between directories are to the first.
        out: the file; replaced atomically.
        reload_every: seconds after which the page loads itself anew, while a directory is under way; 0 for never.

    Returns:
        What was read, in the same order.

    Raises:
        RunError: if a directory is neither run nor sweep, or a file in it is missing or damaged.
        OSError: if one can't be read, or ``out`` can't be written.
    """
    sources = [read_source(path) for path in directories]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render(sources, reload_every=reload_every).encode())
    return sources


def render(sources: Sequence[ShownDirectory], *, reload_every: float = 0.0) -> str:
    """The page as HTML."""
    from plotly.offline import get_plotlyjs

    names = names_of([source.path for source in sources])
    groups, columns = groups_of(sources, names), columns_of(sources)
    drawing, settings = draw(groups, list(columns)), settings_of(sources)
    return _environment().get_template("page.html").render(
        sources=list(zip(names, sources, strict=True)),
        answers=[answers_of(source) for source in sources],
        claims=claims_beside(names, sources),
        settings=settings,
        origins=origins_of(settings),
        environments=_environments(names, sources),
        tables=[
            (name, table)
            for name, source in zip(names, sources, strict=True)
            if (table := table_of(source, groups, columns))
        ],
        figures=figures_of(sources),
        comparable=comparable(sources, names),
        rule=RULE,
        thinned=drawing.rule,
        data=script_data(sources, names, groups, columns, drawing),
        plotly=get_plotlyjs(),
        style=_text("style.css"),
        scripts=[_text(f"js/{name}.js") for name in _SCRIPTS],
        reload_every=0.0 if all(source.finished for source in sources) else reload_every,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        version=__version__,
    )  # fmt: skip


def _environments(names: Sequence[str], sources: Sequence[ShownDirectory]) -> tuple[list[str], dict[str, list[str]]]:
    """Of the directories that say what they were computed with: their names; and key → a value for each of them."""
    found = {
        name: source.summary["environment"]
        for name, source in zip(names, sources, strict=True)
        if source.summary is not None and isinstance(source.summary.get("environment"), dict)
    }
    keys = dict.fromkeys(key for each in found.values() for key in each)
    return list(found), {
        key: ["" if each.get(key) is None else short(each[key]) for each in found.values()] for key in keys
    }


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("lowland.report.page")
    # Whatever stands in a directory is text, never markup.
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}  # in the order given
    return made


def _text(name: str) -> str:
    return files("lowland.report.page").joinpath("templates", name).read_text(encoding="utf-8")
