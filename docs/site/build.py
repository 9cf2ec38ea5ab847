"""Build the site: `python docs/site/build.py [--out site]`; any warning, broken link or undocumented name fails it.

The pages are gathered in `build/site`, with those that are made from code, from `results/` and from the tutorials, and
then Sphinx makes HTML of them that needs neither a server nor a network.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

import commands  # noqa: E402 - they stand beside this file
import gather  # noqa: E402
import links  # noqa: E402
import papers  # noqa: E402
import reference  # noqa: E402
import tutorials  # noqa: E402

WORK = ROOT / "build" / "site"


def pages(work: Path) -> None:
    """Write every page under ``work``, as Markdown or reStructuredText, with the files that they show or link.

    What is there already, and the same, is left alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        for what, make in (
            ("the guides", gather.write),
            ("the papers, from results/", papers.write),
            ("the reference, from docstrings", reference.write),
            ("the commands, from their --help", commands.write),
            ("the tutorials, each run unless nothing changed", tutorials.write),
        ):
            began = time.perf_counter()
            make(fresh)
            print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)
        bring(fresh, work)


def bring(fresh: Path, work: Path) -> None:
    """Make ``work`` have the files of ``fresh`` and no others; equal ones keep their time."""
    files = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    for path in [path for path in work.rglob("*") if path.is_file() and path.relative_to(work) not in files]:
        path.unlink()
    for name in files:
        if not (work / name).exists() or not filecmp.cmp(fresh / name, work / name, shallow=False):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(fresh / name, work / name)


def html(work: Path, out: Path, quick: bool) -> None:
    """Make HTML of the pages, of all unless ``quick``; SystemExit if Sphinx warns of anything."""
    if not quick:
        shutil.rmtree(out, ignore_errors=True)
    sphinx = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--nitpicky"]
    places = ["--builder", "html", "--conf-dir", HERE, "--doctree-dir", work.parent / "doctrees", work, out]
    if subprocess.run([*sphinx, *([] if quick else ["--fresh-env"]), *places]).returncode:
        raise SystemExit("the site was not built: mend what Sphinx says above")


def main() -> None:
    """Build, and check what was built."""
    parser = argparse.ArgumentParser(description="Build the site.")
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="where the HTML goes")
    parser.add_argument(
        "--quick", action="store_true", help="only pages that changed; what is wrong with the others isn't said again"
    )
    options = parser.parse_args()
    out = options.out
    pages(WORK)
    html(WORK, out, options.quick)
    if broken := links.broken(out):
        raise SystemExit("\n".join(["the site has links that lead nowhere:", *broken]))
    print(f"{len(list(out.rglob('*.html')))} pages: open {out / 'index.html'} in a browser")


if __name__ == "__main__":
    main()
