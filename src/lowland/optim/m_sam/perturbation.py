"""Where the groups have a parameter at w + e: as a sum of products that is never written out, or as one tensor each."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.optim.m_sam.gradients import Factors
from lowland.optim.m_sam.groups import Groups


@dataclass
class Perturbation:
    """The weights of group j: ``keeps_j`` · w + c_j Σ_i d_i a_iᵀ over its examples i, or written out.

    Attributes:
        factors: a and d of the sum; None where it is written out.
        coefficients: the c_j, ``(groups,)``.
        keeps: 1 + ρ s_j λ, ``(groups,)``; None for 1.
        stack: the weights, ``(groups, *shape)``.
        raw: gradients ``(groups, *shape)``, from which ``stack`` is made when it is asked for.
        owned: whether it may be written where they are.
        terms: of ``raw``, see `Built`.
    """

    factors: Factors | None = None
    coefficients: Tensor | None = None
    keeps: Tensor | None = None
    stack: Tensor | None = None
    raw: Tensor | None = None
    owned: bool = False
    terms: Tensor | None = None

    def weights(self, param: Tensor, groups: Groups) -> Tensor:
        """``(groups, *shape)``, written out as late as that: then they are in the cache when they are used."""
        if self.stack is not None:
            return self.stack
        assert self.coefficients is not None
        at_w = param.detach()
        if self.keeps is not None:
            at_w = at_w * along(self.keeps, param)
        if self.raw is not None:
            into = self.raw if self.owned and self.raw.dtype == param.dtype else None  # in bfloat16 w + e is w
            self.stack = torch.addcmul(at_w, self.raw, along(self.coefficients, param), out=into)
            if self.owned:
                self.raw = None
        else:
            assert self.factors is not None
            built = self.factors.build(groups, param.shape).stack.to(param.dtype)
            self.stack = torch.addcmul(at_w, built, along(self.coefficients, param), out=built)
        return self.stack

    def of_group(self, param: Tensor, j: int, groups: Groups) -> Tensor:
        """The weights of one group."""
        if self.stack is not None:
            return self.stack[j]
        assert self.coefficients is not None
        at_w = param.detach() * (1 if self.keeps is None else self.keeps[j].to(param.dtype))
        if self.raw is not None:
            return at_w + self.raw[j] * self.coefficients[j].to(param.dtype)
        assert self.factors is not None
        chosen = slice(j * groups.m, (j + 1) * groups.m)
        its = Factors(self.factors.activations[chosen], self.factors.output_gradients[chosen])
        e = its.build(Groups(len(its.activations), len(its.activations)), param.shape).stack[0]
        return e * self.coefficients[j].to(e.dtype) + at_w

    def mean(self, param: Tensor, shares: Tensor, groups: Groups) -> Tensor:
        """The mean of the groups' weights, weighted by ``shares`` of the batch, shape (groups,)."""
        if self.stack is not None or self.raw is not None:
            return torch.tensordot(shares.to(param.dtype), self.weights(param, groups), 1)
        assert self.factors is not None
        assert self.coefficients is not None
        kept = 1.0 if self.keeps is None else (shares * self.keeps).sum().to(param.dtype)
        weights = groups.spread(self.coefficients * shares, groups.size)
        return (param.detach() * kept).add_(self.factors.weighted(weights, param.shape))


@dataclass(frozen=True)
class Products:
    """What is added to the weight of group j, for products in one type of numbers: c_j Σ_i d_i a_iᵀ, never built.

    Attributes:
        activations: the a_i, or what they follow from.
        output_gradients: the d_i, ``(examples, positions, outputs)``.
        coefficients: the c_j, ``(groups,)``.
        keeps: see `Perturbation`.
        groups: of the rows.
        shift: what the groups' biases add beyond, as Σ_i shift_j d_i, ``(groups,)``; None for nothing.
    """

    activations: Tensor
    output_gradients: Tensor
    coefficients: Tensor
    keeps: Tensor | None
    groups: Groups
    shift: Tensor | None = None

    @classmethod
    def of(cls, found: Perturbation, dtype: torch.dtype, groups: Groups) -> "Products":
        """Those of ``found``, which isn't written out."""
        assert found.factors is not None
        assert found.coefficients is not None
        keeps = None if found.keeps is None else found.keeps.to(dtype)
        return cls(*found.factors.to(dtype, found.coefficients, groups), keeps, groups)


def along(values: Tensor, one: Tensor) -> Tensor:
    """``(groups,)``, to go along with tensors like ``one`` for each group."""
    return values.to(one.dtype).view(-1, *[1] * one.ndim)
