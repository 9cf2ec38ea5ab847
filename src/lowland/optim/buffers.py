"""What a forward pass changes in its model: buffers, frozen parameters. Every evaluation begins with the same ones.

Batch-norm statistics, the vectors of spectral norm, codebooks, queues, observers, counters, encoders that follow the
trained one by averaging: a step moves them once, in its first evaluation (at w, but for rules that evaluate at w + ε
alone), however many it takes; and all of these are of one function of the weights.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lowland.optim.constants import Constants, Place
from lowland.optim.grad_mode import unrecorded
from lowland.torch_tools import fsdp_modules, level_of_caller


def places(model: nn.Module) -> list[Place]:
    """Each buffer of ``model``, behind its module and its name there; those that no checkpoint has, too.

    And each frozen parameter of the usual kind: FSDP2's come and go, and what has its numbers elsewhere (meta, sparse,
    quantized in a type of its own) can't be looked at. Looked for anew each time, as layers and buffers may
    be replaced, so without the detours of ``model.modules()``.
    """
    everything = list(modules(model))
    found: list[Place] = [
        (module, name, b)
        for module in everything
        if module._buffers
        for name, b in module._buffers.items()
        if b is None or not is_lazy(b)
    ]
    frozen: list[Place] = [
        (module, name, p)
        for module in everything
        for name, p in module._parameters.items()
        if type(p) is nn.Parameter and not p.requires_grad and p.layout is torch.strided and not p.is_meta
    ]
    return found + frozen if frozen and not fsdp_modules(everything) else found


def modules(model: nn.Module) -> Iterator[nn.Module]:
    """Each module of ``model`` once, in no order."""
    left, seen = [model], {model}
    while left:
        module = left.pop()
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                left.append(child)
        yield module


def warn_of_new(before: Iterable[Place], now: Iterable[Place]) -> None:
    """Say which buffer stands under a name that had none before an evaluation: what it was then nobody knows.

    Warns:
        UserWarning: if there is one.
    """
    names = {(module, name) for module, name, _ in before}
    buffers = ((module, name) for module, name, b in now if not isinstance(b, nn.Parameter))
    new = next((place for place in buffers if place not in names), None)
    if new is not None:
        module, name = new
        warnings.warn(
            f"the forward pass registers the buffer {name} of {type(module).__name__}: the later evaluations of this "
            "step begin with what the first has made of it. Run one batch through the model before the first step, or "
            "register it in __init__",
            stacklevel=level_of_caller(),
        )


class Buffers:
    """Those of a model in one step: as they were before it, and as its first evaluation left them.

    They are put back bit for bit, and as the same tensors, whether they were written to or replaced.

    Args:
        model: has them.
        constants: which large ones need no copy, as far as is known.
        carried: buffers whose movements in several parts of the batch add up, each of which ends with a `settle`.
    """

    def __init__(self, model: nn.Module, constants: Constants | None = None, carried: Iterable[Tensor] = ()):
        self._model, self._carried = model, _Carried(list(carried))
        self._constants = Constants() if constants is None else constants
        self._places = places(model)
        self._chosen = self._constants.choose(model, self._places)
        copied, self._looks = self._chosen.copied, self._chosen.looks
        apart = set(map(id, self._carried.tensors))
        self._before = _Contents([b for b in copied if id(b) not in apart] if apart else copied)
        self._settled: list[Place] | None = None
        self._after = self._new = _NONE
        #: Whether they are not where `finish` leaves them.
        self.away = False

    @property
    def settled(self) -> bool:
        """Whether the first evaluation is over."""
        return self._settled is not None

    def settle(self) -> None:
        """The first time: what they are now, the step leaves behind. Later the carried ones' movement is added."""
        self._carried.settle(first=self._settled is None)
        if self._settled is None:
            # What was frozen in the meantime, for a while, is none of the state.
            known_before = {id(b) for _, _, b in self._places}
            self._settled = [
                place
                for place in places(self._model)
                if not isinstance(place[2], nn.Parameter) or id(place[2]) in known_before
            ]
            copied, self._looks = self._constants.learn(self._model, self._chosen, self._settled)
            self._after = _Contents(copied)
            if copied:
                self._new = _Contents([b for b in copied if id(b) not in known_before])
                warn_of_new(self._places, self._settled)

    def restart(self) -> None:
        """As if there had been no evaluation yet."""
        self._settled, self._new = None, _NONE

    def look(self) -> None:
        """Without a `settle`: see which large ones have moved since."""
        self._constants.learn(self._model, self._chosen, places(self._model))

    def rewind(self) -> None:
        """Make them what they were before the step, for another evaluation of it."""
        self.away = True
        self._put_back(self._places, self._before)
        for look in self._looks:
            look.put_back()
        self._carried.rewind()
        self._new.put_back()  # they weren't there before

    @unrecorded
    def finish(self) -> None:
        """Make them what the step leaves behind; without a `settle`, what they were before."""
        if self._settled is None:
            self.rewind()
        else:
            self._put_back(self._settled, self._after)
            self._carried.finish()
        self.away = False

    def undo(self) -> None:
        """Make them what they were before the step, which failed."""
        self.rewind()
        self.away = False

    @staticmethod
    def _put_back(bindings: list[Place], contents: "_Contents") -> None:
        for module, name, b in bindings:
            own: dict[str, Tensor | None] = module._parameters if isinstance(b, nn.Parameter) else module._buffers  # type: ignore[assignment]
            if name not in own or own[name] is not b:  # no get(): a script's has none
                own[name] = b
        contents.put_back()


