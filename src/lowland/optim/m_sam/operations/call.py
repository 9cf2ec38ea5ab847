"""An operation of torch that is called, and the table of rules."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from torch import Tensor
from torch._ops import OpOverload

from lowland.optim.m_sam.labels import Labels
from lowland.optim.m_sam.places import Along, Place
from lowland.values import Args, Kwargs

T = TypeVar("T")


@dataclass
class Call:
    """An operation that was called with tensors that depend on parameters, none of them mixed.

    Attributes:
        func: of ``torch.ops``.
        args: by position.
        kwargs: by name.
        results: tensors that it gave.
        dependent: arguments that depend on parameters, each with where its examples are.
        labels: what else is known of tensors.
    """

    func: OpOverload
    args: Args
    kwargs: Kwargs
    results: list[Tensor]
    dependent: list[tuple[Tensor, Along]]
    labels: Labels

    @cached_property
    def given(self) -> Kwargs:
        """All arguments by name, with the defaults of those that are left out."""
        names = self.func._schema.arguments
        values = {a.name: a.default_value for a in names if a.has_default_value()}
        return values | dict(zip((a.name for a in names), self.args)) | self.kwargs  # noqa: B905

    def at(self, value: object) -> Along | None:
        """Where the examples are in an argument; None if it doesn't depend on parameters."""
        return next((place for t, place in self.dependent if t is value), None)

    def only(self, *allowed: object) -> bool:
        """Whether no other arguments depend on parameters; one that is given twice counts twice."""
        left = [value for value in allowed if isinstance(value, Tensor)]
        for t, _ in self.dependent:
            found = [i for i, value in enumerate(left) if value is t]
            if not found:
                return False
            del left[found[0]]
        return True

    def alone(self, value: object) -> Along | None:
        """Where the examples are in an argument, if no other depends on parameters."""
        return self.at(value) if self.only(value) else None


Rule = Callable[[Call], Place | list[Place | None] | None]
#: By the name of the operation.
RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations of these names."""

    def register(rule: Rule) -> Rule:
        for name in names.split():
            RULES[name] = rule
        return rule

    return register


def one(values: Iterable[T]) -> T | None:
    """What all of them are; None if they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def aligned(dependent: list[tuple[Tensor, Along]], result: Tensor) -> Along | None:
    """Where examples are after broadcasting: they must meet in one dimension, counted from the last."""
    found = one((t.ndim - place.dim, place.inner, t.shape[place.dim]) for t, place in dependent)
    if found is None:
        return None
    back, inner, size = found
    dim = result.ndim - back
    return Along(dim, inner) if dim >= 0 and result.shape[dim] == size else None


def same_dim(dependent: list[tuple[Tensor, Along]], result: Tensor) -> Along | None:
    """The same, with dimensions counted from the first."""
    found = one((place.dim, place.inner, t.shape[place.dim]) for t, place in dependent)
    if found is None:
        return None
    dim, inner, size = found
    return Along(dim, inner) if dim < result.ndim and result.shape[dim] == size else None


def listed(dims: list[int] | tuple[int, ...] | int | None, ndim: int) -> set[int] | None:
    """Dimensions as an operation takes them, from 0 on; None for all."""
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return None
    return {d % max(ndim, 1) for d in (dims if isinstance(dims, list | tuple) else [dims])}
