"""Mixtures of experts as one layer: each row's product with the matrix of the expert that it goes to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from lowland.optim.m_sam.gradients import FLOPS_PER_NUMBER, Built, Factors, Piece, pair_squares
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.layers.linear import by_example
from lowland.optim.m_sam.perturbation import Perturbation
from lowland.optim.m_sam.registry import rule
from lowland.optim.m_sam.rows import over
from lowland.optim.m_sam.rule import AtPerturbed, AtW, Rule, Use
from lowland.values import Context, Kwargs, Tree


def expert_linear(input: Tensor, experts: Tensor, weight: Tensor) -> Tensor:
    """The product of each row with the matrix of its expert, ``out[r] = weight[experts[r]] @ input[r]``.

    Each row is computed by itself, so that m-SAM takes it by its two passes whatever decides on the experts, and nobody
    needs to vouch for it. Inside, rows are sorted by expert, with one product for each. Numbers are of the type of
    ``weight``, under autocast, too, as in torch's grouped product.

    Args:
        input: ``(..., inputs)``.
        experts: the number of each row's expert, ``(...)``; for a number that no expert has a row gives zeros.
        weight: ``(number of experts, outputs, inputs)``.

    Returns:
        ``(..., outputs)``.

    Raises:
        ValueError: if the shapes don't fit.
    """
    if has_torch_function_unary(weight):
        given: Tensor = handle_torch_function(expert_linear, (weight,), input, experts, weight)
        return given
    if input.shape[:-1] != experts.shape or weight.ndim != 3 or input.shape[-1:] != weight.shape[2:]:
        shapes = f"{tuple(input.shape)}, {tuple(experts.shape)} and {tuple(weight.shape)}"
        raise ValueError(
            f"expert_linear got input, experts and weight of shapes {shapes}: give (..., inputs), (...) and (number of "
            "experts, outputs, inputs)"
        )
    x = input.to(weight.dtype).flatten(0, -2)
    return _Sorted.by(experts, len(weight)).times(x, weight).view(*experts.shape, -1)


@dataclass(frozen=True)
class _Sorted:
    """Rows in the order of their keys.

    Attributes:
        order: the rows' numbers, ``(rows that have a key,)``.
        sizes: how many rows each key has.
    """

    order: Tensor
    sizes: list[int]

    @classmethod
    def by(cls, keys: Tensor, count: int) -> "_Sorted":
        """By ``keys``, which are from 0 to below ``count``; rows with others are left out."""
        keys = torch.where((keys < 0) | (keys >= count), count, keys).flatten()
        sizes = keys.bincount(minlength=count + 1).tolist()
        return cls(keys.argsort(stable=True)[: len(keys) - sizes.pop()], sizes)

    def times(self, x: Tensor, weights: Tensor) -> Tensor:
        """Rows ``(rows, inputs)``, each times the matrix of its key among ``(keys, outputs, inputs)``."""
        parts = zip(x[self.order].split(self.sizes), weights, strict=True)
        with torch.autocast(x.device.type, enabled=False):
            found = [part @ w.mT for part, w in parts if len(part)]
        out = x.new_zeros(len(x), weights.shape[1])
        return out.index_copy(0, self.order, torch.cat(found)) if found else out

    def gradient(self, x: Tensor, d: Tensor) -> Tensor:
        """That of the matrices, ``(keys, outputs, inputs)``, from the rows and the gradients at their products."""
        found = d.new_zeros(len(self.sizes), d.shape[1], x.shape[1])
        for into, *of in zip(found, *(t[self.order].split(self.sizes) for t in (d, x)), strict=True):
            if len(of[0]):
                torch.mm(of[0].T, of[1], out=into)
        return found


@rule(expert_linear)
class ExpertLinear(Rule):
    """The linear layer's rule, in which pairs of rows count if they go to the same expert."""

    arguments: ClassVar = ("input", "experts", "weight")
    defaults: ClassVar = {}
    parameters: ClassVar = ("weight",)

    def bind(self, func: Callable[..., Tensor], args: Sequence[Tree], kwargs: Kwargs) -> Use | None:
        """The call as a `Use`: the numbers of experts have rows as the input has."""
        use = super().bind(func, args, kwargs)
        if use is not None:
            use.inputs = ("input", "experts")
        return use

    def first(self, use: Use, watch: AtW) -> Tensor:
        """The plain product, whose output gradients are taken up."""
        x = self.prepared(use)
        return watch.tap(use, use.run(**use.at_w() | {"input": x}), x)

    def prepared(self, use: Use) -> Tensor:
        """The input in the weight's type."""
        x: Tensor = use.input.to(use.weight.dtype)
        return x

    def pieces(self, use: Use, activations: Tensor, output_gradients: Tensor, groups: Groups) -> dict[str, Piece]:
        """As factors where pairs of positions are cheaper, else the matrices' gradients for each group."""
        rows = by_example(activations, groups), by_example(output_gradients, groups)
        found = ExpertFactors(*rows, use.experts.reshape(groups.size, -1), len(use.weight))
        return {"weight": found if found.pays(groups) else found.build(groups, use.weight.shape)}

    def perturbed(self, use: Use, watch: AtPerturbed) -> Tensor:
        """The plain product and what is added, or that with matrices that are written out for each group."""
        x, experts, weight, groups = self.prepared(use), use.experts, use.weight, watch.groups
        found = watch.factors(weight)
        own: _Pairs | _Stacked
        if found is not None and isinstance(found.factors, ExpertFactors):
            own = _Pairs(weight.detach(), experts, found, found.factors, groups)
        else:
            stack = watch.constant(weight)
            keys = _keys(experts.reshape(groups.size, -1), len(weight), groups)
            own = _Stacked(_Sorted.by(keys, len(weight) * groups.count), stack.flatten(0, 1))
        with torch.autocast(x.device.type, enabled=False):
            z: Tensor = _Moved.apply(x.flatten(0, -2), weight, experts, own)
        return z.view(*experts.shape, -1)


