"""Loss and error on a test set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Test examples, all of which count the same.

    Attributes:
        inputs: ``(n, ...)``.
        targets: as the loss takes them, ``(n, ...)``.
        labels: the right class of each prediction, ``(n,)``, or ``(n, length)`` for text.
        chunk: examples that go through the network at a time.
    """

    inputs: Tensor
    targets: Tensor
    labels: Tensor
    chunk: int = 500

    def __call__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor]) -> dict[str, float]:
        """``test_loss``, the mean, and ``test_error``, the share of predictions whose most likely class is wrong."""
        loss, wrong = 0.0, 0
        with torch.no_grad():
            for x, y, labels in zip(
                *(part.split(self.chunk) for part in (self.inputs, self.targets, self.labels)), strict=True
            ):
                outputs = model(x)
                loss += loss_fn(outputs, y).item() * len(x)
                wrong += int((outputs.argmax(-1) != labels).sum())
        return {"test_loss": loss / len(self.inputs), "test_error": wrong / self.labels.numel()}