class _Carried:
    """Buffers whose movements in several parts of a batch add up: as they were before, and after the parts so far."""

    def __init__(self, tensors: list[Tensor]):
        self.tensors = tensors
        self._before = _Contents(tensors)
        self._after: list[Tensor] = []

    def settle(self, first: bool) -> None:
        """A part is over: add their movement, unless it is the ``first``; the later ones leave them as before it."""
        now = [t.detach().clone() for t in self.tensors]
        if now and not first:
            self._before.put_back()
            moved = torch._foreach_sub(now, [t.detach() for t in self.tensors])
            now = list(torch._foreach_add(self._after, moved))
        self._after = now

    def rewind(self) -> None:
        """Make them what they were before the batch."""
        self._before.put_back()

    def finish(self) -> None:
        """Make them what all parts have made of them."""
        if self.tensors:
            torch._foreach_copy_(self.tensors, self._after)


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the buffers of ``model`` are what they were."""
    before = Buffers(model)
    try:
        yield
    finally:
        before.undo()


class _Contents:
    """Of tensors, to be put back bit for bit."""

    __slots__ = ("_kept",)

    @unrecorded
    def __init__(self, tensors: Iterable[Tensor] = ()):
        self._kept: list[tuple[list[Tensor], list[Tensor], list[int]]] = []
        kinds: dict[object, list[Tensor]] = {}
        for t in tensors:
            plain = type(t) is Tensor and t.layout is torch.strided  # others would be copied one by one
            kinds.setdefault((t.dtype, t.device) if plain else id(t), []).append(t)
        for kind, members in kinds.items():
            self._kept.append((members, _copies(kind, members), [t._version for t in members]))

    @unrecorded
    def put_back(self) -> None:
        """Where nobody wrote, without a trace: a graph that has the tensor goes on being right."""
        for members, values, versions in self._kept:
            targets, sources = [], []
            for t, value, version in zip(members, values, versions, strict=True):
                if t.shape != value.shape:  # it was resized
                    t.data = value.clone()
                else:
                    targets.append(t.data if t._version == version else t)
                    sources.append(value)
            if targets:
                torch._foreach_copy_(targets, sources)


def _copies(kind: object, tensors: list[Tensor]) -> list[Tensor]:
    if not isinstance(kind, tuple):
        return [t.clone() for t in tensors]
    values = [torch.empty_like(t) for t in tensors]
    torch._foreach_copy_(values, tensors)
    return values


_NONE = _Contents()
