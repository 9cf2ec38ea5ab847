"""Sharpness-aware training: the optimizer, measurements of what it does, and the experiments of three papers.

The optimizer is `lowland.SAM`. The measurements are in `lowland.curvature` and `lowland.features`, the datasets in
`lowland.data`. The experiments run from the command line, and in Python from `lowland.experiments`.
"""

from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowland import curvature, optim
    from lowland.curvature import Hessian, Monitor
    from lowland.optim import SAM, MSam, presets

__all__ = ["SAM", "Hessian", "MSam", "Monitor", "__version__", "curvature", "optim", "presets"]
__version__ = "0.1.0"  # the only place: pyproject.toml reads it here

_ON_DEMAND = (
    "adapters", "compat", "curvature", "data", "experiments", "features", "models", "optim", "papers", "report",
    "training",
)  # fmt: skip
_FROM = {"SAM": "optim", "MSam": "optim", "presets": "optim", "Hessian": "curvature", "Monitor": "curvature"}
_ROOMS = ("optim", "optim.presets", "optim.schedule", "optim.functional", "curvature", "features", "data", "models")


def __getattr__(name: str) -> Any:
    """Import a subpackage on first access. So the command line starts without waiting for torch."""
    if name in _ON_DEMAND or name in _FROM:
        import sys

        from lowland.patience import loading

        with loading("torch") if "torch" not in sys.modules else nullcontext():
            room = import_module(f"lowland.{_FROM.get(name, name)}")
        return getattr(room, name) if name in _FROM else room
    if not name.startswith("_") and find_spec(f"lowland.{name}") is not None:
        return import_module(f"lowland.{name}")  # a module of the ground floor, which loads nothing
    also = "" if name.startswith("_") else _elsewhere(name)
    raise AttributeError(f"module 'lowland' has no attribute {name!r}{also}")


def __dir__() -> list[str]:
    """What is public."""
    return sorted({*__all__, *_ON_DEMAND})


def _elsewhere(name: str) -> str:
    """Where there is something of that name, for the error; or what is public here."""
    from lowland.errors import suggestion

    for room in _ROOMS:
        module = import_module(f"lowland.{room}")
        found = getattr(module, name, None)
        if name in getattr(module, "__all__", ()) or getattr(found, "__module__", None) == module.__name__:
            return f": it is lowland.{room}.{name}"
    methods = import_module("lowland.optim.foreign").METHODS
    if name in methods:
        return f": {methods[name]}"
    return "." + suggestion(name, __dir__())
