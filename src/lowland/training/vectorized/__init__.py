"""Many runs of one network as one program: parameters stacked, one step for all of them."""

from lowland.training.vectorized.cost import chunk_size, too_large
from lowland.training.vectorized.loop import train_stacked
from lowland.training.vectorized.runs import NotStackable, Runs, program_key

__all__ = ["NotStackable", "Runs", "chunk_size", "program_key", "too_large", "train_stacked"]
