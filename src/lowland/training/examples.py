"""Sets of examples, of tensors or of a torch Dataset, and their batches as functions of seed and step alone."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count, islice
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, default_collate

from lowland.data import Shuffled, Split, WholeBatch, seeded, split_validation
from lowland.data.batches import copied
from lowland.errors import SettingError
from lowland.training.task import Batch, moved
from lowland.values import Foreign, Kwargs, Tree

_CHUNK = 500  # examples that a check passes through the network at a time
_HELD_OUT = 0.1
_CPU = torch.device("cpu")
_TAKES = "(x, y) as two tensors, a map-style torch Dataset, or a DataLoader of one"

#: What a caller may give: see `examples_of`.
Source = Foreign
Indices = Sequence[int]


class ExampleSet(Protocol):
    """ExampleSet in order."""

    def __len__(self) -> int:
        """How many there are."""

    def first(self, count: int) -> "ExampleSet":
        """The first ones."""

    def held_out(self) -> "tuple[ExampleSet, ExampleSet]":
        """The rest, and a random tenth: the same one at every call and for every seed."""

    def batches(self) -> Iterator[Batch]:
        """All of them in order, for a check: the same each time."""

    def drawn(self, batch_size: int | None, seed: int) -> Callable[[int], Batch]:
        """Batches in random order, a new one each epoch, as a function of the step; without a size, all at once."""

    def to(self, device: torch.device) -> "ExampleSet":
        """The same on ``device``."""


def examples_of(source: Source, name: str) -> ExampleSet:
    """The examples of ``source``.

    Args:
        source: ``(x, y)``, two tensors with the examples along the first dimension; a `lowland.data.Split`; a map-style
            `torch.utils.data.Dataset` of pairs, or a `DataLoader` of one, whose ``collate_fn``, ``batch_size``,
            ``drop_last``, sampler and workers are kept.
        name: of the argument, for errors.

    Raises:
        SettingError: for anything else, with what it takes; for tensors of different lengths, or no example.
    """
    if isinstance(source, Split):
        source = source.inputs, source.targets
    if isinstance(source, DataLoader):
        found: ExampleSet = _of_loader(source, name)
    elif isinstance(source, Dataset):
        found = _of_dataset(source, name)
    elif isinstance(source, tuple | list) and len(source) == 2 and all(isinstance(part, Tensor) for part in source):
        x, y = source
        if not x.dim() or not y.dim() or len(x) != len(y):
            raise SettingError(f"{name}: x and y need as many examples: {tuple(x.shape)} and {tuple(y.shape)}")
        found = TensorExamples(x, y)
    else:
        raise SettingError(f"{name} takes {_TAKES}: not {_what(source)}")
    if not len(found):
        raise SettingError(f"{name} has no examples")
    return found


def _what(source: object) -> str:
    if isinstance(source, tuple | list):
        return f"a {type(source).__name__} of {', '.join(type(part).__name__ for part in source) or 'nothing'}"
    return f"a {type(source).__name__}"


@dataclass(frozen=True, eq=False)
class TensorExamples:
    """Two tensors, the examples along the first dimension."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        """How many there are."""
        return len(self.x)

    def first(self, count: int) -> "TensorExamples":
        """See `ExampleSet`; the same tensors for the same number, so that runs share them."""
        return self if count == len(self) else TensorExamples(*_first(self.x, self.y, count))

    def held_out(self) -> "tuple[TensorExamples, TensorExamples]":
        """See `ExampleSet`; the same tensors each time."""
        rest, held = _split(self.x, self.y)
        return TensorExamples(*rest), TensorExamples(*held)

    def batches(self) -> Iterator[Batch]:
        """See `ExampleSet`."""
        yield from zip(self.x.split(_CHUNK), self.y.split(_CHUNK), strict=True)

    def drawn(self, batch_size: int | None, seed: int) -> Shuffled | WholeBatch:
        """See `ExampleSet`; SettingError for a batch of more examples than there are."""
        if batch_size is None:
            return WholeBatch(self.x, self.y)
        return Shuffled(self.x, self.y, batch_size, seed)

    def to(self, device: torch.device) -> "TensorExamples":
        """See `ExampleSet`."""
        return TensorExamples(copied(self.x, device), copied(self.y, device))


@lru_cache(maxsize=4)
def _split(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    rest, held = split_validation(Split(x, y), _HELD_OUT)
    return (rest.inputs, cast(Tensor, rest.targets)), (held.inputs, cast(Tensor, held.targets))


@lru_cache(maxsize=4)
def _first(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return x[:count], y[:count]


@dataclass(frozen=True, eq=False)
class Loading:
    """How a `DataLoader` makes batches of a dataset's items; without one, torch's usual way in this process.

    Attributes:
        collate: items → batch.
        batch_size: of the loader, for an experiment without such a setting.
        drop_last: whether an epoch's last batch is left out if it is smaller.
        order: the batches of an epoch, as the loader's own sampler draws them; None for a plain random order.
        workers: the `DataLoader`'s arguments that say in which processes items are fetched.
    """

    collate: Callable[[list[Tree]], Tree] = default_collate
    batch_size: int | None = None
    drop_last: bool = False
    order: Callable[[int], list[list[int]]] | None = None
    workers: Kwargs = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DatasetExamples:
    """Items of a map-style dataset.

    Random numbers that an item draws, for augmentation say, follow from the run's seed and the step, whatever fetches
    it; for a check they are the same each time.
    """

    dataset: Dataset[Tree]
    indices: Indices
    loading: Loading
    device: torch.device = _CPU

    def __len__(self) -> int:
        """How many there are."""
        return len(self.indices)

    def first(self, count: int) -> "DatasetExamples":
        """See `ExampleSet`; SettingError with a sampler of the loader's own, which draws from all."""
        return self if count == len(self) else self._some(self.indices[:count], "examples")

    def held_out(self) -> "tuple[DatasetExamples, DatasetExamples]":
        """See `ExampleSet`; SettingError with a sampler of the loader's own, which draws from all."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0)).tolist()
        chosen = [self.indices[index] for index in order]
        number = round(_HELD_OUT * len(self))
        what = "no validation= to measure on"
        return self._some(chosen[number:], what), self._some(chosen[:number], what)

    def _some(self, indices: Indices, why: str) -> "DatasetExamples":
        if self.loading.order is not None:
            raise SettingError(
                f"a DataLoader with a sampler of its own draws from its whole dataset, and there is {why}: give "
                "validation=, or a DataLoader with shuffle=True"
            )
        return replace(self, indices=indices)

    def batches(self) -> Iterator[Batch]:
        """See `ExampleSet`."""
        places = range(0, len(self), _CHUNK)
        keys = [[place, *self.indices[place : place + _CHUNK]] for place in places]
        yield from self.fetched(iter(keys))

    def drawn(self, batch_size: int | None, seed: int) -> "LoadedBatches":
        """See `ExampleSet`; SettingError for a batch of more examples than there are."""
        size = batch_size or self.loading.batch_size or len(self)
        if self.loading.order is not None and batch_size not in (None, self.loading.batch_size):
            raise SettingError(
                f"the DataLoader's own sampler makes batches of {self.loading.batch_size}, and the setting batch_size "
                f"is {batch_size}: leave that out, or give a DataLoader with shuffle=True"
            )
        if size > len(self):
            raise SettingError(f"A batch holds between 1 and all {len(self)} examples, not {size}.")
        return LoadedBatches(self, size, seed)

    def to(self, device: torch.device) -> "DatasetExamples":
        """See `ExampleSet`."""
        return replace(self, device=device)

    def fetched(self, keys: Iterator[list[int]]) -> Iterator[Batch]:
        """The batches of ``keys``, each a seed and the items' indices."""
        seeded_items, loading = _SeededItems(self.dataset), self.loading
        if loading.workers:
            loader: Iterable[Tree] = DataLoader(
                seeded_items, batch_sampler=_Keys(keys), collate_fn=loading.collate, **loading.workers,
                generator=torch.Generator(),  # else each start of it would draw from that of the training
            )  # fmt: skip
        else:
            loader = (loading.collate(seeded_items.__getitems__(key)) for key in keys)
        for batch in loader:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise SettingError(
                    f"a batch must be a pair (x, y), not {_what(batch)}: give a DataLoader whose collate_fn makes pairs"
                )
            yield moved((batch[0], batch[1]), self.device)


