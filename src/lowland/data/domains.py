"""Datasets of several domains that have the same classes, to train on some and test on another.

On disk they are folders: ``NAME/DOMAIN/CLASS/IMAGE``, as Gulrajani & Lopez-Paz 2021, *In search of lost domain
generalization*, lay them out.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lowland.data.files import data_root, placed, readable
from lowland.data.images import EXTENSIONS, Listed, read_images, some
from lowland.data.registry import DATASETS, source
from lowland.data.split import Split
from lowland.errors import DataError, SettingError

#: The datasets of domain folders, by name.
DOMAIN_FOLDERS = ("pacs", "vlcs", "office-home", "terra-incognita", "domain-net")


@dataclass(frozen=True, eq=False)
class Domains:
    """The domains of a dataset, by name, and the names of the classes."""

    name: str
    splits: dict[str, Split]
    classes: tuple[str, ...]

    def to(self, device: str | torch.device) -> "Domains":
        """The same dataset on ``device``."""
        return replace(self, splits={name: split.to(device) for name, split in self.splits.items()})


def load_domains(name: str, root: str | Path | None = None, *, size: int = 224, progress: bool = True) -> Domains:
    """One of `DOMAIN_FOLDERS` from the data root, its images decoded once for each size.

    Args:
        name: of the dataset.
        root: the data root; by default ``$LOWLAND_DATA``.
        size: height and width of the images, which are resized as a whole.
        progress: whether a bar is shown on stderr, where it is a terminal.

    Returns:
        Each domain's images, uint8 ``(n, 3, size, size)``, memory-mapped, sorted by class and name. The classes are
        the names of their folders, sorted.

    Raises:
        DataError: for an unknown name; if the domains don't have the same class folders, or one of them no image; for
            images that can't be read.
        SettingError: for a dataset without domain folders, or a size below 1.
    """
    if source(name).name not in DOMAIN_FOLDERS:
        raise SettingError(f"{name} has no domain folders; those that have: {', '.join(DOMAIN_FOLDERS)}.")
    folder = data_root(root) / name
    listed, classes = listing(name, folder)
    splits = read_images(folder, data_root(root) / "cache" / name, listed, size, "whole", progress)
    return Domains(name, splits, classes)


def listing(name: str, folder: Path) -> tuple[dict[str, Listed], tuple[str, ...]]:
    """The images of every domain, and the classes; raises as `load_domains` does."""
    domains = placed(DATASETS[name], folder)
    found = {domain.name: _folders(domain) for domain in domains}
    classes = sorted(set().union(*found.values()))
    if not classes:
        raise DataError(f"{folder}: the domains have no class folders")
    for domain, there in found.items():
        lacking = [name for name in classes if name not in there]
        if lacking:
            raise DataError(f"{folder / domain} lacks the class folders {some(lacking)}, which other domains have")
    listed = {}
    for domain in found:
        files, targets = list[str](), list[int]()
        for target, label in enumerate(classes):
            images = _images(folder / domain / label)
            if not images:
                raise DataError(f"{folder / domain / label} has no images")
            files += [f"{domain}/{label}/{image}" for image in images]
            targets += [target] * len(images)
        listed[domain] = Listed(files, targets)
    return listed, tuple(classes)


def _folders(path: Path) -> set[str]:
    with readable(path), os.scandir(path) as entries:
        return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}


def _images(path: Path) -> list[str]:
    with readable(path), os.scandir(path) as entries:
        names = (entry.name for entry in entries if not entry.name.startswith("."))
        return sorted(name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS)
