"""SAM in the training loops of other libraries: a module for each, which needs that library and nothing else."""
