"""The errors that a user can do something about.

The command line prints the message of a `LowlandError` as one line and exits with code 2. Any other exception is a bug
of ours and keeps its traceback.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_MEMORY = re.compile(
    r"memory|bad_alloc|size calculation overflow|overflow when unpacking|multiplication overflow"
    r"|too (large|big) to convert|array is too big|maximum (allowed|supported) (dimension|size)",
    re.IGNORECASE,
)


class LowlandError(Exception):
    """An error that the user can fix; the message says what happened and what to do.

    The text is one line. Characters that can't be printed, in a file name for example, are escaped.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return text if text.isprintable() else "".join(map(_printable, text))


class DataError(LowlandError):
    """A dataset is missing, damaged, or could not be fetched; the message names the file."""


class SettingError(LowlandError):
    """An unknown name, or a value of the wrong type or outside its range."""


class RunError(LowlandError):
    """A run directory or a file of weights can't be used: missing, in use, damaged, or of another configuration."""


class ExperimentError(LowlandError):
    """A function of an experiment of one's own failed, ``build`` say; the cause is the exception that it raised.

    Attributes:
        frames: the user's own frames, as a traceback prints them, the outermost first; none if the exception comes from
            a library to which the experiment gave what doesn't fit.

    Args:
        message: which function failed, and where.
        frames: see above.
    """

    def __init__(self, message: str, frames: Sequence[str] = ()):
        super().__init__(message)
        self.frames = tuple(frames)


class UsageError(LowlandError):
    """A bad option or argument on the command line; the message is typer's."""


class ElsewhereError(LowlandError):
    """Another process of the same run failed and prints why; this one exits without a message."""


def is_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory is exhausted, or that a size overflows.

    Python has a class for that; errors of torch and NumPy only say it in their text.
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, ImportError):  # of a library's compiled part
        return "failed to map segment" in str(error) or "cannot allocate memory" in str(error).lower()
    if not isinstance(error, RuntimeError | TypeError | ValueError | OverflowError) or isinstance(error, UnicodeError):
        return False
    return _MEMORY.search(f"{type(error).__name__} {error}") is not None


def suggestion(name: str, known: Iterable[str]) -> str:
    """``" Did you mean ...?"`` with the nearest of ``known``, or the whole list if nothing is near."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known)}."


def install(extra: str) -> str:
    """The pip command for an optional part: ``extra`` is a name under ``optional-dependencies`` in pyproject.toml."""
    return f"in a clone of Lowland: pip install '.[{extra}]'"


def _printable(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
