"""Buffers that need no copy: large ones, and frozen parameters, that nothing changes (masks, tables, backbones)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lowland.optim.grad_mode import unrecorded
from lowland.optim.sharding import local
from lowland.torch_tools import level_of_caller

#: A buffer or frozen parameter, behind its module and its name there.
Place = tuple[nn.Module, str, Tensor | None]
#: Bytes above which a buffer is copied only if it moves.
LARGE = 1 << 20


@dataclass(slots=True)
class Look:
    """A large buffer with a copy, on the CPU, or else the sum of its entries, to see whether a step changes it."""

    module: nn.Module
    name: str
    buffer: Tensor
    copy: Tensor | None
    total: Tensor | None
    version: int
    dtype: torch.dtype

    @property
    def moves(self) -> bool:
        """Whether the contents are others now."""
        if self.copy is not None:
            return not _equal(self.buffer, self.copy.to(self.buffer.dtype))  # a layer may convert it, once
        if self.buffer.dtype != self.dtype:
            return False
        return self.total is not None and not torch.equal(_sum(self.buffer), self.total)

    @unrecorded
    def put_back(self) -> None:
        """The contents, as far as they are known."""
        if self.copy is not None:
            self.buffer.copy_(self.copy)


@dataclass(slots=True)
class _Known:
    """What a look has shown; ``signed``: whether a new version number means another content."""

    buffer: Tensor
    training: bool
    moves: bool
    signed: bool


@dataclass(slots=True)
class Chosen:
    """The buffers of a step: to be copied, looked at, and held to be constant, these with their versions."""

    copied: list[Tensor]
    looks: list[Look]
    held: list[tuple[nn.Module, str, Tensor, int]]


class Constants:
    """Remembers which large buffers an evaluation leaves as they are.

    One is looked at when it is new, when its module has gone into another mode, and in the second, fourth, eighth step
    and so on; what has moved once counts as moving from then on. Frozen parameters of any size count as large. Where
    they take more than twice the bytes of the trained ones (a large backbone), only their sums are kept to compare.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._known: WeakKeyDictionary[nn.Module, dict[str, _Known]] = WeakKeyDictionary()
        self._seen: set[int] = set()
        self._aliases: set[int] = set()

    def choose(self, model: nn.Module, places: Sequence[Place]) -> Chosen:
        """Before a step: sort the buffers at ``places`` into those to copy, to look at, and to hold for constant."""
        copied: dict[int, Tensor] = {}
        chosen = Chosen([], [], [])
        if not places:
            return chosen
        self._steps += 1
        again = self._steps & (self._steps - 1) == 0
        self._find_aliases(model, places)
        summed: bool | None = None
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()  # nothing can be looked at
        for module, name, b in places:
            if b is None or id(b) in copied:
                continue
            is_frozen = isinstance(b, nn.Parameter)
            if is_frozen and not again and self._is_constant(module, name, b):  # for speed: they may be many
                chosen.held.append((module, name, b, b._version))
                continue
            if (is_frozen and capturing) or not self._is_changeable(b):
                continue
            if _bytes(b) <= LARGE and not is_frozen:
                copied[id(b)] = b
                continue
            known = self._known.get(module, {}).get(name)
            if known is not None and known.moves:
                copied[id(b)] = b
            elif again or known is None or known.training != module.training or known.buffer is not b:
                summed = _are_many(model, places) if summed is None else summed
                copy = None if is_frozen and summed else b.detach().to("cpu", copy=True)
                total = _sum(b) if copy is None else None
                chosen.looks.append(Look(module, name, b, copy, total, b._version, b.dtype))
            else:
                chosen.held.append((module, name, b, b._version))
        chosen.copied = list(copied.values())
        return chosen

    def learn(self, model: nn.Module, chosen: Chosen, places: Sequence[Place]) -> tuple[list[Tensor], list[Look]]:
        """After its first evaluation: which buffers are to be copied; which looks have seen a change.

        Warns:
            UserWarning: if a buffer was written to that was taken for constant.
        """
        if not places:
            return [], []
        self._find_aliases(model, places)
        now = {(module, name): b for module, name, b in places}
        constant: set[int] = set()
        moved = []
        for look in chosen.looks:
            moves = now.get((look.module, look.name)) is not look.buffer or look.moves
            of_module = self._known.setdefault(look.module, {})
            known = of_module.get(look.name)
            same = known is not None and known.buffer is look.buffer and known.training == look.module.training
            if moves and same and not known.moves:  # type: ignore[union-attr]
                _warn(look.module, look.name, "in earlier steps each evaluation may have moved it")
            elif moves and look.copy is None:
                _warn(look.module, look.name, "in this step the later evaluations begin with what the first made of it")
            signed = moves or look.buffer._version == look.version
            of_module[look.name] = _Known(look.buffer, look.module.training, moves, signed)
            if moves:
                moved.append(look)
            else:
                constant.add(id(look.buffer))
        for module, name, b, version in chosen.held:
            known = self._known[module][name]
            replaced = now.get((module, name)) is not b
            known.moves = replaced or (known.signed and b._version != version)
            if not known.moves:
                constant.add(id(b))
            elif not replaced:
                _warn(module, name, "in this step the later evaluations begin with what the first has made of it")
        found = {id(b): b for b in now.values() if b is not None and id(b) not in constant and self._is_changeable(b)}
        return list(found.values()), moved

    def _is_constant(self, module: nn.Module, name: str, b: Tensor) -> bool:
        known = self._known.get(module, {}).get(name)
        return known is not None and not known.moves and known.training == module.training and known.buffer is b

    def _find_aliases(self, model: nn.Module, places: Sequence[Place]) -> None:
        """Buffers that lie in the memory of parameters: putting them back would move weights."""
        ids = {id(b) for _, _, b in places}
        if ids == self._seen:  # also where a parameter was frozen or thawed it is another
            return
        taken = {_memory(p) for p in model.parameters() if p.requires_grad} - {0}
        self._seen = ids
        self._aliases = {id(b) for _, _, b in places if b is not None and _memory(b) in taken}

    def _is_changeable(self, b: Tensor) -> bool:
        """Whether a forward pass may write to it."""
        if b.is_inference() or id(b) in self._aliases:
            return False
        # Entries that share a place in memory: torch refuses to write to them.
        return b.layout is not torch.strided or b.is_contiguous() or torch._debug_has_internal_overlap(b) != 1


