"""The pages that are written by hand: copied as they are, with the files that they show or link to.

They keep their places, so that a link that leads somewhere in the repository leads to the same page in the site.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent.parent
FRONT = ROOT / "docs" / "site" / "index.md"
#: What the repository has as one page, and the site as several.
_BETTER = {"](../results/README.md)": "](../papers/index.md)"}
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def sources() -> list[Path]:
    """The Markdown files that are pages of the site under the names that they have."""
    top = [ROOT / name for name in ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md")]
    folders = ("docs/*.md", "examples/*.md", "results/*.md", "results/*/README.md", "tests/hostile/README.md")
    return top + [path for folder in folders for path in sorted(ROOT.glob(folder))]


def linked(page: Path) -> Iterator[Path]:
    """The files that a page shows or links to."""
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        yield (page.parent / unquote(target)).resolve()


def write(work: Path) -> None:
    """Copy the front page, the others, and what they link to.

    Raises:
        SystemExit: for a link to what isn't there, to a folder, or to a document that is no page.
    """
    every = sources()
    shutil.copy(FRONT, work / "index.md")
    for page in every:
        _copy(page, work)
        for target in linked(page):
            said = f"{page.relative_to(ROOT)} links to {target.relative_to(ROOT)}"
            if not target.is_file():
                raise SystemExit(f"{said}, which is no file")
            if target.suffix == ".md" and target not in every:
                raise SystemExit(f"{said}, which is no page of the site (docs/site/gather.py lists them)")
            _copy(target, work)
    for name in ("results/long2024-digits-laptop/hessian-norm.png",):  # of the front page
        _copy(ROOT / name, work)


def _copy(path: Path, work: Path) -> None:
    there = work / path.relative_to(ROOT)
    there.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".md":
        shutil.copy(path, there)
        return
    text = path.read_text(encoding="utf-8")
    for old, new in _BETTER.items():
        text = text.replace(old, new)
    there.write_text(text, encoding="utf-8")
