"""What goes into a user's own training loop: `SAM`, and the same mathematics as pure functions."""

from lowland.optim import functional
from lowland.optim.sam import SAM

__all__ = ["SAM", "functional"]
