"""Many runs of one network as one program: parameters stacked, one step for all of them."""

from lowland.training.stacked.cost import chunk_size, too_large
from lowland.training.stacked.loop import train_stacked
from lowland.training.stacked.runs import NotStackable, Runs, program_key

__all__ = ["NotStackable", "Runs", "chunk_size", "program_key", "too_large", "train_stacked"]
