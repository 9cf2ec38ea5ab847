"""Lines of the user's code, for messages."""

import sys
from pathlib import Path
from types import FrameType

import torch


def line() -> str:
    """Where the closure is, as file:line."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_theirs(frame):
        frame = frame.f_back
    return _UNKNOWN if frame is None else _place(frame, frame.f_lineno)


def line_of(error: BaseException) -> str:
    """The last line of the closure that ``error`` came through, as file:line."""
    found, trace = _UNKNOWN, error.__traceback__
    while trace is not None:
        if _is_theirs(trace.tb_frame):
            found = _place(trace.tb_frame, trace.tb_lineno)
        trace = trace.tb_next
    return found


def _is_theirs(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(_NOT_THEIRS)


def _place(frame: FrameType, number: int) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{number}"


_UNKNOWN = "line unknown"
_NOT_THEIRS = ("<", str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
