"""Batches as a loop has them, pairs or dictionaries, and what they count."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_IGNORED = -100  # the label that cross-entropy leaves out


class Keywords(dict[str, Any]):
    """A batch that is a dictionary: what the model gets by name."""


def pair(batch: Any) -> tuple[Any, Any]:
    """What goes into the model, and what the loss gets beside: a pair as it is, a dictionary twice.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(batch, Mapping):
        return Keywords(batch), dict(batch)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(
            "batches is a list of pairs (x, y), [(x, y)] for a single one, or of dictionaries, whose entries are the "
            "model's arguments"
        )
    return batch[0], batch[1]


def examples(x: Any, y: Any) -> int:
    """How many examples a batch holds: as many as its tensors are long.

    Raises:
        TypeError: where that isn't clear: for an ``x`` that is no tensor, or entries of different lengths.
        ValueError: for integer labels of which some are ignored (−100): the loss is a mean over the others.
    """
    if not isinstance(x, Tensor | Keywords):
        raise TypeError(f"how many examples does a batch of {type(x).__name__} hold? Say so with weight=")
    labels = x.get("labels") if isinstance(x, Keywords) else y
    if isinstance(labels, Tensor) and not labels.is_floating_point() and bool((labels == _IGNORED).any()):
        counted = 'lambda batch, _: (batch["labels"]' if isinstance(x, Keywords) else "lambda x, y: (y"
        raise ValueError(
            f"some labels are ignored ({_IGNORED}), and the loss is a mean over the others: say what a batch counts "
            f"with weight=, {counted} != {_IGNORED}).sum() for example"
            + ', or of batch["labels"][:, 1:] where the model shifts them (causal language models)'
            * isinstance(x, Keywords)
        )
    if isinstance(x, Tensor):
        return len(x)
    lengths = {len(value) for value in x.values() if isinstance(value, Tensor) and value.dim()}
    if len(lengths) != 1:
        raise TypeError(
            f"how many examples does a batch hold whose entries ({', '.join(map(str, x))}) have the lengths "
            f"{sorted(lengths)}? Say so with weight=, a function of the batch twice"
        )
    return lengths.pop()


def own_loss(output: Any, y: Any) -> Tensor:
    """The loss that a model has computed itself: ``output.loss``, ``output["loss"]``, the first of several, or all.

    Raises:
        ValueError: if there is none.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None and isinstance(output, tuple | list) and output:
        loss = output[0]
    if loss is None and isinstance(output, Tensor):
        loss = output
    if not (isinstance(loss, torch.Tensor) and loss.dim() == 0):
        raise ValueError(
            f"loss_fn is None, and the model gave no loss but a {type(output).__name__}: do the batches have what it "
            "computes its loss from (labels, for most)? Or say loss_fn="
        )
    return loss
