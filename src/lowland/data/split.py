"""A set of examples as tensors, and how to hold some of them out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.errors import SettingError


@dataclass(frozen=True, eq=False)
class Split:
    """Examples in order: a training set, a test set, or a part of one.

    ``inputs``: uint8 (n, channels, height, width), or (characters,) for text. ``targets``: int64 (n,), None
    for text. ``coarse_targets``: int64 (n,), the groups of CIFAR-100's classes, else None. ``attributes``: int64 (n,),
    the class of a second feature (the digit above an image, the background, the colour), else None.
    """

    inputs: Tensor
    targets: Tensor | None = None
    coarse_targets: Tensor | None = None
    attributes: Tensor | None = None

    def __repr__(self) -> str:
        """Which tensors there are, and their shapes."""
        there = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        parts = (
            f"{name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            for name, tensor in there
            if tensor is not None
        )
        return f"Split({', '.join(parts)})"

    def __len__(self) -> int:
        """The number of examples; for text, of characters."""
        return len(self.inputs)

    def to(self, device: str | torch.device) -> "Split":
        """The same examples on ``device``."""
        return self._each(lambda tensor: tensor.to(device))

    def take(self, indices: Tensor) -> "Split":
        """The examples at ``indices``, int64 (k,) on any device, in that order."""
        return self._each(lambda tensor: tensor[indices.to(tensor.device)])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Split":
        return Split(
            change(self.inputs),
            None if self.targets is None else change(self.targets),
            None if self.coarse_targets is None else change(self.coarse_targets),
            None if self.attributes is None else change(self.attributes),
        )


def split_validation(split: Split, fraction: float = 0.1, seed: int = 0) -> tuple[Split, Split]:
    """Hold a random ``fraction`` of the examples out: (the rest, the held out).

    The draw depends on ``seed`` and the number of examples alone, neither on torch's global generator nor on
    the device. Raises `SettingError` if ``fraction`` is not between 0 and 1, or if ``split`` is text, where
    a random character is no example.
    """
    if not 0 < fraction < 1:
        raise SettingError(f"The validation fraction must lie between 0 and 1; it is {fraction}.")
    if split.targets is None:
        raise SettingError("Text can't be held out at random, character by character.")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    held_out = round(fraction * len(split))
    return split.take(order[held_out:]), split.take(order[:held_out])
