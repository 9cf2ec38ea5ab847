"""The gradients of all groups with respect to one parameter: as factors, or built."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lowland.optim.m_sam.groups import Groups
from lowland.torch_tools import LONG

# A number written to memory and read again costs about as much time as this many multiplications: rather more on GPUs.
FLOPS_PER_NUMBER = 20


@dataclass
class Factors:
    """Σ_t d_t a_tᵀ of each example, over its positions t, unbuilt: a are activations, d output gradients.

    Attributes:
        activations: ``(examples, positions, inputs)``.
        output_gradients: ``(examples, positions, outputs)``.
    """

    activations: Tensor
    output_gradients: Tensor

    #: How much longer built weight gradients take than their operations would in a plain layer.
    rate: ClassVar[float] = 1

    def __add__(self, other: "Factors") -> "Factors":
        return Factors(
            torch.cat([self.activations, other.activations], 1),
            torch.cat([self.output_gradients, other.output_gradients], 1),
        )

    @property
    def positions(self) -> int:
        """How many positions an example has."""
        return self.output_gradients.shape[1]

    @property
    def inputs(self) -> int:
        """How many activations a position has."""
        return self.activations.shape[2]

    @property
    def kept(self) -> Tensor:
        """What the activations follow from, ``(rows, ...)``."""
        return self.activations

    @property
    def held(self) -> int:
        """How many bytes are kept for the second pass."""
        return sum(t.numel() * t.element_size() for t in (self.kept, self.output_gradients))

    def to(self, dtype: torch.dtype, coefficients: Tensor, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
        """What is `kept`, output gradients and ``coefficients`` of the groups, for products in ``dtype``.

        In types of 16 bits output gradients come times coefficients, which is of the size of what is added; alone
        neither may fit.
        """
        if dtype.itemsize > 2:
            return self.kept.to(dtype), self.output_gradients.to(dtype), coefficients.to(dtype)
        of_examples = groups.spread(coefficients.float(), groups.size)[:, None, None]
        scaled = self.output_gradients.to(torch.float32) * of_examples
        return self.kept.to(dtype), scaled.to(dtype), torch.ones_like(coefficients, dtype=dtype)

    def gram(self, rows: Tensor, others: Tensor) -> Tensor:
        """Products a · a' of activations, for all pairs of positions in a group: ``(groups, positions, positions)``.

        Args:
            rows: what is `kept`, ``(groups, rows of a group, ...)``.
            others: the same of other inputs.
        """
        return torch.bmm(rows.flatten(1, 2), others.flatten(1, 2).mT)

    def pays(self, groups: Groups) -> bool:
        """Whether products of pairs of positions are cheaper than one weight gradient for each group."""
        return self.cost(groups) < self.built_cost(groups)

    def cost(self, groups: Groups, memory: bool = True) -> float:
        """Operations that plain SAM doesn't have; with ``memory``, reading and writing counted as such.

        Pairs of R positions in a group take 6 R² (K + C) operations.
        """
        r, features = self.positions * groups.m, self.inputs + self.output_gradients.shape[2]
        if r == 1:
            return float(groups.count * 6 * features)
        return float(groups.count * (6 * r * r * features + memory * 5 * FLOPS_PER_NUMBER * r * r))

    def built_cost(self, groups: Groups, memory: bool = True) -> float:
        """The same for the other way: weight gradients of 2 R K C operations, written and read five times."""
        r, numbers = self.positions * groups.m, self.inputs * self.output_gradients.shape[2]
        rate = self.rate if memory else 1
        return float(groups.count * (2 * rate * r * numbers + memory * 5 * FLOPS_PER_NUMBER * numbers))

    def build(self, groups: Groups, shape: torch.Size) -> "Built":
        """The gradients of the groups, written out."""
        parts = zip(groups.split(self.activations), groups.split(self.output_gradients), strict=True)
        stacks = [torch.bmm(d.flatten(1, 2).mT, a.flatten(1, 2)) for a, d in parts]
        stack = stacks[0] if len(stacks) == 1 else torch.cat(stacks)
        return Built(stack.view(-1, *shape), owned=True)

    def squares(self, groups: Groups) -> Tensor:
        """Squared norm for each group, shape (groups,), float64.

        From d scaled to order one: gradients of fitted examples have squares that float32 doesn't hold.
        """
        found = []
        for a, d in zip(groups.split(self.kept), groups.split(self.output_gradients), strict=True):
            d = d.flatten(1, 2)
            if d.shape[1] == 1 and self.kept is self.activations:
                found.append((_lengths(a.flatten(1)) * _lengths(d.flatten(1))).square())
                continue
            a = a.to(torch.promote_types(d.dtype, torch.float32))
            found.append(pair_squares(d, self.gram(a, a)))
        return found[0] if len(found) == 1 else torch.cat(found)

    def dot(self, weight: Tensor, groups: Groups) -> Tensor:
        """The inner product of each group's gradient with ``weight`` W, Σ d · (W a), shape (groups,), float64."""
        outputs = self.activations @ weight.flatten(1).T.to(self.activations.dtype)
        return groups.sums(outputs.mul_(self.output_gradients).sum((1, 2), dtype=torch.float64))

    def weighted(self, weights: Tensor, shape: torch.Size) -> Tensor:
        """Σ_j weights_j G_j, like the parameter; ``weights`` one for each example."""
        wide = torch.promote_types(self.output_gradients.dtype, torch.float32)
        weighted = self.output_gradients * weights.to(wide)[:, None, None]
        return (weighted.flatten(0, 1).T @ self.activations.flatten(0, 1).to(wide)).view(shape)


