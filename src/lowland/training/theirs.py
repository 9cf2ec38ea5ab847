"""Whose code failed: exceptions that come out of an experiment's own functions, said with the user's own lines."""

import dataclasses
import errno
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lowland.errors import ExperimentError, LowlandError, is_memory, suggestion
from lowland.training.settings import Settings
from lowland.values import Foreign

_OURS = Path(__file__).resolve().parents[1]
_OPTIM = _OURS / "optim"
_INSTALLED = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
_MACHINE = re.compile("CUDA error|MPS|start new thread|by peer|Broken pipe|gloo|NCCL")  # what RuntimeErrors of it say
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # OSErrors of it
_LOSSES = Path(torch.nn.functional.__file__)


def is_users(file: str, path: Path) -> bool:
    """Whether ``file`` is the user's own: the file at ``path``, or one that lies with it and wasn't installed."""
    place = Path(file)
    if place == path:
        return True
    return place.is_relative_to(path.parent) and not any(map(place.is_relative_to, (_OURS, *_INSTALLED)))


def file_of(function: Foreign) -> Path | None:
    """The file that defines ``function``, or the class of a callable object; None for one of ours, or if unknown."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    file = code.co_filename if code is not None else getattr(module, "__file__", None)
    if not file or Path(file).is_relative_to(_OURS):
        return None
    return Path(file)


def _is_machines(error: Exception) -> bool:
    """Whether it is the machine's fault, or another process's."""
    disk = isinstance(error, OSError) and error.errno in _DISK
    return disk or is_memory(error) or isinstance(error, dist.DistError) or _MACHINE.search(str(error)) is not None


@contextmanager
def calling(what: str, name: str, build: Foreign, passing: Sequence[type[Exception]] = ()) -> Iterator[None]:
    """In here an experiment's own functions are called; what they raise becomes an ExperimentError.

    That has the exception for its cause. Left as they are: errors of Lowland, a loss that isn't finite, what is the
    machine's fault, and exceptions that come from nothing that the experiment gave. So are all where ``build`` is ours.

    Args:
        what: is done, ``"build"`` or ``"training"``.
        name: of the experiment.
        build: the function that builds its tasks, by whose file the user's own files are told from others.
        passing: exceptions that are left as they are, too.

    Raises:
        ExperimentError: see above.
    """
    path = file_of(build)
    try:
        yield
    except (LowlandError, FloatingPointError):
        raise
    except Exception as error:
        if path is None or isinstance(error, tuple(passing)) or _is_machines(error):
            raise
        said = _said(error, what, path, build)
        if said is None:
            raise
        where, frames = said
        if isinstance(error, AttributeError) and isinstance(error.obj, Settings):
            known = [field.name for field in dataclasses.fields(error.obj)]
            raise ExperimentError(
                f"{name}: {where}: there is no setting {error.name}.{suggestion(str(error.name), known)}"
            ) from error
        text = " ".join(str(error).split())
        kind = type(error).__name__
        raise ExperimentError(f"{name}: {where}: {kind}{': ' if text else ''}{text}", frames) from error


def _said(error: Exception, what: str, path: Path, build: Foreign) -> tuple[str, list[str]] | None:
    """Which function failed and where, and the user's own frames as a traceback prints them; None if it is none."""
    walked = list(traceback.walk_tb(error.__traceback__))
    own = [(frame, line) for frame, line in walked if is_users(frame.f_code.co_filename, path)]
    innermost = Path(walked[-1][0].f_code.co_filename)
    if own:
        if what == "training" and innermost.is_relative_to(_OPTIM):
            return None  # it called us, and we failed
        frame, line = own[-1]
        outer = own[0][0].f_code.co_qualname.replace("<locals>.", "")
        function = what if outer == what else f"{what} ({outer})"
        frames = traceback.StackSummary.extract(iter(own))
        layer = _layer([each for each, _ in walked], frame)
        at = f"{function} failed at {_shown(frame)}, line {line}"
        return f"{at}, in {layer}" if layer else at, traceback.format_list(frames)
    if isinstance(error, OSError) or innermost.is_relative_to(_OURS):
        return None
    layer = _layer([frame for frame, _ in walked])
    if not layer and not any(Path(frame.f_code.co_filename) == _LOSSES for frame, _ in walked):
        return None
    made = getattr(build, "__code__", None)  # the network's own code has no line here: where it was made has one
    origin = [traceback.FrameSummary(made.co_filename, made.co_firstlineno, made.co_name)] if made else []
    return f"{what} failed in {layer or 'the loss'}", traceback.format_list(origin)


def _shown(frame: FrameType) -> str:
    file = Path(frame.f_code.co_filename)
    if not file.is_file():
        return "a cell of the notebook"
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def _layer(frames: Sequence[FrameType], after: FrameType | None = None) -> str:
    """The innermost layer whose forward pass was under way, with what it was given; empty if there is none.

    Args:
        frames: of the exception, the outermost first.
        after: the user's innermost frame: only what it called is named.
    """
    calls = [frame for frame in frames if frame.f_code.co_name == "_call_impl" and _self(frame) is not None]
    inside = calls if after is None else [frame for frame in calls if frames.index(frame) > frames.index(after)]
    if not inside:
        return ""
    outer, inner = _self(calls[0]), _self(inside[-1])
    assert outer is not None
    assert inner is not None
    name = next((name for name, module in outer.named_modules() if module is inner), "")
    kind = type(inner).__name__ if any(inner.children()) else " ".join(repr(inner).split())
    given = [tuple(each.shape) for each in inside[-1].f_locals.get("args", ()) if isinstance(each, Tensor)]
    where = f"the layer {name} of {type(outer).__name__}, {kind}" if name else f"the forward pass of {kind}"
    return where + (f", given {', '.join(map(str, given))}" if given else "")


def _self(frame: FrameType) -> nn.Module | None:
    module = frame.f_locals.get("self")
    return module if isinstance(module, nn.Module) else None
