"""`lowland report`: one page for the browser, of runs and sweeps side by side."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lowland.commands.printing import place, say
from lowland.errors import SettingError

if TYPE_CHECKING:
    from lowland.report.page import ShownDirectory

_ENDINGS = (".html", ".htm")


def report(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR", help="Run and sweep directories.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="The page [default: report.html in the directory; of several, in the current one].",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Renew the page while training goes on; Ctrl-C ends that.")
    ] = False,
) -> None:
    """Make one HTML page of runs and sweeps, finished or under way: claims, curves, grids, settings, figures.

    The page is a single file and needs no network. Of several directories it says what differs in their settings, and
    the differences of their results to those of the first, paired by seed.

    Example: lowland report runs/digits runs/digits-wide --out compare.html
    """
    from lowland.report import page
    from lowland.training.progress import waiting

    file = _file(directories, out)
    if watch:
        place("page", file)
        _watch(directories, file)
    else:
        with waiting(f"making {file}"):
            sources = page.write_page(directories, file)
        for source in sources:
            say(f"{source.path}: {source.told}")
        place("page", file)


def _file(directories: Sequence[Path], out: Path | None) -> Path:
    """Where the page goes; SettingError for a place that can't be right."""
    places = [directory.resolve() for directory in directories]
    for directory, place_ in zip(directories, places, strict=True):
        if places.count(place_) > 1:
            raise SettingError(f"{directory} is named twice: name each directory once")
    if out is None:
        return (directories[0] if len(directories) == 1 else Path()) / "report.html"
    if out.suffix.lower() not in _ENDINGS:
        raise SettingError(f"--out {out}: the page is one HTML file; give it a name that ends in .html")
    if out.is_dir():
        raise SettingError(f"--out {out} is a folder: give the name of a file in it")
    return out


def _watch(directories: Sequence[Path], file: Path) -> None:
    """Renew the page until everything is finished; what is going on is shown meanwhile."""
    from lowland.progress import bar
    from lowland.report import page

    text = "reading"
    with bar("{task.description}", describe=lambda: text) as (shown, _):
        task = shown.add_task(text)

        def tell(sources: Sequence["ShownDirectory"]) -> None:
            nonlocal text
            told = "; ".join(source.told for source in sources)
            text = f"renewed {datetime.now():%H:%M:%S}: {told}"
            shown.update(task, description=text.replace("[", r"\["))

        sources = page.watch(directories, file, tell)
    for source in sources:
        say(f"{source.path}: {source.told}")
