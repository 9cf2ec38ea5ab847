"""Datasets with two features, each with its classes: the groups are their pairs."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import torch
from torch import Tensor

from lowland.data.files import data_root
from lowland.data.images import Crop, Listed, read_images
from lowland.data.split import Split
from lowland.errors import DataError

SPLITS = ("train", "validation", "test")  # as CelebA and Waterbirds number them


@dataclass(frozen=True, eq=False)
class GroupedDataset:
    """Three splits, every one with ``targets`` and ``attributes``.

    ``classes`` are the names of the targets, ``attributes`` those of the second feature's classes.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    attributes: tuple[str, ...]

    @property
    def group_names(self) -> tuple[str, ...]:
        """Of every group, in the order of their numbers."""
        return tuple(f"{target}, {attribute}" for target in self.classes for attribute in self.attributes)

    def groups(self, split: Split) -> Tensor:
        """The group of each example: target × number of attributes + attribute, int64 ``(n,)``.

        The numbering of Sagawa et al. 2020. ``split`` is one of this dataset's, or a part of one.
        """
        if split.targets is None or split.attributes is None:
            raise ValueError("a split without targets or attributes has no groups")
        return split.targets * len(self.attributes) + split.attributes

    def to(self, device: str | torch.device) -> "GroupedDataset":
        """The same dataset on ``device``."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )


@dataclass(frozen=True, eq=False)
class GroupedListing:
    """Such a dataset before its images are read; ``folder`` is what their names are relative to."""

    folder: Path
    splits: dict[str, Listed]
    classes: tuple[str, ...]
    attributes: tuple[str, ...]

    def problems(self) -> list[str]:
        """A line for each group without an example in validation or test, where its error can't be measured."""
        found = []
        for name in ("validation", "test"):
            part = self.splits[name]
            present = set(zip(part.targets, part.attributes or (), strict=True))
            for target, first in enumerate(self.classes):
                for attribute, second in enumerate(self.attributes):
                    if (target, attribute) not in present:
                        found.append(f"{self.folder}: no {name} image is of the group {first}, {second}")
        return found


def divide(rows: Iterable[tuple[str, int, int, int]], where: Path) -> dict[str, Listed]:
    """``(file, target, attribute, split)`` in any order as one `Listed` a split, each in the order of the rows.

    Raises `DataError` if a file comes twice or lies outside the folder, or a split has none; ``where`` is the table
    that says so.
    """
    parts: list[list[tuple[str, int, int]]] = [[] for _ in SPLITS]
    seen = set[str]()
    for file, target, attribute, split in rows:
        path = PurePath(file)
        if path.is_absolute() or path.drive or ".." in path.parts or not file.isprintable():
            raise DataError(f"{where} names {file[:200]!r}, which is no file in the folder of the images")
        if file in seen:
            raise DataError(f"{where} names {file} twice")
        seen.add(file)
        parts[split].append((file, target, attribute))
    for number, (name, part) in enumerate(zip(SPLITS, parts, strict=True)):
        if not part:
            raise DataError(f"{where} has no image of the {name} split (number {number})")
    return {
        name: Listed([file for file, _, _ in part], [target for _, target, _ in part], [second for *_, second in part])
        for name, part in zip(SPLITS, parts, strict=True)
    }


def read_grouped(
    name: str, root: str | Path | None, listing: GroupedListing, size: int, crop: Crop, progress: bool
) -> GroupedDataset:
    """The dataset of ``listing``, its images read by `read_images` with the data root's cache."""
    cache = data_root(root) / "cache" / name
    splits = read_images(listing.folder, cache, listing.splits, size, crop, progress)
    return GroupedDataset(name, **splits, classes=listing.classes, attributes=listing.attributes)
