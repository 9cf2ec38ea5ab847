"""What the papers' experiments on images share: reading a dataset once, switches for the device, errors and losses."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.data import Dataset, data_root, load

SWITCH = ("auto", "on", "off")


def load_once(name: str) -> Dataset:
    """The dataset, from memory if it is one of the two that were read last: the arms of a run share it."""
    return _load(data_root(), name)


@lru_cache(maxsize=2)
def _load(root: Path, name: str) -> Dataset:
    return load(name, root)


def switched(value: str, device: torch.device) -> bool:
    """Whether a setting of `SWITCH` is on: auto is on for CUDA."""
    return device.type == "cuda" if value == "auto" else value == "on"


def error_and_loss(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The share of examples that ``model``, in the mode it is in, gets wrong, and its mean cross-entropy in float32."""
    wrong, loss, examples = 0.0, 0.0, 0
    with torch.no_grad():
        for x, y in batches:
            output = model(x).float()
            wrong += (output.argmax(1) != y).sum().item()
            loss += F.cross_entropy(output, y, reduction="sum").item()
            examples += len(y)
    return wrong / examples, loss / examples
