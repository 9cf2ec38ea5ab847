"""What goes into a user's own training loop: `SAM`, and the same mathematics as pure functions."""

from lowland.optim import functional
from lowland.optim.compiled import compiled_step
from lowland.optim.sam import SAM

__all__ = ["SAM", "compiled_step", "functional"]
