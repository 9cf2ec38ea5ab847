"""What is wrong with the links of a built site: those that lead nowhere, and files that only a network has."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The links and the places of one page."""

    def __init__(self, text: str):
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        have = {name: value for name, value in attrs if value}
        self.places |= {have[name] for name in ("id", "name") if name in have}
        if tag == "a" and "href" in have:
            self.links.append(have["href"])
        elif tag == "link" and have.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(have.get("href", ""))
        elif tag in ("img", "script", "source", "iframe") and "src" in have:
            self.loaded.append(have["src"])


def broken(site: Path) -> list[str]:
    """A line for each link, image, script or style sheet of a page under ``site`` that can't be followed there."""
    site = site.resolve()
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    return [
        f"{path.relative_to(site)}: {target}: {wrong}"
        for path, page in pages.items()
        for target, loads in [*((link, False) for link in page.links), *((each, True) for each in page.loaded)]
        if (wrong := _wrong(path, target, loads, pages))
    ]


def _wrong(path: Path, target: str, loads: bool, pages: dict[Path, _Page]) -> str:
    at = urlsplit(target)
    if at.scheme == "data":
        return ""
    if at.scheme or at.netloc:
        return "is loaded from a network" if loads else ""
    there = (path.parent / unquote(at.path)).resolve() if at.path else path
    if not there.exists():
        return "there is no such file"
    if at.fragment and there in pages and unquote(at.fragment) not in pages[there].places:
        return "the page has no such place"
    return ""