def pair_squares(d: Tensor, gram: Tensor | None = None, apart: Tensor | None = None) -> Tensor:
    """Σ_ik (d_i · d_k) gram_ik over the pairs of a group's positions, shape (groups,), float64.

    Args:
        d: ``(groups, positions, outputs)``; what is squared is of order one.
        gram: ``(groups, positions, positions)``; None for ones.
        apart: which pairs don't count; None for none.
    """
    wide = torch.promote_types(d.dtype, torch.float32)
    largest = d.abs().amax((1, 2), keepdim=True).to(wide)
    d = d.to(wide) / torch.where(largest == 0, 1, largest)
    products = torch.bmm(d, d.mT)
    if gram is not None:
        products.mul_(gram)
    if apart is not None:
        products.masked_fill_(apart, 0)
    return products.sum((1, 2), dtype=torch.float64).clamp_(min=0) * largest.view(-1).double().square()


def _lengths(rows: Tensor) -> Tensor:
    """The norm of each row, float64."""
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and rows.shape[1] <= LONG:  # converting takes longer
        found = torch.linalg.vector_norm(rows, dim=1)
        if bool(((found > 1e-15) & (found < 1e15)).all()):
            return found.double()
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)


@dataclass
class Built:
    """One tensor like the parameter for each group.

    Attributes:
        stack: ``(groups, *shape)``.
        owned: whether nobody else holds its memory.
        terms: what it is the sum of over positions and examples, ``(examples, positions, *shape)``, if it is.
    """

    stack: Tensor
    owned: bool = False
    terms: Tensor | None = None
    _squares: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def held(self) -> int:
        """How many bytes are kept for the second pass."""
        return self.stack.numel() * self.stack.element_size()

    def __add__(self, other: "Built") -> "Built":
        return Built(self.stack + other.stack, owned=True)

    def squares(self, groups: Groups) -> Tensor:
        """Squared norm for each group, shape (groups,), float64."""
        if self._squares is None:
            wide = torch.promote_types(self.stack.dtype, torch.float32)
            self._squares = _lengths(self.stack.reshape(len(self.stack), -1).to(wide)).square()
        return self._squares

    def dot(self, weight: Tensor, groups: Groups) -> Tensor:
        """The inner product of each group's gradient with ``weight``, shape (groups,), float64."""
        return (self.stack.reshape(len(self.stack), -1) @ weight.flatten().to(self.stack.dtype)).double()


Piece = Factors | Built


def squared_norms(pieces: Iterable[Piece], groups: Groups) -> Tensor:
    """Over all parameters together, for each group, shape (groups,), float64."""
    found, small = [], []
    for piece in pieces:
        if isinstance(piece, Built) and piece.stack[0].numel() < 10_000 and piece.stack.dtype.itemsize > 2:
            small.append(piece.stack.reshape(groups.count, -1))
        else:
            found.append(piece.squares(groups))
    for dtype in dict.fromkeys(stack.dtype for stack in small):  # one call for many biases
        found.append(Built(torch.cat([stack for stack in small if stack.dtype == dtype], 1)).squares(groups))
    return torch.stack(found).sum(0)


def add(before: Piece | None, piece: Piece, groups: Groups, shape: torch.Size) -> Piece:
    """What two uses of a parameter add up to."""
    if before is None:
        return piece
    if isinstance(before, Factors) and isinstance(piece, Factors):
        both = before + piece
        return both if both.pays(groups) else both.build(groups, shape)
    first, second = (p.build(groups, shape) if isinstance(p, Factors) else p for p in (before, piece))
    return first + second
