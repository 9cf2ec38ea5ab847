"""Exact m-SAM in two passes over the whole batch, whatever m.

For group j of n_j consecutive examples, g_j is the gradient of its mean loss at w, s_j = ρ/(‖g_j‖ + eps) and
e_j = s_j g_j; the gradient that descends is Σ_j (n_j/B) · that of the group's mean loss at w + e_j (Foret et al. 2021,
section 4.1; Andriushchenko & Flammarion 2022, equation 3). The first pass takes the gradients at the outputs of
layers, from which g_j follows; the second calls the layers with what e_j adds to their outputs.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lowland.optim import amp, grouped, parallel
from lowland.optim.ascent import Adaptive, Ascent, LossBudget, Slope, Unnormalized
from lowland.optim.batch_norm import SavedStatistics, statistics, statistics_kept
from lowland.optim.per_group import report
from lowland.optim.per_group.audit import Audit
from lowland.optim.per_group.batch_norm import by_group
from lowland.optim.per_group.gradients import Built, Factors, Piece, squared_norms
from lowland.optim.per_group.groups import Groups
from lowland.optim.per_group.passes import FirstPass, Perturbation, SecondPass, written_out
from lowland.optim.per_group.watch import NotCovered, uncompiled, watching
from lowland.optim.randomness import random_states, replay

Closure = Callable[[], Tensor]


class Engine:
    """Computes m-SAM's gradient for one optimizer; remembers what it can't do."""

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer
        #: Why the loop is taken, once that is known.
        self.reason: str | None = None
        self.audited = False
        #: What the audit took, in words.
        self.audit_cost = ""
        #: Of the last batch; None before, and where the loop was taken.
        self.last: report.Last | None = None
        self._plan: list[report.Row] = []
        self._groups: Groups | None = None
        self._size: int | None = None
        self._said: set[str] = set()

    def backward(self, closure: Closure, scaler: Any = None) -> Tensor:
        """See `SAM.backward`."""
        optimizer = self.optimizer
        if self.reason is None:
            self.reason = _unsupported(optimizer)
            if self.reason is None:
                states = random_states(optimizer._params())
                if any(map(_is_compiled, optimizer.model.modules())):
                    self.warn(
                        "m-SAM runs what torch.compile compiled as it was written, for weights that differ by group"
                    )
                try:
                    with uncompiled(), statistics_kept(optimizer.model, only_after_errors=True):
                        return self._backward(closure, scaler, states)
                except NotCovered as stop:
                    self.reason = str(stop)
                    replay(states)
            self.warn(
                f"m-SAM goes group by group, two evaluations of the batch for each: {self.reason}. The result is "
                "the same."
            )
        self.last = None
        return grouped.backward(optimizer, closure, scaler)

    def plan(self) -> str:
        """A table of how the last step held the groups' gradients."""
        if self.reason is not None:
            return f"m-SAM goes group by group: {self.reason}"
        if self._groups is None:
            return "m-SAM: no step was made yet"
        groups = self._groups
        head = f"m-SAM of {groups.size} examples in {groups.count} groups of {groups.m}"
        return report.table(self._plan, head, self.audit_cost)

    def warn(self, line: str) -> None:
        """Once."""
        if line not in self._said:
            self._said.add(line)
            warnings.warn(line, stacklevel=4)

    def _backward(self, closure: Closure, scaler: Any, states: Any) -> Tensor:
        optimizer = self.optimizer
        optimizer._ready("m-SAM pass")
        optimizer._start()
        params, rhos = optimizer._trainable()
        names = {p: name for name, p in optimizer.model.named_parameters()}
        members = {p for p in params if optimizer._scope is None or p in optimizer._scope}
        held = [parallel.set_aside(p.grad) for p in params]

        def losses() -> Tensor:
            replay(states)
            torch.clear_autocast_cache()
            return grouped.per_example(closure)

        wrapper = parallel.ddp(optimizer.model)

        def alone() -> AbstractContextManager[Any]:
            return nullcontext() if wrapper is None else parallel.ddp_synchronization(wrapper, False)

        try:
            optimizer._begin("ascent", params)
            with torch.enable_grad(), alone():
                first, before = self._first(losses, params, names, members, scaler)
            left = [names[p] for p in params if p.grad is not None]
        finally:
            optimizer._end(params, held)
            torch.clear_autocast_cache()
        if left:
            raise NotCovered(
                f"{left[0]} has a gradient that came by a way nobody watches (a function of autograd's own, say, or "
                "a copy made before the step)"
            )
        if not members & first.pieces.keys() and not optimizer.l2:
            raise RuntimeError("no parameter that climbs received a gradient: do the losses depend on them?")
        with torch.no_grad():
            perturbations = self._climb(first, dict(zip(params, rhos, strict=True)), members, scaler)
        first.check_inputs()
        second = SecondPass(first.groups, names, perturbations, self.warn)
        if optimizer.audit and not self.audited:
            with alone(), statistics_kept(optimizer.model):
                self._audit(
                    Audit(optimizer, params, names, losses, first.autocast), first.groups, perturbations, second
                )
        try:
            optimizer._pass = "perturbed"
            with (
                torch.enable_grad(),
                statistics_kept(optimizer.model),
                by_group(optimizer.model, first.groups),
                watching(params, optimizer.model, second),
            ):
                value = losses()
                if len(value) != first.groups.size:
                    raise NotCovered("the closure doesn't return the losses of the same batch each time")
                amp.scaled(scaler, value.mean()).backward()
            self._penalize(params, second, scaler)
        finally:
            optimizer._pass = None
            torch.clear_autocast_cache()
        if scaler is not None:
            overflow = parallel.anywhere(~torch.isfinite(self._norms).all(), optimizer.model)
            amp.pass_on_overflow(overflow, [p.grad for p in params if p.grad is not None])
        optimizer._evaluated += 1
        self._groups, norms = first.groups, self._norms
        after = report.means(value, first.groups)
        self.last = report.Last(report.means(before, first.groups), after, norms)
        return before.mean()

    def _audit(self, audit: Audit, groups: Groups, found: dict[Tensor, Perturbation], second: SecondPass) -> None:
        started = time.perf_counter()
        self.audited = audit.run(groups, found, second)
        self.audit_cost = (
            f"check of one group by its definition, at the first step: {audit.evaluations} evaluations of the batch, "
            f"{time.perf_counter() - started:.2g} s; SAM(..., audit=False) leaves it out"
        )

    def _first(
        self, losses: Closure, params: list[Tensor], names: dict[Tensor, str], members: set[Tensor], scaler: Any
    ) -> tuple[FirstPass, Tensor]:
        model, m, factors = self.optimizer.model, self.optimizer.m, type(self.optimizer.ascent_rule) is not Adaptive
        if self._size is None:
            self._size = self._learn(losses)
            if any(p.grad is not None for p in params):
                raise ValueError("the closure ran backward: with m it returns the loss of each example, no more")
        saved = SavedStatistics(statistics(model))
        while True:
            first = FirstPass(Groups(self._size, m), names, members, factors, self.warn)
            try:
                with by_group(model, first.groups), watching(params, model, first):
                    value = losses()
                    if len(value) == self._size:
                        amp.scaled(scaler, value.sum() / first.groups.m).backward()
                        return first, value.detach()
                self._size = len(value)
            except NotCovered:
                size, self._size = self._size, self._learn(losses)
                if size == self._size:
                    raise
            saved.restore()

    def _learn(self, losses: Closure) -> int:
        """The batch's size."""
        with statistics_kept(self.optimizer.model), by_group(self.optimizer.model, None):
            return len(losses())

    def _climb(
        self, first: FirstPass, rhos: dict[Tensor, float], members: set[Tensor], scaler: Any
    ) -> dict[Tensor, Perturbation]:
        """What to add to each parameter."""
        optimizer, groups = self.optimizer, first.groups
        rule, l2 = optimizer.ascent_rule, optimizer.l2
        pieces: dict[Tensor, Piece] = {p: piece for p, piece in first.pieces.items() if p in members}
        self._plan = report.rows(pieces, first.names, groups)
        device = next(iter(rhos)).device
        sizes = groups.sizes.to(device)
        scale = amp.loss_scale(scaler, next(iter(rhos)))
        per = groups.m / (sizes * (scale.double() if isinstance(scale, Tensor) else scale))  # of a group's mean loss
        if l2:
            for p in members - pieces.keys():
                pieces[p] = Built(p.new_zeros(()).expand(groups.count, *p.shape))
        if type(rule) is Adaptive:
            return self._adapt(pieces, rhos, groups, per)
        squares = squared_norms(pieces.values(), groups) * per.square()
        if l2:
            for p, piece in pieces.items():
                w = p.detach()
                squares += 2 * l2 * piece.dot(w, groups) * per
                squares += l2**2 * torch.linalg.vector_norm(w).double().square()
        self._norms = squares.clamp_(min=0).sqrt_()
        s = self._reach(self._norms, max((rhos[p] for p in members), default=0.0))
        reach = {rho: rho * s * per for rho in set(rhos.values()) if rho}
        keeps = {rho: 1 + rho * s * l2 if l2 else None for rho in reach}
        return {p: _perturbation(piece, reach[rhos[p]], keeps[rhos[p]]) for p, piece in pieces.items() if rhos[p]}

    def _reach(self, norms: Tensor, rho: float) -> Tensor:
        """How far each group climbs, for rho 1, relative to its gradient."""
        rule, eps = self.optimizer.ascent_rule, self.optimizer.eps
        usable = torch.isfinite(norms) & (norms > 0)
        if type(rule) is Unnormalized:
            return usable.double()
        factor = torch.where(usable, 1 / (norms + eps), 0)
        if type(rule) is LossBudget:
            return factor * factor.clamp(max=rule.longest / rho if rho else 0.0)
        return factor

    def _adapt(
        self, pieces: dict[Tensor, Piece], rhos: dict[Tensor, float], groups: Groups, per: Tensor
    ) -> dict[Tensor, Perturbation]:
        rule, l2 = self.optimizer.ascent_rule, self.optimizer.l2
        slope: Any = Slope([], [], [], lambda _: 0.0, 0.0, 1.0, 0, None, 0.0, self.optimizer._name, lambda _: [], None)  # type: ignore[arg-type]
        squares, own, directions = torch.zeros_like(per), torch.zeros_like(per), {}
        for p, piece in pieces.items():
            assert isinstance(piece, Built)
            g = piece.stack * _like(per, piece.stack) + l2 * p.detach()
            own += Built(g).squares(groups)
            t = p.detach().abs() + rule.eta if rule.adapts(p, slope) else torch.ones_like(p)
            g *= t
            squares += Built(g).squares(groups)
            directions[p] = g.mul_(t)
        self._norms = own.sqrt_()
        s = self._reach(squares.sqrt(), max(rhos[p] for p in directions))
        return {
            p: Perturbation(stack=direction.mul_(_like(rhos[p] * s, direction)).add_(p.detach()))
            for p, direction in directions.items()
            if rhos[p]
        }

    @torch.no_grad()
    def _penalize(self, params: list[Tensor], second: SecondPass, scaler: Any) -> None:
        """Add λ(w + mean of the groups' e), the gradient of ½λ‖w + e‖²."""
        optimizer, groups = self.optimizer, second.groups
        if not optimizer.l2:
            return
        shares = (groups.sizes / groups.size).to(params[0].device)
        means = [_mean(p, second.perturbations.get(p), shares, groups) for p in params]
        average = parallel.averaging(optimizer.model)
        if average is not None:
            means = average(means)
        scale = amp.loss_scale(scaler, params[0])
        for p, mean in zip(params, means, strict=True):
            mean = mean.mul_(optimizer.l2).mul_(scale)
            p.grad = mean if p.grad is None else p.grad.add_(mean)


