"""Images and points with two features: what is trained on, selected by, tested on and probed, and the batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.data import (
    GroupedDataset,
    Shuffled,
    Split,
    data_root,
    load_celeba,
    load_waterbirds,
    random_view,
    scale,
    seeded,
    stacked_images,
)
from lowland.data.stacked import STACKS
from lowland.errors import DataError, SettingError
from lowland.papers.images import load_once
from lowland.papers.springer2024.settings import LEAST_IN_GROUP, FeatureSettings, GroupedSettings, StackedSettings

# Of ImageNet's pixels in [0, 1], by channel; what its weights expect.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Where the class of the easy feature stands, and that of the hard one. Networks are trained on the targets. Of CelebA
# these are the easy feature, hair colour; gender is the hard one. Of Waterbirds (ours) the bird, the target, counts as
# the hard feature, and the background as the easy one.
ROLES = {"celeba": ("targets", "attributes"), "waterbirds": ("attributes", "targets")}
MARGIN = 0.1  # of the linear coordinate from 0, and of a slab from the middle of the gap beside it
OUTER = 0.25  # share of the outer two of 5 slabs in the points of their label


@dataclass(frozen=True)
class FeatureSets:
    """Images with two features, uint8.

    Attributes:
        train: what the network is trained on.
        validation: the same, held out; settings are selected by it.
        test: the same, of test images.
        probe_train: what probes are fitted on, a part of it held out for their regularization: images that the network
            was **not** trained on.
        probe_test: what they are tested on, likewise; of test images.
        prepare: uint8 images → the network's inputs.
        easy: where the class of the easy feature stands, ``"attributes"`` or ``"targets"``.
        hard: likewise of the hard one.
        probe_seen: pairs of the images that the network **was** trained on, paired anew so that the two features are
            independent; None where there are none.
    """

    train: Split
    validation: Split
    test: Split
    probe_train: Split
    probe_test: Split
    prepare: Callable[[Tensor], Tensor]
    easy: str = "attributes"
    hard: str = "targets"
    probe_seen: Split | None = None

    def batches(self, split: Split) -> "Prepared":
        """``split`` as pairs of inputs and targets."""
        assert split.targets is not None
        return Prepared(split.inputs, split.targets, self.prepare)


@dataclass(frozen=True)
class Prepared:
    """Batches of ``at_once`` inputs and their targets, in order, as often as they are asked for."""

    raw: Tensor
    targets: Tensor
    prepare: Callable[[Tensor], Tensor]
    at_once: int = 500

    def __len__(self) -> int:
        """The number of batches, a smaller last one included."""
        return -(-len(self.raw) // self.at_once)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for raw, targets in zip(self.raw.split(self.at_once), self.targets.split(self.at_once), strict=True):
            yield self.prepare(raw), targets


class ShuffledImages:
    """Minibatches in random order, without augmentation: a function of the step alone."""

    def __init__(self, sets: FeatureSets, settings: FeatureSettings):
        assert sets.train.targets is not None
        inputs, targets = sets.train.inputs, sets.train.targets
        self.shuffled = Shuffled(inputs, targets, settings.batch_size, settings.seed, drop_last=True)
        self.prepare = sets.prepare

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The network's inputs, and int64 ``(batch,)``."""
        images, targets = self.shuffled(step)
        return self.prepare(images), targets


class Views(ShuffledImages):
    """Minibatches in random order, of each image a random view: a function of the step alone."""

    def __init__(self, sets: FeatureSets, settings: GroupedSettings, device: torch.device):
        super().__init__(sets, settings)
        self.seed, self.device = settings.seed, device

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The network's inputs, and int64 ``(batch,)``."""
        images, targets = self.shuffled(step)
        generator = seeded(self.seed + 2**31, step)  # apart from the orders' draws
        views = random_view(scale(images.to(self.device), 255), generator=generator, colour=False)
        return normalized(views).contiguous(memory_format=layout(self.device)), targets