def _keys(experts: Tensor, count: int, groups: Groups) -> Tensor:
    """Numbers for the experts of each group, from ``(examples, positions)``; -1 for none of them."""
    of_rows = groups.of_rows(groups.size, experts.device)[:, None] * count
    return torch.where((experts < 0) | (experts >= count), -1, experts + of_rows)


class ExpertFactors(Factors):
    """Those of a product with experts: of pairs of positions those with the same expert count.

    Args:
        activations: ``(examples, positions, inputs)``.
        gradients: at the outputs, ``(examples, positions, outputs)``; where there is no expert they don't count.
        experts: ``(examples, positions)``.
        count: how many experts there are.
    """

    def __init__(self, activations: Tensor, gradients: Tensor, experts: Tensor, count: int):
        there = (experts >= 0) & (experts < count)
        self.rows = Factors(activations, gradients * there.unsqueeze(-1))
        self.activations, self.experts, self.count = activations, experts, count

    @property
    def output_gradients(self) -> Tensor:  # type: ignore[override]
        """Those at the outputs of all experts, of which one has any, ``(examples, positions, count · outputs)``."""
        d = self.rows.output_gradients
        own = self.experts.unsqueeze(-1) == torch.arange(self.count, device=d.device)
        return (own.unsqueeze(-1) * d.unsqueeze(2)).flatten(2)

    def __add__(self, other: Factors) -> Factors:
        if isinstance(other, ExpertFactors):
            both, experts = self.rows + other.rows, torch.cat([self.experts, other.experts], 1)
            return ExpertFactors(both.activations, both.output_gradients, experts, self.count)
        return super().__add__(other)

    @property
    def positions(self) -> int:
        """How many positions an example has."""
        return self.rows.positions

    @property
    def held(self) -> int:
        """How many bytes are kept for the second pass."""
        return self.rows.held + self.experts.numel() * self.experts.element_size()

    def cost(self, groups: Groups, memory: bool = True) -> float:
        """As `Factors.cost`: all pairs are computed."""
        return self.rows.cost(groups, memory)

    def built_cost(self, groups: Groups, memory: bool = True) -> float:
        """As `Factors.built_cost`, where the matrices of all experts are written and read."""
        plain = self.rows.built_cost(groups, memory=False)
        numbers = self.count * self.inputs * self.rows.output_gradients.shape[2]
        return plain + float(groups.count * memory * 5 * FLOPS_PER_NUMBER * numbers)

    def build(self, groups: Groups, shape: torch.Size) -> Built:
        """The matrices' gradients, for each group."""
        by_key = _Sorted.by(_keys(self.experts, self.count, groups), self.count * groups.count)
        stack = by_key.gradient(self.activations.flatten(0, 1), self.rows.output_gradients.flatten(0, 1))
        return Built(stack.view(groups.count, *shape), owned=True)

    def squares(self, groups: Groups) -> Tensor:
        """As `Factors.squares`."""
        found = []
        parts = (self.activations, self.rows.output_gradients, self.experts)
        for a, d, experts in zip(*map(groups.split, parts), strict=True):
            wide = a.to(torch.promote_types(a.dtype, torch.float32))
            found.append(pair_squares(d.flatten(1, 2), self.gram(wide, wide), _apart(experts, experts)))
        return found[0] if len(found) == 1 else torch.cat(found)

    def dot(self, weight: Tensor, groups: Groups) -> Tensor:
        """The inner product of each group's gradient with ``weight``, shape (groups,), float64."""
        outputs = expert_linear(self.activations, self.experts, weight)
        return groups.sums(outputs.mul_(self.rows.output_gradients).sum((1, 2), dtype=torch.float64))

    def weighted(self, weights: Tensor, shape: torch.Size) -> Tensor:
        """Σ_j weights_j G_j, like the parameter; ``weights`` one for each example."""
        wide = torch.promote_types(self.activations.dtype, torch.float32)
        d = self.rows.output_gradients * weights.to(wide)[:, None, None]
        return _Sorted.by(self.experts, self.count).gradient(self.activations.flatten(0, 1).to(wide), d.flatten(0, 1))


