"""The tutorials: each a script in `docs/tutorials` that is run as a notebook, and shown with what it printed and drew.

A script is cut into cells by lines ``# %%``; those after ``# %% [markdown]`` are text. It runs in a folder of its own,
so that nothing stays behind. What came out is kept in `build/tutorials` until the script or the library changes.
"""

import base64
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ROOT / "docs" / "tutorials"
KEPT = ROOT / "build" / "tutorials"
_PATIENCE = 600  # seconds that a cell may take
_QUIET = ["--IPKernelApp.log_level=40"]  # it warns of the port that it listens on, which no one else reaches
_ANSI = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal
_CELL = re.compile(r"^# %%(.*)$", re.MULTILINE)
_INTRODUCTION = """# Tutorials

Each is a notebook of a minute or less on two cores, on real data that comes with scikit-learn, so nothing is
downloaded. What stands below a cell is what it printed when this site was built. Every page has its notebook, to
download.

"""


def cells(script: Path) -> Iterator[tuple[str, str]]:
    """The cells of a script: whether it is ``"markdown"`` or ``"code"``, and its text."""
    parts = _CELL.split(script.read_text(encoding="utf-8"))
    for mark, text in zip(parts[1::2], parts[2::2], strict=True):
        if "[markdown]" in mark:
            yield "markdown", "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.strip().splitlines())
        else:
            yield "code", text.strip()


def notebook(script: Path) -> Any:
    """The script as a notebook, not run."""
    new = nbformat.v4
    made = new.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    make = {"markdown": new.new_markdown_cell, "code": new.new_code_cell}
    made.cells = [make[kind](text, id=f"cell-{number}") for number, (kind, text) in enumerate(cells(script))]
    return made


def executed(script: Path) -> Any:
    """The script as a notebook that was run, now or when script and library were the same.

    Raises:
        SystemExit: with the cell and its error, if one fails.
    """
    kept = KEPT / f"{script.stem}-{_fingerprint(script)}.ipynb"
    if kept.exists():
        return nbformat.read(kept, as_version=4)
    folder = KEPT / script.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run = notebook(script)
    resources = {"metadata": {"path": str(folder)}}
    activated = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
    try:
        client = nbclient.NotebookClient(run, timeout=_PATIENCE, resources=resources, extra_arguments=_QUIET)
        client.execute(env=activated)
    except (nbclient.exceptions.CellExecutionError, nbclient.exceptions.CellTimeoutError) as error:
        raise SystemExit(f"{script.relative_to(ROOT)} fails:\n{_ANSI.sub('', str(error))}") from None
    for cell in run.cells:
        cell.metadata.pop("execution", None)  # times, which differ
    for old in KEPT.glob(f"{script.stem}-*.ipynb"):
        old.unlink()
    nbformat.write(run, kept)
    return run


def _fingerprint(script: Path) -> str:
    """Of all that decides what comes out, in short."""
    content = hashlib.sha256()
    for path in [script, Path(__file__), *sorted((ROOT / "src" / "lowland").rglob("*.py"))]:
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


def write(work: Path) -> None:
    """Write a page and a notebook for each tutorial, and their index."""
    (work / "tutorials").mkdir()
    rows, pages = [], []
    for script in sorted(SCRIPTS.glob("*.py")):
        run = executed(script)
        name = script.stem.split("_", 1)[1].replace("_", "-")
        nbformat.write(notebook(script), work / "tutorials" / f"{name}.ipynb")
        text = page(run, work / "tutorials", name)
        (work / "tutorials" / f"{name}.md").write_text(text, encoding="utf-8")
        title, _, rest = text.partition("\n")
        rows.append(f"- [{title.removeprefix('# ')}]({name}.md). {rest.strip().split(chr(10) * 2)[0]}")
        pages.append(name)
    index = [_INTRODUCTION + "\n".join(rows) + "\n", "```{toctree}", ":hidden:", "", *pages, "```\n"]
    (work / "tutorials" / "index.md").write_text("\n".join(index), encoding="utf-8")


def page(run: Any, folder: Path, name: str) -> str:
    """A notebook that was run as Markdown; its pictures are written into ``folder``."""
    parts = []
    for number, cell in enumerate(run.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for place, output in enumerate(cell.outputs):
            parts.append(_shown(output, folder, f"{name}-{number}-{place}"))
    parts.append(f"The notebook: {{download}}`{name}.ipynb <{name}.ipynb>`.")
    return "\n\n".join(parts) + "\n"


def _shown(output: Any, folder: Path, name: str) -> str:
    """One output of a cell."""
    if output.output_type == "stream":
        return _text(output.text)
    data = output.data
    if "image/png" in data:
        (folder / f"{name}.png").write_bytes(base64.b64decode(data["image/png"]))
        return f"![what the cell draws]({name}.png)"
    if "text/html" in data:
        return f"````{{raw}} html\n<div class='output'>{data['text/html']}</div>\n````"
    return _text(data["text/plain"])


def _text(text: str) -> str:
    return f"````{{code-block}} text\n:class: output\n\n{_ANSI.sub('', text).rstrip()}\n````"
