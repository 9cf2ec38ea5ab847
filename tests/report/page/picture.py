"""Draws `docs/report.png`, the page of a run: ``python -m tests.report.page.picture RUN``.

RUN is the directory of a finished ``lowland run long2024/digits --scale laptop``.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from lowland.report.page import write_page

from .browser import browser

PICTURE = Path(__file__).parents[3] / "docs/report.png"
WIDTH, HEIGHT = 1100, 1760


def main(run: str) -> None:
    """Write the upper part of the page of ``run`` as the picture."""
    with TemporaryDirectory() as folder, browser() as page:
        file = Path(folder) / "page.html"
        write_page([Path(run)], file)
        page.size(WIDTH)
        page.open(file)
        page.draw_all()
        page.run("scrollTo(0, 0)")
        page.picture(PICTURE, HEIGHT)


if __name__ == "__main__":
    main(*sys.argv[1:])