class _Keys:
    """What a `DataLoader` takes for a batch sampler."""

    def __init__(self, keys: Iterator[list[int]]):
        self.keys = keys

    def __iter__(self) -> Iterator[list[int]]:
        return self.keys


class _SeededItems(Dataset[Tree]):
    """A dataset whose batches are fetched with random generators that are seeded for each."""

    def __init__(self, dataset: Dataset[Tree]):
        self.dataset = dataset

    def __getitems__(self, key: list[int]) -> list[Tree]:
        seed, *indices = key
        with _seeded(seed):
            return [self.dataset[index] for index in indices]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The generators of the CPU, seeded inside the context; outside, as they were."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - users draw from it
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


class LoadedBatches:
    """Batches of a dataset as a function of the step; steps that follow each other are fetched ahead by workers.

    Attributes:
        per_epoch: batches in an epoch.
    """

    def __init__(self, examples: DatasetExamples, batch_size: int, seed: int):
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self._epoch, self._order = -1, list[list[int]]()
        self._last: tuple[int, Batch] = (-1, (None, None))
        self._ahead: Iterator[Batch] = iter(())
        self.per_epoch = len(self._batches(0))

    def _batches(self, epoch: int) -> list[list[int]]:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._draw(epoch)
        return self._order

    def _draw(self, epoch: int) -> list[list[int]]:
        examples, loading = self.examples, self.examples.loading
        if loading.order is not None:
            batches = loading.order(_mixed(self.seed, epoch))
            if epoch and len(batches) != self.per_epoch:
                raise SettingError(
                    f"the DataLoader's own sampler made {self.per_epoch} batches in the first epoch and {len(batches)} "
                    f"in epoch {epoch}: a step then has no batch; let it make as many each time"
                )
            return batches
        order = torch.randperm(len(examples), generator=seeded(self.seed, epoch))
        parts = [[examples.indices[k] for k in part.tolist()] for part in order.split(self.batch_size)]
        return parts[:-1] if loading.drop_last and len(parts) > 1 and len(parts[-1]) < self.batch_size else parts

    def _keys(self, step: int) -> Iterator[list[int]]:
        for each in count(step):
            epoch, position = divmod(each, self.per_epoch)
            yield [_mixed(self.seed + 2**31, each), *self._batches(epoch)[position]]

    def __call__(self, step: int) -> Batch:
        """``(x, y)`` of the batch at ``step``, counted from 0 through all epochs."""
        last, batch = self._last
        if step != last:
            if step != last + 1 or last < 0:
                self._ahead = self.examples.fetched(self._keys(step))
            batch = next(self._ahead)
            self._last = step, batch
        return batch

    def to(self, device: torch.device) -> "LoadedBatches":
        """The same batches on ``device``."""
        return LoadedBatches(self.examples.to(device), self.batch_size, self.seed)


