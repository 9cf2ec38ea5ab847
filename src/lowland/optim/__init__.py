"""What goes into a user's own training loop: `SAM` and its family, and the same mathematics as pure functions."""

from importlib import import_module
from types import ModuleType

from lowland.optim import ascent, descent, functional, schedule, scope
from lowland.optim.compiled import compiled_step
from lowland.optim.options import MSam
from lowland.optim.previous import with_previous
from lowland.optim.sam import SAM
from lowland.optim.verify import verify_rule

__all__ = [
    "SAM",
    "MSam",
    "ascent",
    "compiled_step",
    "descent",
    "functional",
    "presets",
    "schedule",
    "scope",
    "verify_rule",
    "with_previous",
]


def __getattr__(name: str) -> ModuleType:
    """The presets are loaded when they are first asked for."""
    if name == "presets":
        return import_module("lowland.optim.presets")
    raise AttributeError(f"module 'lowland.optim' has no attribute {name!r}")
