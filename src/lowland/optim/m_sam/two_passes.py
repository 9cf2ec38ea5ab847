"""A batch on its way through the two passes."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from lowland.optim import amp, parallel
from lowland.optim.ascent import Adaptive
from lowland.optim.buffers import Buffers
from lowland.optim.m_sam import report
from lowland.optim.m_sam.audit import Audit, Audits
from lowland.optim.m_sam.climb import climb, norms_at, of_means
from lowland.optim.m_sam.closure import Closure, ClosureAgain, Inner, Seen
from lowland.optim.m_sam.evaluate import Losses, alone, gradients_aside
from lowland.optim.m_sam.first_pass import FirstPass
from lowland.optim.m_sam.gathered import Gathered
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.guesses import GUESSES, Guess
from lowland.optim.m_sam.handler import Handler
from lowland.optim.m_sam.host import Host, Parameters
from lowland.optim.m_sam.layers.batch_norm import by_group, has_others
from lowland.optim.m_sam.perturbation import Perturbation
from lowland.optim.m_sam.refusals import NoGradient, NotCovered, Refused, TooLarge
from lowland.optim.m_sam.second_pass import SecondPass
from lowland.optim.m_sam.watch import check, watching


@dataclass
class Learnt:
    """What batches have taught about those to come.

    Attributes:
        size: of a batch; None before the first.
        at_once: groups in one part of a batch; None for all.
        odd_inputs: whether inputs without rows come from outside: then they don't hint at another size of the batch.
        generators: whether generators of the closure's own give the same numbers each time.
        inner: see `Inner`.
        guess: of what has rows, that held for the last batch.
        gathered: whether an evaluation before the passes says whose rows of data are.
        audits: made and due.
    """

    size: int | None = None
    at_once: int | None = None
    odd_inputs: bool = False
    generators: bool = False
    inner: Inner = field(default_factory=dict)
    guess: Guess = GUESSES[0]
    gathered: bool = False
    audits: Audits = field(default_factory=Audits)


@dataclass
class _Part:
    """What is kept of a part of a batch: losses at w, and the mean of the groups' weights for each parameter."""

    groups: Groups
    losses: Tensor
    norms: Tensor
    rows: list[report.Row]
    last: report.Last
    means: list[Tensor]


