"""What an experiment's code is: its file, and the files beside it that it imports."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

_OURS = "lowland"  # its version stands in the summary


def code_of(path: Path, content: bytes) -> dict[str, str]:
    """File → SHA-256 of its content: the file, and those below its folder that it imports, directly or not.

    What is installed elsewhere doesn't count, nor does what is imported by a name that is made up at run time.

    Args:
        path: of the file.
        content: its source.
    """
    folder, found, left = path.parent, dict[str, str](), [(path, content)]
    while left:
        file, source = left.pop()
        if not file.is_relative_to(folder):
            continue
        name = file.relative_to(folder).as_posix()
        if name not in found:
            found[name] = hashlib.sha256(source).hexdigest()
            left += [(other, other.read_bytes()) for other in _imported(file, source, folder)]
    return dict(sorted(found.items()))


def _imported(file: Path, source: bytes, folder: Path) -> Iterator[Path]:
    """The files below ``folder`` that hold the modules which ``file`` imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # whoever executes it says so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(folder, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = folder if not node.level else file.parents[min(node.level, len(file.parents)) - 1]
            parts = node.module.split(".") if node.module else []
            yield from _files(base, parts)
            for alias in node.names:
                yield from _files(base, [*parts, alias.name])


def _files(base: Path, parts: list[str]) -> Iterator[Path]:
    """The files of the module ``parts``, and of the packages that it lies in."""
    if parts[:1] == [_OURS]:
        return
    for count in range(1, len(parts) + 1):
        place = base.joinpath(*parts[:count])
        for candidate in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if candidate.is_file():
                yield candidate