def _is_compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None


def _unsupported(optimizer: Any) -> str | None:
    rule = optimizer.ascent_rule
    if type(rule) not in (Ascent, Unnormalized, LossBudget, Adaptive):
        return f"the ascent rule {type(rule).__name__} has no form for all groups at once"
    return None


def _like(values: Tensor, stack: Tensor) -> Tensor:
    """``(groups,)`` to go along with ``(groups, *shape)``."""
    return values.to(stack.dtype).view(-1, *[1] * (stack.ndim - 1))


def _perturbation(piece: Piece, c: Tensor, keeps: Tensor | None) -> Perturbation:
    if isinstance(piece, Factors):
        return Perturbation(piece, c, keeps)
    return Perturbation(c=c, keeps=keeps, raw=piece.stack, owned=piece.owned, terms=piece.terms)


def _mean(p: Tensor, found: Perturbation | None, shares: Tensor, groups: Groups) -> Tensor:
    """Of the groups' weights, weighted by size."""
    if found is None:
        return p.detach().clone()
    if found.stack is not None or found.raw is not None:
        return torch.tensordot(shares.to(p.dtype), written_out(p, found, groups), 1)
    assert found.factors is not None
    assert found.c is not None
    kept = 1.0 if found.keeps is None else (shares * found.keeps).sum().to(p.dtype)
    return found.factors.weighted(groups.spread(found.c * shares, groups.size), p.shape).add_(p.detach() * kept)