class TwoPasses:
    """Computes the gradient of one batch.

    Args:
        host: the optimizer.
        who: takes part.
        losses: the closure, watched, from the same buffers and on the same random numbers each time.
        buffers: of the model, before the first evaluation.
        scaler: a ``GradScaler``, or None.
        learnt: from earlier batches.
        warn: says what is slow.
    """

    def __init__(
        self,
        host: Host,
        who: Parameters,
        losses: Losses,
        buffers: Buffers,
        scaler: GradScaler | None,
        learnt: Learnt,
        warn: Callable[[str], None],
    ):
        self.host, self.buffers, self.scaler, self.learnt, self.warn = host, buffers, scaler, learnt, warn
        self.model, self.settings, self.who, self._losses = host.model, host.settings, who, losses
        #: The closure in the pass that was begun last.
        self.closure: Closure | None = None
        #: Whether a batch norm was used more than once in the last pass.
        self._twice = False
        #: Whose rows of data are, by how many there are.
        self._owners: dict[int, Tensor] = {}

    def run(self) -> report.Report:
        """Run both passes and add the gradient to ``p.grad``, for the trainable parameters and for those outside."""
        params, everyone = self.who.trainable, self.who.trainable + self.who.outside
        check(params, self.model)
        before = [(p, None if p.grad is None else p.grad.clone()) for p in everyone]
        parts: list[_Part] = []
        try:
            while not parts or parts[-1].groups.chosen.stop < parts[-1].groups.whole:
                parts.append(self._part(parts[-1].groups.chosen.stop if parts else 0))
        except BaseException:
            for p, gradient in before:  # no part of a batch may stay
                p.grad = gradient
            raise
        if self.settings.l2:
            self._penalize([part.means for part in parts])
        if len(parts) > 1 and (has_others(self.model) or self._twice):
            self._move_buffers(parts[0].groups.whole)
        if self.scaler is not None:
            finite = torch.stack([torch.isfinite(part.norms).all() for part in parts]).all()
            overflow = parallel.anywhere(~finite, self.model)
            amp.pass_on_overflow(overflow, [p.grad for p in params if p.grad is not None])
        loss = torch.cat([part.losses for part in parts]).mean()
        last = report.last([part.last for part in parts])
        return report.Report(loss, last, parts[0].rows, [part.groups for part in parts])

    def _part(self, start: int) -> _Part:
        """Both passes for the groups from ``start`` on, as many as memory allows; their gradients are accumulated."""
        settings, who = self.settings, self.who
        with self.host.under_way("ascent", apart=who.trainable + who.outside):
            with torch.enable_grad(), alone(self.model):
                first, closure, before = self._first(start)
            left = [who.names[p] for p in who.trainable if p.grad is not None]
        if left:
            raise NotCovered(
                f"{left[0]} has a gradient that came by a way nobody watches (a function of autograd's own, say, or "
                "a copy made before the step)"
            )
        if not who.climbing & first.pieces.keys() and not settings.l2:
            raise NoGradient(
                self.host.out_of_reach()
                or "no parameter that climbs received a gradient: do the losses depend on them?"
            )
        groups = first.groups
        self._twice = len(set(closure.seen.normalized)) < len(closure.seen.normalized)
        pieces = {p: piece for p, piece in first.pieces.items() if p in who.climbing}
        rows = report.rows(pieces, who.names, groups)
        with torch.no_grad():
            found, norms = climb(settings, who, pieces, groups, self.scaler)
        first.check_inputs()
        second = SecondPass(groups, who.names, found, self.warn)
        handler = Handler(second, self._again(closure))
        # Where the scaled gradients overflow there is nothing to compare.
        if settings.audit and self.learnt.audits.due(closure.seen.uses) and bool(norms.isfinite().all()):
            self._audit(groups, found, handler, closure.seen)
        if settings.perturbed_norms:
            second.members = who.climbing
        value = self._second(handler, first)
        at_moved, means = None, list[Tensor]()
        with torch.no_grad():
            if settings.perturbed_norms:
                per = of_means(groups, who.trainable[0], self.scaler, groups.whole)
                climbing = [p for p in who.trainable if p in who.climbing]
                at_moved = norms_at(second, climbing, per, settings.l2)
            if settings.l2:
                means = self._means(groups, found)
        last = report.Last(report.means(before, groups), report.means(value, groups), norms, at_moved)
        return _Part(groups, before, norms, rows, last, means)

    def _first(self, start: int) -> tuple[FirstPass, Closure, Tensor]:
        """The first pass over the groups from ``start`` on, the closure in it, and their losses."""
        model, m, params, learnt = self.model, self.settings.m, self.who.trainable, self.learnt
        if learnt.size is None:
            learnt.size = self._count()
            if any(p.grad is not None for p in params):
                raise Refused("the closure ran backward: with m it returns the loss of each example, no more")
            sure = True
        else:
            sure = learnt.odd_inputs or start > 0
            if learnt.gathered and not start and (size := self._count()) != learnt.size:
                learnt.size, sure = size, True
        learnt.guess = replace(learnt.guess, owners=self._owners if learnt.gathered else {})
        sizes: list[int] = []
        failed: NotCovered | None = None
        decided = -1  # how far the closure came
        left = [guess for guess in GUESSES if guess != learnt.guess]
        gather = not learnt.gathered
        while True:
            stop = learnt.size if learnt.at_once is None else min(learnt.size, start + learnt.at_once * m)
            first, closure = self._begin(Groups(stop - start, m, start, learnt.size), sure)
            groups = first.groups
            try:
                with by_group(model, groups), watching(params, model, Handler(first, closure)):
                    value = self._losses()
                    if len(value) == learnt.size:
                        first.recording = True
                        amp.scaled(self.scaler, value[groups.chosen].sum() / groups.m).backward()
                        self.buffers.settle()
                        return first, closure, value.detach()[groups.chosen]
                size = len(value)
            except TooLarge:
                size, learnt.at_once = learnt.size, max(1, groups.count // 2)
                for p in params:
                    p.grad = None
            except NotCovered as error:
                if failed is None or len(closure.decided) > decided:  # what the guess that comes farthest meets
                    failed, decided = closure.seen.said_of(error), len(closure.decided)
                size = self._count()
                if size == learnt.size:
                    for p in params:
                        p.grad = None
                    if not sure:
                        sure = learnt.odd_inputs = True
                        failed = None
                    elif gather and self._owners and not start:
                        gather, learnt.gathered = False, True
                        learnt.guess = replace(learnt.guess, owners=self._owners)
                    elif left and closure.seen.guessed and not start:
                        learnt.guess, learnt.gathered = left.pop(0), False
                    else:
                        learnt.guess, learnt.gathered = GUESSES[0], False
                        raise failed from None
                    continue
                sure, failed = True, None
            sizes.append(size)
            if (start and size != learnt.size) or (size != learnt.size and size in sizes[:-1]):
                raise NotCovered("the closure doesn't return as many losses each time")
            learnt.size = size

    def _begin(self, groups: Groups, sure: bool) -> tuple[FirstPass, Closure]:
        """A first pass over ``groups``; ``sure`` as `Closure` takes it."""
        settings, who = self.settings, self.who
        factors = type(settings.ascent_rule) is not Adaptive
        self.buffers.rewind()
        first = FirstPass(groups, who.names, who.climbing, factors, self.warn, settings.memory_limit)
        closure = Closure(groups.whole, who.names, groups.m < groups.whole, sure)
        closure.dependence.guess = self.learnt.guess
        closure.seen.inner, closure.dependence.generators = self.learnt.inner, self.learnt.generators
        self.closure = closure
        return first, closure

    def _again(self, first: Closure) -> Closure:
        """The closure in the second pass, after that in the first. It is followed again if rows may be others there."""
        if not first.dependence.labels.moving:
            return ClosureAgain(first, first.examples)
        closure = Closure(first.examples, first.names, first.parted)
        closure.dependence.guess, closure.dependence.generators = first.dependence.guess, first.dependence.generators
        closure.seen.inner = first.seen.inner
        return closure

    def _count(self) -> int:
        """How many losses the closure returns; and whose rows of data are, if that is seen on the way."""
        with by_group(self.model, None), Gathered(self.model) as gathered:
            size = len(self._losses())
        self._owners = gathered.owners(size)
        return size

    def _audit(self, groups: Groups, found: dict[Tensor, Perturbation], second: Handler, seen: Seen) -> None:
        audits, started = self.learnt.audits, time.perf_counter()
        with alone(self.model), gradients_aside(self.who.outside):
            audit = Audit(self.host, self.who, self._losses, self.buffers.rewind, seen.autocast, audits.batches)
            audit.guess = self.learnt.guess
            if audit.run(groups, found, second):
                audits.made(seen.uses, audit.evaluations, time.perf_counter() - started)

    def _second(self, handler: Handler, first: FirstPass) -> Tensor:
        """The second pass; the losses of its groups."""
        groups, self.closure = first.groups, handler.closure
        together = nullcontext() if groups.chosen.stop == groups.whole else alone(self.model)
        with self.host.under_way("perturbed"):
            self.buffers.rewind()  # before they are looked for
            with torch.enable_grad(), together:
                with by_group(self.model, groups), watching(self.who.trainable, self.model, handler):
                    value = self._losses()
                    first.check_inputs()
                    if len(value) != groups.whole:
                        raise NotCovered("the closure doesn't return the losses of the same batch each time")
                    value = value[groups.chosen]
                    amp.scaled(self.scaler, value.sum() / groups.whole).backward()
        return value

    def _means(self, groups: Groups, found: dict[Tensor, Perturbation]) -> list[Tensor]:
        """The mean of the groups' weights, by their shares of the batch."""
        params = self.who.trainable
        shares = (groups.sizes / groups.whole).to(params[0].device)
        total = shares.sum()
        return [found[p].mean(p, shares, groups) if p in found else p.detach() * total.to(p.dtype) for p in params]

    @torch.no_grad()
    def _penalize(self, of_parts: list[list[Tensor]]) -> None:
        """Add λ(w + mean of the groups' e), the gradient of ½λ‖w + e‖²; ``of_parts`` are the terms of that mean."""
        params = self.who.trainable
        means = [torch.stack(those).sum(0) for those in zip(*of_parts, strict=True)]
        average = parallel.averaging(self.model)
        if average is not None:
            means = average(means)
        scale = amp.loss_scale(self.scaler, params[0])
        for p, moved in zip(params, means, strict=True):
            moved = moved.mul_(self.settings.l2).mul_(scale)
            p.grad = moved if p.grad is None else p.grad.add_(moved)

    def _move_buffers(self, size: int) -> None:
        """By an evaluation of the whole batch: each part had only its own examples."""
        self.buffers.restart()
        with torch.enable_grad(), alone(self.model), by_group(self.model, Groups(size, self.settings.m)):
            self._losses()
        self.buffers.settle()
