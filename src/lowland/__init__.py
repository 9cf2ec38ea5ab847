"""Sharpness-aware training: the optimizer, measurements of what it does, and the experiments of three papers.

The optimizer is `lowland.SAM`. The measurements are in `lowland.curvature` and `lowland.features`, the datasets in
`lowland.data`. The experiments run from the command line, or in Python from `lowland.papers` with `lowland.training`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowland import optim
    from lowland.optim import SAM

__all__ = ["SAM", "__version__", "curvature", "optim"]
__version__ = "0.1.0"  # the only place: pyproject.toml reads it here

_ON_DEMAND = ("adapters", "compat", "curvature", "data", "features", "models", "optim", "papers", "report", "training")


def __getattr__(name: str) -> Any:
    """Import a subpackage on first access. So the command line starts without waiting for torch."""
    if name == "SAM":
        return import_module("lowland.optim").SAM
    if name in _ON_DEMAND:
        return import_module(f"lowland.{name}")
    raise AttributeError(f"module 'lowland' has no attribute {name!r}")
