"""Exact m-SAM in two passes over the whole batch, whatever m.

For group j of n_j consecutive examples, g_j is the gradient of its mean loss at w, s_j = ρ/(‖g_j‖ + eps) and
e_j = s_j g_j; the gradient that descends is Σ_j (n_j/B) · that of the group's mean loss at w + e_j (Foret et al. 2021,
section 4.1; Andriushchenko & Flammarion 2022, equation 3). The first pass takes the gradients at the outputs of
layers, from which g_j follows; the second calls the layers with what e_j adds to their outputs.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.optim import amp, parallel
from lowland.optim.ascent import Adaptive
from lowland.optim.buffers import Buffers, kept
from lowland.optim.m_sam import loop, report
from lowland.optim.m_sam.audit import COUPLED, Audit, gradients_aside
from lowland.optim.m_sam.climb import climb, norms_at, of_means, unsupported
from lowland.optim.m_sam.closure import Closure, ClosureAgain, Inner
from lowland.optim.m_sam.first_pass import FirstPass
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.handler import Handler
from lowland.optim.m_sam.host import Host, Parameters, Settings
from lowland.optim.m_sam.layers.batch_norm import by_group, has_others, running_statistics
from lowland.optim.m_sam.lines import line_of
from lowland.optim.m_sam.perturbation import Perturbation
from lowland.optim.m_sam.refusals import NoGradient, NotCovered, OwnGenerator, Refused, TooLarge, Unordered, raising
from lowland.optim.m_sam.second_pass import SecondPass
from lowland.optim.m_sam.watch import check, followed, watching
from lowland.optim.m_sam.watched import Derived
from lowland.torch_tools import ddp, random_states, replay, uncompiled

#: Returns the loss of each example.
Losses = Callable[[], Tensor]

#: Batches whose number is a power of this are audited again.
AGAIN = 10


class Engine:
    """Computes m-SAM's gradient for one optimizer; remembers what it can't do."""

    def __init__(self, host: Host):
        self.host = host
        #: Why the loop is taken, once that is known.
        self.reason: str | None = None
        #: Uses of parameters that were audited.
        self.audited: set[tuple[str, str]] = set()
        #: Batches so far, and the number of that which is audited whatever it uses.
        self.batches, self.next_audit = 0, AGAIN
        #: What the audit took, in words.
        self.audit_cost = ""
        #: Of the last batch; None before, and where the loop was taken.
        self.last: report.Last | None = None
        self._plan: list[report.Row] = []
        self._parts: list[Groups] = []
        self._size: int | None = None
        #: Groups in one part of a batch; None for all.
        self._at_once: int | None = None
        self._said: set[str] = set()
        self._inner: Inner = {}
        #: Whether there are inputs without rows that come from outside: then they don't hint at another size of batch.
        self._odd_inputs = False
        self._closure: Closure | None = None
        #: Whether generators of the closure's own give the same numbers each time.
        self._generators = False
        #: Whether a batch norm was used more than once in the last pass.
        self._twice = False

    def backward(self, closure: Losses, scaler: Any = None) -> Tensor:
        """See `SAM.backward`."""
        model = self.host.model
        if self.reason is None:
            self.reason = unsupported(self.host.settings.ascent_rule)
            if self.reason is None:
                states = random_states(self.host.parameters().everyone)
                if any(map(_is_compiled, model.modules())):
                    self.warn(
                        "m-SAM runs what torch.compile compiled as it was written, for weights that differ by group"
                    )
                self.batches += 1
                # Running statistics by group are the sum of what the parts of a batch give.
                buffers = self.host.buffers(carried=running_statistics(model))
                try:
                    with uncompiled(), self.host.batch():
                        mean = self._backward(closure, scaler, states, buffers)
                    buffers.finish()
                    return mean
                except BaseException as error:
                    buffers.undo()
                    if isinstance(error, OwnGenerator) and not self._generators and self._repeats(closure, states):
                        self._generators = True
                        replay(states)
                        return self.backward(closure, scaler)
                    self.reason = self._why_not(error, closure, scaler, states)
                    replay(states)
            self.warn(
                f"m-SAM goes group by group, two evaluations of the batch for each: {self.reason}. The result is "
                "the same."
            )
        self.last = None
        return loop.backward(self.host, closure, scaler)

    def plan(self) -> str:
        """A table of how the last step held the groups' gradients."""
        if self.reason is not None:
            return f"m-SAM goes group by group: {self.reason}"
        if not self._parts:
            return "m-SAM: no step was made yet"
        groups, count = self._parts[0], sum(part.count for part in self._parts)
        head = f"m-SAM of {groups.whole} examples in {count} groups of {groups.m}"
        if len(self._parts) > 1:
            head += f", in {len(self._parts)} parts for memory; the first, of {groups.count} groups:"
        return report.table(self._plan, head, self.audit_cost)

    def warn(self, line: str) -> None:
        """Once."""
        if line not in self._said:
            self._said.add(line)
            warnings.warn(line, stacklevel=4)

    def _why_not(self, error: BaseException, closure: Losses, scaler: Any, states: Any) -> str:
        """Why the loop is taken after ``error``, which is raised if the loop can't help."""
        if isinstance(error, NotCovered):
            if isinstance(error, Unordered) and self.host.settings.audit:
                self._refuse_coupled(closure, states)
            return str(error)
        if not isinstance(error, Exception) or isinstance(error, Refused | NoGradient | torch.OutOfMemoryError):
            raise error
        return self._only_here(error, closure, scaler, states)

    def _evaluate(self, closure: Losses, states: Any) -> Tensor:
        """The losses, on the same random numbers each time."""
        replay(states)
        amp.clear_caches()
        return loop.per_example(closure, self.host.out_of_reach)

    @contextmanager
    def _without_a_trace(self) -> Iterator[None]:
        """Afterwards buffers and gradients are what they were."""
        who = self.host.parameters()
        with kept(self.host.model), gradients_aside([*who.everyone, *who.outside]), self._alone():
            yield

    def _alone(self) -> AbstractContextManager[Any]:
        """Inside, DDP averages nothing: the last evaluation of a step is the only one that all processes make."""
        wrapper = ddp(self.host.model)
        return nullcontext() if wrapper is None else parallel.ddp_synchronization(wrapper, False)

    def _only_here(self, error: Exception, closure: Losses, scaler: Any, states: Any) -> str:
        """``error`` in words, if the passes raise it each time and the plain closure doesn't; else it is raised."""
        model = self.host.model
        with self._without_a_trace():
            try:
                with torch.enable_grad():
                    self._evaluate(closure, states).mean().backward()
            except Exception:
                raise error from None
        with self._without_a_trace():
            try:
                with uncompiled():
                    self._backward(closure, scaler, states, Buffers(model, carried=running_statistics(model)))
            except Exception:
                pass
            else:  # once, and not again: maybe what it reads wasn't there
                raise error
            finally:
                amp.clear_caches()
        return raising(error, line_of(error), "" if self._closure is None else self._closure.seen.where)

    def _repeats(self, closure: Losses, states: Any) -> bool:
        """Whether two evaluations give the same losses."""
        with self._without_a_trace():
            return torch.equal(*(self._evaluate(closure, states).detach() for _ in range(2)))

    def _refuse_coupled(self, closure: Losses, states: Any) -> None:
        """Raise Refused if the losses of one group reach all rows of each layer."""

        def losses() -> Tensor:
            return self._evaluate(lambda: followed(closure), states)

        try:
            with self._without_a_trace(), uncompiled():
                audit = Audit(self.host, self.host.parameters(), losses, lambda: None)
                coupled = self._size is not None and audit.couples(self._size)
        except Exception:  # nothing can be told; the loop is right all the same
            return
        finally:
            amp.clear_caches()
        if coupled:
            raise Refused(COUPLED)

    def _backward(self, closure: Losses, scaler: Any, states: Any, buffers: Buffers) -> Tensor:
        model, settings, who = self.host.model, self.host.settings, self.host.parameters()
        params = who.trainable
        check(params, model)

        def losses() -> Tensor:
            buffers.rewind()
            return self._evaluate(watched, states)

        def watched() -> Tensor:
            value = followed(closure)
            if isinstance(value, Derived):
                raise NotCovered("the losses depend on no input that was there before the closure, as a plain tensor")
            return value

        step = _Step(settings, who, losses, scaler, buffers)
        before = [(p, None if p.grad is None else p.grad.clone()) for p in params + who.outside]
        parts: list[_Part] = []
        try:
            while not parts or parts[-1].groups.chosen.stop < parts[-1].groups.whole:
                parts.append(self._part(step, parts[-1].groups.chosen.stop if parts else 0))
        except BaseException:
            for p, gradient in before:  # no part of a batch may stay
                p.grad = gradient
            raise
        self._penalize(step, parts)
        if len(parts) > 1 and (has_others(model) or self._twice):
            buffers.restart()  # each part had only its own examples
            whole = Groups(parts[0].groups.whole, settings.m)
            with torch.enable_grad(), self._alone(), by_group(model, whole):
                losses()
            buffers.settle()
        if scaler is not None:
            finite = torch.stack([torch.isfinite(part.norms).all() for part in parts]).all()
            overflow = parallel.anywhere(~finite, model)
            amp.pass_on_overflow(overflow, [p.grad for p in params if p.grad is not None])
        self._plan, self._parts = parts[0].plan, [part.groups for part in parts]
        self.last = report.last([part.last for part in parts])
        return torch.cat([part.losses for part in parts]).mean()

    def _part(self, step: "_Step", start: int) -> "_Part":
        """Both passes for the groups from ``start`` on, as many as memory allows; their gradients are accumulated."""
        host, settings, who = self.host, step.settings, step.who
        model, params = host.model, who.trainable
        with host.under_way("ascent", apart=params + who.outside):
            with torch.enable_grad(), self._alone():
                first, ran, before = self._first(step, start)
            left = [who.names[p] for p in params if p.grad is not None]
        if left:
            raise NotCovered(
                f"{left[0]} has a gradient that came by a way nobody watches (a function of autograd's own, say, or "
                "a copy made before the step)"
            )
        if not who.climbing & first.pieces.keys() and not settings.l2:
            raise NoGradient(
                host.out_of_reach() or "no parameter that climbs received a gradient: do the losses depend on them?"
            )
        groups = first.groups
        self._twice = len(set(ran.seen.normalized)) < len(ran.seen.normalized)
        pieces = {p: piece for p, piece in first.pieces.items() if p in who.climbing}
        plan = report.rows(pieces, who.names, groups)
        with torch.no_grad():
            found, norms = climb(settings, who, pieces, groups, step.scaler)
        first.check_inputs()
        second = SecondPass(groups, who.names, found, self.warn)
        handler = Handler(second, ClosureAgain(ran, groups.whole))
        due = settings.audit and (self.batches >= self.next_audit or not ran.seen.uses <= self.audited)
        if due and bool(norms.isfinite().all()):  # where the scaled gradients overflow there is nothing to compare
            rewind = step.buffers.rewind
            with self._alone(), gradients_aside(who.outside):
                audit = Audit(host, who, step.losses, rewind, ran.seen.autocast, self.batches)
                self._audit(audit, groups, found, handler, ran.seen.uses)
        if settings.perturbed_norms:
            second.members = who.climbing
        last = groups.chosen.stop == groups.whole
        self._closure = handler.closure
        together = nullcontext() if last else self._alone()
        with host.under_way("perturbed"):
            step.buffers.rewind()  # before they are looked for
            with torch.enable_grad(), together:
                with by_group(model, groups), watching(params, model, handler):
                    value = step.losses()
                    first.check_inputs()
                    if len(value) != groups.whole:
                        raise NotCovered("the closure doesn't return the losses of the same batch each time")
                    value = value[groups.chosen]
                    amp.scaled(step.scaler, value.sum() / groups.whole).backward()
        at_moved = None
        with torch.no_grad():
            if settings.perturbed_norms:
                per = of_means(groups, params[0], step.scaler, groups.whole)
                at_moved = norms_at(second, [p for p in params if p in who.climbing], per, settings.l2)
            means = self._means(params, second) if settings.l2 else []
        seen = report.Last(report.means(before, groups), report.means(value, groups), norms, at_moved)
        return _Part(groups, before, norms, plan, seen, means)

    def _audit(
        self,
        audit: Audit,
        groups: Groups,
        found: dict[Tensor, Perturbation],
        second: Handler,
        uses: set[tuple[str, str]],
    ) -> None:
        started = time.perf_counter()
        if audit.run(groups, found, second):
            self.audited |= uses
            while self.next_audit <= self.batches:
                self.next_audit *= AGAIN
            self.audit_cost = (
                f"check of two groups by their definition, at batch {self.batches}: {audit.evaluations} evaluations "
                f"of it, {time.perf_counter() - started:.2g} s; again where parameters are used in a new way, and at "
                f"batch {self.next_audit}; SAM(..., audit=False) leaves it out"
            )

    def _first(self, step: "_Step", start: int) -> tuple[FirstPass, Closure, Tensor]:
        """The first pass over the groups from ``start`` on, the closure in it, and their losses."""
        model, settings, who = self.host.model, step.settings, step.who
        params = who.trainable
        factors = type(settings.ascent_rule) is not Adaptive
        if self._size is None:
            self._size = self._learn(step)
            if any(p.grad is not None for p in params):
                raise Refused("the closure ran backward: with m it returns the loss of each example, no more")
            sure = True
        else:
            sure = self._odd_inputs or start > 0
        sizes: list[int] = []
        while True:
            stop = self._size if self._at_once is None else min(self._size, start + self._at_once * settings.m)
            groups = Groups(stop - start, settings.m, start, self._size)
            step.buffers.rewind()
            first = FirstPass(groups, who.names, who.climbing, factors, self.warn, settings.memory_limit)
            closure = Closure(groups.whole, who.names, groups.m < groups.whole, sure)
            closure.seen.inner, closure.dependence.generators = self._inner, self._generators
            self._closure = closure
            try:
                with by_group(model, groups), watching(params, model, Handler(first, closure)):
                    value = step.losses()
                    if len(value) == self._size:
                        first.recording = True
                        amp.scaled(step.scaler, value[groups.chosen].sum() / groups.m).backward()
                        step.buffers.settle()
                        return first, closure, value.detach()[groups.chosen]
                size = len(value)
            except TooLarge:
                size, self._at_once = self._size, max(1, groups.count // 2)
                for p in params:
                    p.grad = None
            except NotCovered:
                size = self._learn(step)
                if size == self._size:
                    if sure:
                        raise
                    sure = self._odd_inputs = True
                    continue
                sure = True
            sizes.append(size)
            if (start and size != self._size) or (size != self._size and size in sizes[:-1]):
                raise NotCovered("the closure doesn't return as many losses each time")
            self._size = size

    def _learn(self, step: "_Step") -> int:
        """The batch's size."""
        with by_group(self.host.model, None):
            return len(step.losses())

    def _means(self, params: list[Tensor], second: SecondPass) -> list[Tensor]:
        shares = (second.groups.sizes / second.groups.whole).to(params[0].device)
        total, found = shares.sum(), second.perturbations
        return [
            found[p].mean(p, shares, second.groups) if p in found else p.detach() * total.to(p.dtype) for p in params
        ]

    @torch.no_grad()
    def _penalize(self, step: "_Step", parts: "list[_Part]") -> None:
        """Add λ(w + mean of the groups' e), the gradient of ½λ‖w + e‖²."""
        params, l2 = step.who.trainable, step.settings.l2
        if not l2:
            return
        means = [torch.stack(of_parts).sum(0) for of_parts in zip(*(part.means for part in parts), strict=True)]
        average = parallel.averaging(self.host.model)
        if average is not None:
            means = average(means)
        scale = amp.loss_scale(step.scaler, params[0])
        for p, moved in zip(params, means, strict=True):
            moved = moved.mul_(l2).mul_(scale)
            p.grad = moved if p.grad is None else p.grad.add_(moved)


@dataclass
class _Step:
    """What all parts of a batch share."""

    settings: Settings
    who: Parameters
    losses: Losses
    scaler: Any
    buffers: Buffers


@dataclass
class _Part:
    """What is kept of a part of a batch: see `Engine._part`."""

    groups: Groups
    losses: Tensor
    norms: Tensor
    plan: list[report.Row]
    last: report.Last
    means: list[Tensor]


def _is_compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
