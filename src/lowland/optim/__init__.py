"""What goes into a user's own training loop: `SAM` and its family, and the same mathematics as pure functions."""

from lowland.optim import ascent, descent, functional, presets, schedule, scope
from lowland.optim.compiled import compiled_step
from lowland.optim.previous import with_previous
from lowland.optim.sam import SAM

__all__ = [
    "SAM",
    "ascent",
    "compiled_step",
    "descent",
    "functional",
    "presets",
    "schedule",
    "scope",
    "with_previous",
]
