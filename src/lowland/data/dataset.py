"""A dataset by name, as tensors."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lowland.data import registry
from lowland.data.download import fetch, hold_against_record
from lowland.data.files import UnreadableError, data_root, find, found
from lowland.data.formats import FORMATS, read, read_digits
from lowland.data.split import Split
from lowland.errors import DataError, SettingError


@dataclass(frozen=True, eq=False)
class Dataset:
    """A whole dataset; ``test`` is None where the publisher made no split, ``classes`` is empty for text."""

    name: str
    train: Split
    test: Split | None
    classes: tuple[str, ...]

    def to(self, device: str | torch.device) -> "Dataset":
        """The same dataset on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test and self.test.to(device))


def load(name: str, root: str | Path | None = None) -> Dataset:
    """The dataset ``name`` from the data root, fetched there first if a file of it is missing.

    Raises `DataError` for an unknown name, for a file that is missing and can't be fetched, and for one that
    is damaged, or was downloaded and has another checksum now; the message names the file and says what to do.
    Raises `SettingError` for a dataset of image files, which has a reader of its own.
    """
    source = registry.source(name)
    if source.format == "images":
        raise SettingError(f"{name} is made of image files: use load_celeba, load_waterbirds or load_domains.")
    if source.format == "scikit-learn":
        return Dataset(name, read_digits(), None, source.classes)
    folder = data_root(root) / name
    if any(find(part, folder) is None for part in source.parts):
        fetch(name, root)
    arrays, problems = read(source, folder)
    if not problems:
        for path in found(source, folder):
            hold_against_record(path)
    if problems:
        if isinstance(problems[0], UnreadableError):
            raise DataError(f"{problems[0]}. Mend that, and run the same again") from problems[0]
        raise DataError(f"{problems[0]}. Replace it, or remove it and run: lowland data fetch {name}")
    train, test = FORMATS[source.format].splits(arrays, source)
    return Dataset(name, train, test, source.classes)
