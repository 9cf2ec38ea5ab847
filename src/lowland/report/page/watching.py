"""Renews the page while training goes on."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lowland.errors import RunError
from lowland.report.page.rendering import write_page
from lowland.report.page.shown import ShownDirectory

POLL = 2.0  # seconds between two looks at the directories
RELOAD = 10.0  # seconds after which an open page loads itself anew
_SHARE = 0.1  # of the time may go into renewing
_PATIENCE = 3  # looks at a file that is just being replaced
_FILES = ("config.json", "about.json", "metrics.jsonl", "progress.json", "ended.json", "summary.json")


def watch(
    directories: Sequence[Path], out: Path, tell: Callable[[Sequence[ShownDirectory]], None]
) -> list[ShownDirectory]:
    """Write the page, and write it anew whenever a directory has news, until every one of them is finished.

    Args:
        directories: as `write_page` takes them.
        out: the file. While something is under way the page loads itself anew.
        tell: is told what was read, after each time.

    Raises:
        RunError: if a directory is neither run nor sweep, or a file in it stays missing or damaged.
        OSError: if one can't be read, or ``out`` can't be written.
    """
    sources = write_page(directories, out, reload_every=RELOAD)
    tell(sources)
    seen, failures = _stamps(directories), 0
    while not all(source.finished for source in sources):
        time.sleep(POLL)
        stamps = _stamps(directories)
        if stamps == seen:
            continue
        started = time.monotonic()
        try:
            sources = write_page(directories, out, reload_every=RELOAD)
        except RunError:  # several files of a directory are replaced one after the other
            failures += 1
            if failures > _PATIENCE:
                raise
            continue
        seen, failures = stamps, 0
        tell(sources)
        time.sleep((time.monotonic() - started) / _SHARE)
    return sources


def _stamps(directories: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """When each file that the page is made of was written, and how large it is."""
    found = {}
    for directory in directories:
        for folder in (directory, *(directory / "runs").glob("*")):
            for name in _FILES:
                try:
                    there = (folder / name).stat()
                except OSError:
                    continue  # not written yet, or being replaced; reading it will tell
                found[folder / name] = (there.st_mtime_ns, there.st_size)
    return found
