"""The handwritten digits that come with scikit-learn: an experiment that needs no download."""

import numpy as np
import torch

from lowland.data.split import Split


def read() -> Split:
    """All 1,797 digits: pixels 0 to 16 as uint8 (1797, 1, 8, 8), labels int64 (1797,)."""
    from sklearn.datasets import load_digits  # here, because importing it takes a second

    digits = load_digits()
    return Split(
        torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1),
        torch.from_numpy(digits.target.astype(np.int64)),
    )