def normalized(images: Tensor) -> Tensor:
    """Photographs, ``(n, 3, height, width)`` in [0, 1], with ImageNet's mean and deviation; others as they are."""
    if images.shape[1] != len(MEAN):
        return images
    return (images - images.new_tensor(MEAN).view(3, 1, 1)) / images.new_tensor(DEVIATION).view(3, 1, 1)


def layout(device: torch.device) -> torch.memory_format:
    """The memory format in which convolutions of photographs are fast."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


class Sizes(NamedTuple):
    """How many stacked pairs there are of each kind."""

    train: int
    validation: int
    test: int
    probe: int
    probe_train: int


def stacked_sets(name: str, settings: StackedSettings, device: torch.device) -> FeatureSets:
    """The pairs of a seed; those of the probes are independent.

    The network's inputs are pixels/255 minus the mean pixel of the training pairs: one number for each channel.
    """
    sizes = Sizes(
        settings.examples, settings.validation_examples, settings.test_examples, settings.probe_examples,
        settings.probe_train_examples,
    )  # fmt: skip
    return _stacked_sets(data_root(), name, settings.seed, settings.correlation, sizes, device)


@lru_cache(maxsize=8)
def _stacked_sets(
    root: Path, name: str, seed: int, correlation: float, sizes: Sizes, device: torch.device
) -> FeatureSets:
    """Kept by all that they depend on, the data root included."""
    digits, images = load_once("mnist"), load_once(STACKS[name].below)
    made = stacked_images(
        name, digits, images, correlation=correlation, seed=seed, examples=sizes.train,
        validation_examples=sizes.validation, test_examples=sizes.test,
    ).to(device)  # fmt: skip
    apart = stacked_images(
        name, digits, images, correlation=0.0, seed=seed, examples=sizes.probe_train, validation_examples=sizes.probe,
        test_examples=sizes.test,
    ).to(device)  # fmt: skip
    mean = made.train.inputs.double().mean((0, 2, 3), keepdim=True).div(255).float()

    def prepare(pairs: Tensor) -> Tensor:
        return scale(pairs, 255) - mean

    return FeatureSets(
        made.train, made.validation, made.test, apart.validation, apart.test, prepare, probe_seen=apart.train
    )


def grouped_sets(name: str, settings: GroupedSettings, device: torch.device) -> FeatureSets:
    """The publisher's splits of CelebA or Waterbirds, or parts of them; the probes are fitted on validation images.

    Images stay where they are, memory-mapped; batches of them are brought to ``device``, and normalized there.

    Raises:
        DataError: if the data are missing or damaged, or a group has too few images for the probes.
        SettingError: for more training images than there are.
    """
    root = data_root()
    dataset = _load_groups(root, name, settings.size)
    count = len(dataset.train)
    if settings.examples > count:
        raise SettingError(
            f"examples is {settings.examples}, and {root / name} has {count} training images: choose less"
        )
    train = dataset.train
    if settings.examples < count:
        train = train.take(torch.randperm(count, generator=seeded(0, 2**30))[: settings.examples])
    validation, test = (
        part_of_groups(dataset, split, settings.held_out_examples, f"{root / name}: {which}")
        for split, which in ((dataset.validation, "validation"), (dataset.test, "test"))
    )

    def prepare(images: Tensor) -> Tensor:
        return normalized(scale(images.to(device), 255)).contiguous(memory_format=layout(device))

    train, validation, test = (_labels_on(split, device) for split in (train, validation, test))
    easy, hard = ROLES[name]
    return FeatureSets(train, validation, test, validation, test, prepare, easy, hard)


def part_of_groups(dataset: GroupedDataset, split: Split, examples: int, where: str) -> Split:
    """So many of ``split``, of each group its share but `LEAST_IN_GROUP` at least; all of them for 0.

    Raises:
        DataError: for a group with fewer.
    """
    groups = dataset.groups(split)
    part = min(1.0, examples / len(split)) if examples else 1.0
    chosen = []
    for number, name in enumerate(dataset.group_names):
        found = (groups == number).nonzero()[:, 0]
        if len(found) < LEAST_IN_GROUP:
            raise DataError(
                f"{where} has {len(found)} images of the group {name}, and probes take {LEAST_IN_GROUP} of each: "
                "place more there"
            )
        order = torch.randperm(len(found), generator=seeded(0, 2**30 + 1 + number))
        chosen.append(found[order[: max(LEAST_IN_GROUP, round(part * len(found)))]])
    return split if part == 1 else split.take(torch.cat(chosen).sort().values)


def _labels_on(split: Split, device: torch.device) -> Split:
    """The labels on ``device``, the images where they are."""
    assert split.targets is not None
    assert split.attributes is not None
    return replace(split, targets=split.targets.to(device), attributes=split.attributes.to(device))


@lru_cache(maxsize=1)
def _load_groups(root: Path, name: str, size: int) -> GroupedDataset:
    return (load_celeba if name == "celeba" else load_waterbirds)(root, size=size)


@dataclass(frozen=True)
class Points:
    """Points of several seeds: ``x`` ``(seeds, n, 2 + noise)``; ``easy`` and ``hard`` labels ±1, ``(seeds, n)``.

    The label to learn is the hard one's.
    """

    x: Tensor
    easy: Tensor
    hard: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Points":
        """The same there, as that type."""
        return Points(*(tensor.to(device, dtype) for tensor in (self.x, self.easy, self.hard)))


def draw_points(
    n: int, slabs: int, noise: int, correlation: float, seed: int, part: int, *, rotate: bool = False
) -> Points:
    """``n`` points of one seed, ``(1, n, …)`` each, float64.

    Coordinates lie in [−1, 1], as the public generator of Shah et al. 2020, *The Pitfalls of Simplicity Bias*, has
    them. The first is easy: its label times a number that is uniform in [`MARGIN`, 1]. The second is hard: an odd
    number of slabs of equal width with gaps of 2 `MARGIN` between them, whose labels alternate from − in the centre on.
    The coordinate lies in one of those of its label, uniformly, and on either side alike. Of 5 slabs the outer two have
    a quarter of their label's points. The others are uniform (ours: around 0). With probability ``correlation`` the
    easy label is the hard one, else either.

    Args:
        n: how many.
        slabs: 3 or 5.
        noise: coordinates without meaning.
        correlation: in [0, 1].
        seed: of the draws, and of the rotation.
        part: 0, 1, ... for training, validation, ... points, each a draw of its own.
        rotate: whether all points are rotated at random, alike in all parts.
    """
    generator = seeded(seed, 2**30 + part)

    def uniform() -> Tensor:
        return torch.rand(n, generator=generator, dtype=torch.float64)

    def sign() -> Tensor:
        return torch.where(uniform() < 0.5, 1.0, -1.0).double()

    hard = sign()
    easy = torch.where(uniform() < correlation, hard, sign())
    linear = easy * (MARGIN + (1 - MARGIN) * uniform())
    width = (2 - 2 * (slabs - 1) * MARGIN) / slabs
    outer = torch.where(uniform() < OUTER, 2, 0) if slabs == 5 else torch.zeros(n, dtype=torch.int64)
    ring = torch.where(hard > 0, 1, outer)  # 0 is the slab in the centre
    within = width * uniform()
    distance = torch.where(ring > 0, (ring - 0.5) * width + 2 * MARGIN * ring + within, within / 2)
    slabbed = sign() * distance
    others = 2 * torch.rand(n, noise, generator=generator, dtype=torch.float64) - 1
    x = torch.cat([linear[:, None], slabbed[:, None], others], 1)
    if rotate:
        drawn = torch.randn(x.shape[1], x.shape[1], generator=seeded(seed, 2**30 - 1), dtype=torch.float64)
        x = x @ torch.linalg.qr(drawn)[0]
    return Points(x[None], easy[None], hard[None])


def together(several: list[Points]) -> Points:
    """The points of several seeds, concatenated in the order given."""
    return Points(*(torch.cat([getattr(each, name) for each in several]) for name in ("x", "easy", "hard")))