def _apart(experts: Tensor, others: Tensor) -> Tensor:
    """Whether experts differ, for all pairs of positions of a group; each ``(groups, examples, positions)``."""
    return experts.flatten(1)[:, :, None] != others.flatten(1)[:, None, :]


class _Own(Protocol):
    """A product of rows with matrices that differ by group, and the way back."""

    def times(self, x: Tensor) -> Tensor:
        """Of rows ``(rows, inputs)``: ``(rows, outputs)``."""

    def back(self, d: Tensor) -> Tensor:
        """The gradient at the rows, from that at the products."""


@dataclass(frozen=True)
class _Stacked:
    """By matrices that are written out, one for each expert of each group."""

    by_key: _Sorted
    weights: Tensor

    def times(self, x: Tensor) -> Tensor:
        return self.by_key.times(x, self.weights)

    def back(self, d: Tensor) -> Tensor:
        return self.by_key.times(d, self.weights.mT)


@dataclass(frozen=True)
class _Pairs:
    """By the matrices at w, and Σ_i c_j d_i (a_i · x) over the group's positions i that had the row's expert at w."""

    weight: Tensor
    experts: Tensor
    found: Perturbation
    factors: ExpertFactors
    groups: Groups

    def times(self, x: Tensor) -> Tensor:
        return self._moved(x, self.weight, turned=False)

    def back(self, d: Tensor) -> Tensor:
        return self._moved(d, self.weight.mT, turned=True)

    def _moved(self, x: Tensor, weight: Tensor, turned: bool) -> Tensor:
        groups, found = self.groups, self.found
        assert found.coefficients is not None
        z = _Sorted.by(self.experts, len(weight)).times(x, weight)
        if found.keeps is not None:
            z.mul_(over(groups.spread(found.keeps.to(z.dtype), len(z)), z.ndim))
        a, d, c = self.factors.rows.to(z.dtype, found.coefficients, groups)
        if turned:
            a, d = d, a
        own = by_example(z, groups), by_example(x, groups), self.experts.reshape(groups.size, -1)
        parts = zip(*map(groups.split, (*own, a, d, self.factors.experts)), groups.of_groups(c), strict=True)
        for z_, x_, e_, a_, d_, others, c_ in parts:
            along = torch.bmm(x_.flatten(1, 2), a_.flatten(1, 2).mT).mul_(c_[:, None, None])
            z_.view(len(c_), -1, z_.shape[-1]).baddbmm_(along.masked_fill_(_apart(e_, others), 0), d_.flatten(1, 2))
        return z


class _Moved(torch.autograd.Function):
    """The product by `_Own`; the gradient of the matrices is that of the plain product."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, experts: Tensor, own: _Own) -> Tensor:
        ctx.save_for_backward(x, experts)
        ctx.own, ctx.count = own, len(weight)
        return own.times(x)

    @staticmethod
    def backward(ctx: Context, d: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, experts = ctx.saved_tensors
        dx = ctx.own.back(d) if ctx.needs_input_grad[0] else None
        dw = _Sorted.by(experts, ctx.count).gradient(x, d) if ctx.needs_input_grad[1] else None
        return dx, dw, None, None
