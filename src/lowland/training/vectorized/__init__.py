"""Many runs of one network as one program: tensors with one entry a run, one step for all of them."""

from lowland.training.vectorized.alone import unlike
from lowland.training.vectorized.cost import chunk_size, too_large
from lowland.training.vectorized.program import train_vectorized
from lowland.training.vectorized.runs import NotVectorizable, Runs, program_key

__all__ = ["NotVectorizable", "Runs", "chunk_size", "program_key", "too_large", "train_vectorized", "unlike"]
