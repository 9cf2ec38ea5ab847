"""What one architecture of the table is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

Batch = Mapping[str, Tensor]
Losses = Callable[[nn.Module, Batch], Tensor]

CLASSES = 3


@dataclass(frozen=True)
class Case:
    """One architecture, and a task for it.

    Attributes:
        name: as people call it.
        source: the library and its name there.
        build: makes the model, randomly initialised.
        data: from a batch's size and its number (0 for the first, 1 for the next) to its tensors, all with the
            examples along their first dimension.
        losses: of each example, shape (examples,), from the model and a batch.
        refused: words of the error, where the losses aren't those of one example each.
    """

    name: str
    source: str
    build: Callable[[], nn.Module]
    data: Callable[[int, int], Batch]
    losses: Losses
    refused: str | None = None


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Of each example."""
    return F.cross_entropy(logits, y, reduction="none")


def over_tokens(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over the tokens of each sequence, without its padding."""
    each = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (each * mask).sum(1) / mask.sum(1)