def _warn(module: nn.Module, name: str, what: str) -> None:
    warnings.warn(
        f"{'the frozen parameter' if name in module._parameters else 'the buffer'} {name} of {type(module).__name__} "
        f"moves, which it did not before: {what}; from now on a step moves it once",
        stacklevel=level_of_caller(),
    )


def _memory(t: Tensor) -> int:
    t = local(t)
    try:
        return t.untyped_storage().data_ptr() if t.layout is torch.strided else 0
    except (RuntimeError, ValueError):  # it has no memory of its own: a lazy one, one that stands for others
        return 0


def _equal(buffer: Tensor, copy: Tensor) -> bool:
    if buffer.shape != copy.shape:
        return False
    try:
        return torch.equal(local(buffer.detach()).cpu(), local(copy))
    except NotImplementedError:  # of a type that can't be compared
        return True


def _bytes(t: Tensor) -> int:
    return t.numel() * t.element_size()


def _are_many(model: nn.Module, places: Sequence[Place]) -> bool:
    """Whether frozen parameters take so much memory that it isn't to be taken twice."""
    frozen = sum(_bytes(b) for _, _, b in places if isinstance(b, nn.Parameter))
    return frozen > LARGE and frozen > 2 * sum(_bytes(p) for p in model.parameters() if p.requires_grad)


def _sum(t: Tensor) -> Tensor:
    """Of all entries, and NaN is equal to NaN; 0 for types that have no sums."""
    try:
        real = local(t.detach())
        wide = torch.float32 if t.device.type == "mps" else torch.float64
        return real.sum(dtype=wide if real.is_floating_point() else torch.int64).nan_to_num().cpu()
    except (RuntimeError, NotImplementedError):
        return torch.zeros(())
