"""Rows that are owned as data says, filled up to as many for each example: there all rules hold as they are.

What is filled in has no gradient at its output, so that it adds nothing to the groups' gradients.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.optim.m_sam.places import Along
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.registry import RULES
from lowland.optim.m_sam.rule import Use
from lowland.values import Args, Function, Kwargs, Tree


@dataclass(frozen=True)
class Filling:
    """Where rows go when they are filled up.

    Attributes:
        place: of the rows.
        slots: where each row goes, ``(rows,)``.
        sources: which row each slot has, its example's where that has any, ``(examples * most,)``.
    """

    place: Along
    slots: Tensor
    sources: Tensor

    @classmethod
    def of(cls, place: Along, examples: int) -> "Filling":
        """For rows of ``place``, which says whose they are."""
        owners = place.owners(0, examples)
        counts = owners.bincount(minlength=examples)
        most = max(int(counts.max()), 1)
        order = owners.argsort(stable=True)
        nth = torch.empty_like(owners)
        nth[order] = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners[order]]
        slots = owners * most + nth
        first = torch.zeros(examples, dtype=torch.int64).index_copy(0, owners[order.flip(0)], order.flip(0))
        sources = first.repeat_interleave(most).index_copy(0, slots, torch.arange(len(owners)))
        return cls(place, slots, sources)

    def fill(self, x: Tensor) -> Tensor:
        """``x`` with as many rows for each example, in order, along the same dimension."""
        if not len(self.slots):
            rows = x.movedim(self.place.dim, 0)
            # Ones can be divided by, and have logarithms; of words there may be one alone.
            value = int(x.is_floating_point())
            return rows.new_full((len(self.sources), *rows.shape[1:]), value).movedim(0, self.place.dim)
        return x.index_select(self.place.dim, self.sources.to(x.device))

    def taken(self, out: Tensor, dim: int) -> Tensor:
        """The rows themselves, of what a function gave of all."""
        return out.index_select(dim, self.slots.to(out.device))


def rows_in(func: Function, args: Args, kwargs: Kwargs, place: Along, entrywise: bool, what: str) -> Tensor:
    """The argument whose rows are at ``place``, if ``func`` computes each of them by itself.

    Raises:
        NotCovered: if it doesn't, as far as is known.
    """
    leaves = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    if entrywise:
        plain = [t for t in leaves if type(t) is Tensor and t.ndim > place.dim]
        back = plain[0].ndim - place.dim if plain else 0
        others = [t for t in leaves if t is not plain[0]] if plain else []
        if plain and all(t.ndim < back or t.shape[-back] == 1 for t in others):
            return plain[0]
    elif (rule := RULES.get(func)) is not None and rule.by_row and args and type(args[0]) is Tensor:
        given = dict(zip(rule.arguments, args)) | kwargs  # noqa: B905
        if place.dim < rule.leading(Use(rule, func, given, {})):
            return args[0]
    raise NotCovered(f"{what} sees rows in an order that data says, and isn't known to compute each by itself")


def replaced(args: Args, kwargs: Kwargs, x: Tensor, by: Tensor) -> tuple[Args, Kwargs]:
    """The arguments with ``by`` in place of ``x``."""

    def of(value: Tree) -> Tree:
        return by if value is x else value

    return tuple(map(of, args)), {name: of(value) for name, value in kwargs.items()}
