"""SAM in the training loops of other libraries: one module for each, which imports only that library."""