def _mixed(seed: int, index: int) -> int:
    return seeded(seed, index).initial_seed()


def _of_dataset(dataset: Dataset[Tree], name: str, loading: Loading | None = None) -> DatasetExamples:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise SettingError(
            f"{name}: an IterableDataset can't be asked for the batch of a step, by which a run resumes to the same "
            f"bits: give {_TAKES}"
        )
    return DatasetExamples(dataset, range(len(cast(Sized, dataset))), loading or Loading())


def _of_loader(loader: DataLoader[Tree], name: str) -> DatasetExamples:
    _of_dataset(loader.dataset, name)  # raises an error for one without a length, whose sampler has no end
    if loader.batch_sampler is None:
        raise SettingError(f"{name}: this DataLoader makes no batches (batch_size=None): give it a batch_size")
    names = ("num_workers", "prefetch_factor", "multiprocessing_context", "worker_init_fn", "timeout", "pin_memory")
    workers = {each: getattr(loader, each) for each in names} if loader.num_workers else {}
    size = loader.batch_size  # None with a batch sampler of the caller's own
    loading = Loading(
        loader.collate_fn, size, loader.drop_last, None if size and _is_plain(loader) else _own_order(loader, name),
        workers,
    )  # fmt: skip
    return _of_dataset(loader.dataset, name, loading)


def _is_plain(loader: DataLoader[Tree]) -> bool:
    """Whether it goes through its dataset once, in order or in torch's random order."""
    sampler = loader.sampler
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(cast(Sized, loader.dataset))
    return type(sampler) is SequentialSampler


def _length(sampler: Foreign) -> int:
    """How many batches a sampler makes; 0 if it doesn't say, as one without an end doesn't."""
    try:
        return len(sampler)
    except TypeError:
        return 0


def _own_order(loader: DataLoader[Tree], name: str) -> Callable[[int], list[list[int]]]:
    """The loader's own sampler as a function of a seed."""
    samplers = [loader, loader.sampler, loader.batch_sampler]
    generators = [g for g in (getattr(each, "generator", None) for each in samplers) if isinstance(g, torch.Generator)]

    most = _length(loader.batch_sampler) or -(-len(cast(Sized, loader.dataset)) // (loader.batch_size or 1))

    def order(seed: int) -> list[list[int]]:
        with _seeded(seed):
            for generator in generators:
                generator.manual_seed(seed)
            assert loader.batch_sampler is not None
            return [list(batch) for batch in islice(loader.batch_sampler, most)]

    if order(0) != order(0):
        raise SettingError(
            f"{name}: the DataLoader's sampler draws another order from the same seed, so that a run could not go on "
            "to the same bits: let it draw from torch's generator"
        )
    return order
