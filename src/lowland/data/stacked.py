"""Stacked images: a digit above another image, so that an easy and a hard feature say the same class, or not.

After Shah et al. 2020, *The pitfalls of simplicity bias in neural networks* (MNIST over CIFAR-10), and Kirichenko et
al. 2022, *Last layer re-training is sufficient for robustness to spurious correlations* (MNIST over Fashion-MNIST).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowland.data.batches import seeded
from lowland.data.dataset import Dataset
from lowland.data.grouped import GroupedDataset
from lowland.data.split import Split
from lowland.errors import SettingError, suggestion

SIDE = 32
VALIDATION = 0.1  # of the training images of each class


@dataclass(frozen=True)
class Stack:
    """Which images are stacked: class i of the task is ``digits[i]`` above ``images[i]`` of the dataset ``below``."""

    below: str
    digits: tuple[int, ...]
    images: tuple[int, ...]


STACKS = {
    "cifar-mnist": Stack("cifar-10", (0, 1), (1, 9)),  # automobile, truck
    "fmnist-mnist": Stack("fashion-mnist", (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)),
}


def stacked_images(
    name: str,
    mnist: Dataset,
    below: Dataset,
    *,
    correlation: float = 1.0,
    seed: int = 0,
    examples: int | None = None,
    validation_examples: int | None = None,
    test_examples: int | None = None,
) -> GroupedDataset:
    """Pairs of a digit (the easy feature) above an image (the hard feature), whose class is the target.

    With probability ``correlation`` the digit is of the target's class; otherwise its class is drawn from all of the
    task's, uniformly. So 1 makes the features redundant, and 0 independent; in between it is Pearson's correlation of
    being in a class with the digit being in it. A decorrelated probe set is the same call with ``correlation=0``: it
    draws from the same images, split by split.

    Training, validation and test have no image in common: a tenth of each class of the training images, chosen by
    ``seed`` alone, are for validation; test pairs are of test images. Within a split no two pairs have the same image
    below; digits are dealt in random order, and dealt again when a class has no more of them.

    Args:
        name: of the task, in `STACKS`.
        mnist: the digits, as `load` gives them.
        below: the other images, on the same device, where the pairs are made. Their shape is at most 32 × 32.
        correlation: in [0, 1].
        seed: of all draws, which are made on the CPU and so are the same on every device.
        examples: training pairs; by default as many as there are images for. Each class has as many as the others, or
            one more.
        validation_examples: the same for validation.
        test_examples: the same for test.

    Returns:
        Inputs uint8 ``(n, 3, 64, 32)``: both images padded with zeros to 32 × 32, grey ones repeated in three channels.
        ``targets`` are the classes below, ``attributes`` those of the digits.

    Raises:
        SettingError: for an unknown name, a correlation outside [0, 1], or a number of examples below 1 or above that
            of the images.
        ValueError: if ``below`` is another dataset.
    """
    if name not in STACKS:
        raise SettingError(f"There are no stacked images {name!r}.{suggestion(name, STACKS)}")
    if not 0 <= correlation <= 1:
        raise SettingError(f"The correlation of the two features must lie between 0 and 1; it is {correlation}.")
    stack = STACKS[name]
    if below.name != stack.below:
        raise ValueError(f"{name} stacks digits above {stack.below}, not above {below.name}")
    if mnist.test is None or below.test is None:
        raise ValueError("stacked images are made from datasets with a test split")
    generator = seeded(seed, 2**30)
    digits, digits_held_out = _divided(_by_class(mnist.train, stack.digits, generator))
    images, images_held_out = _divided(_by_class(below.train, stack.images, generator))
    digits_test = _by_class(mnist.test, stack.digits, generator)
    images_test = _by_class(below.test, stack.images, generator)
    return GroupedDataset(
        name,
        _pairs(mnist.train, digits, below.train, images, examples, correlation, seeded(seed, 2**30 + 1)),
        _pairs(
            mnist.train, digits_held_out, below.train, images_held_out, validation_examples, correlation,
            seeded(seed, 2**30 + 2),
        ),
        _pairs(
            mnist.test, digits_test, below.test, images_test, test_examples, correlation, seeded(seed, 2**30 + 3)
        ),
        classes=tuple(below.classes[i] for i in stack.images),
        attributes=tuple(mnist.classes[i] for i in stack.digits),
    )  # fmt: skip


def _by_class(split: Split, classes: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """The examples of each class in random order, as indices on the CPU."""
    if split.targets is None:
        raise ValueError("images without labels can't be stacked")
    targets = split.targets.cpu()
    found = [(targets == label).nonzero().flatten() for label in classes]
    return [indices[torch.randperm(len(indices), generator=generator)] for indices in found]


def _divided(by_class: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The examples of each class, divided into those for training and those for validation."""
    cuts = [round(VALIDATION * len(indices)) for indices in by_class]
    return (
        [indices[cut:] for indices, cut in zip(by_class, cuts, strict=True)],
        [indices[:cut] for indices, cut in zip(by_class, cuts, strict=True)],
    )


def _pairs(
    above: Split,
    digits: list[Tensor],
    below: Split,
    images: list[Tensor],
    examples: int | None,
    correlation: float,
    generator: torch.Generator,
) -> Split:
    classes = len(images)
    most = classes * min(map(len, images)) if min(map(len, digits)) else 0
    n = most if examples is None else examples
    if not 1 <= n <= most:
        raise SettingError(f"There are images for 1 to {most} pairs, not for {n}.")
    targets = (torch.arange(n) % classes)[torch.randperm(n, generator=generator)]
    agree = torch.rand(n, generator=generator) < correlation
    attributes = torch.where(agree, targets, torch.randint(classes, (n,), generator=generator))
    top = _square(above.take(_dealt(digits, attributes)).inputs)
    bottom = _square(below.take(_dealt(images, targets)).inputs)
    device = bottom.device
    return Split(torch.cat([top, bottom], dim=2), targets.to(device), attributes=attributes.to(device))


def _dealt(by_class: list[Tensor], labels: Tensor) -> Tensor:
    """For each of ``labels`` the next example of that class, from the first again when there are no more."""
    dealt = torch.empty_like(labels)
    for label, indices in enumerate(by_class):
        wanted = (labels == label).nonzero().flatten()
        dealt[wanted] = indices[torch.arange(len(wanted)) % max(1, len(indices))]
    return dealt


def _square(images: Tensor) -> Tensor:
    """``(n, 1 or 3, height, width)`` with zeros around them, ``(n, 3, 32, 32)``."""
    rows, columns = SIDE - images.shape[2], SIDE - images.shape[3]
    padded = pad(images, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
    return padded.expand(-1, 3, -1, -1)
