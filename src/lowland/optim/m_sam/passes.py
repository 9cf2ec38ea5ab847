"""What the two passes do with a function of parameters."""

from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules._functions import BackwardHookFunction
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction

from lowland.optim.m_sam import direct
from lowland.optim.m_sam.dependence import Dependence, line
from lowland.optim.m_sam.gradients import Built, Factors, Piece, add
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.places import Along, Mixed
from lowland.optim.m_sam.registry import COMPOSED, ROW_WISE, RULES, Rule, Use, laid_out, rows_of
from lowland.optim.m_sam.watch import (
    Derived,
    NoGradient,
    NotCovered,
    Refused,
    Unordered,
    Watched,
    recomputed,
)


def _own_functions(node: Any) -> set[Any]:
    """Functions with a backward of their own on the way back from ``node``; torch's and those of rules left out."""
    found, seen, left = set(), {node}, [node]
    while left:
        node = left.pop()
        function = getattr(node, "_forward_cls", None)
        if function is direct.ByGroup:
            continue
        if function is not None and _is_own(function):
            found.add(function)
        for after, _ in getattr(node, "next_functions", ()):
            if after is not None and after not in seen:
                seen.add(after)
                left.append(after)
    return found


def _is_own(function: Any) -> bool:
    """Whether torch didn't write it, or only around what others wrote."""
    if function is BackwardHookFunction or function.__module__.startswith(("torch._functorch.", "torch._library.")):
        return True
    return not function.__module__.startswith(("torch.", "lowland.optim.m_sam."))


def _check_functions(value: Tensor) -> None:
    """Raise NotCovered for functions of autograd's own on the way back from ``value``, unless vouched for."""
    for function in _own_functions(value.grad_fn):
        if function not in ROW_WISE:
            raise NotCovered(
                f"the gradients of {function.__name__}, a function of autograd's own, may mix the examples (if they "
                "don't, say so by lowland.optim.m_sam.row_wise)"
            )


def _of_parameters(values: Any) -> bool:
    """Whether there are parameters, or what they alone give, among ``values``."""
    return any(isinstance(t, Watched | Derived) for t in pytree.tree_leaves(values))


def raising(error: Exception, at: str, used: str) -> str:
    """In words, that the passes raise ``error`` at a line, after a use of a parameter."""
    words = next(iter(str(error).splitlines()), "")
    return f"its passes raise {type(error).__name__} at {at} after a use of {used or 'no parameter'} ({words})"


def _forms(values: list[Any]) -> tuple[Any, ...]:
    return tuple((t.shape, t.dtype) if isinstance(t, Tensor) else None for t in values)


_OTHERWISE = "a reentrant checkpoint does something else in backward than in forward"
_CHANGED = "the closure does something else in the second pass than in the first"


class _Checkpointed:
    """What a reentrant checkpoint runs: once in forward, without gradients, and once in backward."""

    def __init__(self, watch: "Pass", run: Callable[..., Any]):
        self._watch, self._run = watch, run
        self._places: list[Any] | None = None

    def __call__(self, *args: Any) -> Any:
        watch = self._watch
        if self._places is None:
            out = self._run(*args)
            self._places = watch.places(out)
            return out
        with watch.again():
            out = self._run(*args)
            places = watch.places(out)
        if watch.parted:
            for t in pytree.tree_leaves(out):
                if isinstance(t, Tensor):
                    _check_functions(t)
            if _without_reasons(places) != _without_reasons(self._places):
                raise NotCovered(_OTHERWISE)
        return out


def _without_reasons(places: list[Any]) -> list[Any]:
    return [Mixed if isinstance(place, Mixed) else place for place in places]


class TooLarge(Exception):
    """The groups' gradients take more memory than they may."""


class Pass:
    """Either pass: functions that have a rule go by it, others by `direct.apply`."""

    def __init__(self, groups: Groups, names: dict[Tensor, str], warn: Callable[[str], None]):
        self._groups, self.names, self.warn = groups, names, warn
        #: Whether autocast was on in the closure.
        self.autocast = False
        #: Where the examples are in what depends on parameters.
        self.dependence = Dependence(groups.whole)
        #: Whether it matters: one group alone may have its rows anywhere.
        self.parted = groups.m < groups.whole
        #: Whether the batch is known to have so many examples.
        self.sure = True
        #: What parameters were used in: (function, names).
        self.uses: set[tuple[str, str]] = set()
        #: Whether the closure is running, and why it can't be covered, if so.
        self.in_closure = False
        self.stopped: NotCovered | None = None
        #: Batch norms that took the statistics of groups, one for each use.
        self.normalized: list[str] = []
        #: The parameters that were used last, in words.
        self.where = ""
        #: Of functions without a rule, how many rows an example has in their results; see `direct`.
        self.inner: dict[Any, tuple[int, list[tuple[int, ...]]]] = {}
        #: What was decided of inputs, in order.
        self.decided: list[tuple[Any, Any]] = []
        self._decisions: dict[Any, Any] = {}
        #: Whether autograd is calling a part of the closure again.
        self._again = False

    @property
    def groups(self) -> Groups:
        """Until the losses are there, a guess, which is then checked."""
        return self._groups

    @property
    def divided_by(self) -> int:
        """Of what the sum over a group's losses is the numerator, in backward."""
        return self.groups.m

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `watch.Handler`."""
        return self._or_plain(partial(self._call, func, args, kwargs), partial(func, *args, **kwargs))

    def cannot(self, why: str) -> None:
        """See `unseen.Listener`."""
        stop = NotCovered(why.format(line()))
        if not self.in_closure:
            raise stop
        self.stopped = self.stopped or self.dependence.stopped or stop

    def imported(self, value: Any) -> None:
        """See `unseen.Listener`."""
        self.dependence.look_for_aliases(value)

    def leaves(self, value: Any, why: str) -> None:
        """See `unseen.Listener`."""
        self.dependence.refuse(value, why)

    def function(self, cls: Any, args: tuple[Any, ...], apply: Callable[..., Any]) -> Any:
        """See `unseen.Listener`."""
        if self.stopped is not None or not (self.in_closure or self._again):
            return apply(*args)
        if cls is CheckpointFunction:
            return self._checkpointed(args, apply)
        if _of_parameters(args):
            return self._or_plain(partial(direct.function, self, cls, args, apply), partial(apply, *args))
        out = apply(*args)
        if _of_parameters(out):
            self.cannot(f"{cls.__name__}, a function of autograd's own, gives what parameters alone give ({{}})")
        return out

    def _checkpointed(self, args: tuple[Any, ...], apply: Callable[..., Any]) -> Any:
        """A reentrant checkpoint, which autograd calls again in backward, with what was saved of its arguments."""
        run, preserve, *given = args
        tensors = [t for t in pytree.tree_leaves(given) if isinstance(t, Tensor)]
        # Whether the plain closure's have gradients isn't known where none has: not all layers are tapped.
        cut_off = torch.is_grad_enabled() and self.dependence.active and not any(t.requires_grad for t in tensors)
        if _of_parameters(tensors):
            self.cannot("a reentrant checkpoint takes what parameters alone give ({}): use_reentrant=False does better")
        elif cut_off and any(self.dependence.at(t) is not None for t in tensors):
            self.cannot("a reentrant checkpoint takes what has no gradient ({}): use_reentrant=False does better")
        out = apply(_Checkpointed(self, run), preserve, *given)
        if _of_parameters(out):
            self.cannot("a reentrant checkpoint gives what parameters alone give ({}): use_reentrant=False does better")
        return out

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside, autograd calls a part of the closure again; raises NotCovered if it can't be followed."""
        before, self._again = self._again, True
        try:
            with recomputed(), self._followed_again():
                yield
        finally:
            self._again = before

    def _followed_again(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dependence.active else self.dependence.resumed()

    def places(self, values: Any) -> list[Any]:
        """Where the examples are in tensors among ``values``."""
        return [self.dependence.at(t) for t in pytree.tree_leaves(values) if isinstance(t, Tensor)]

    def _or_plain(self, watched: Callable[[], Any], plain: Callable[[], Any]) -> Any:
        """``watched()``; once that can't be done, ``plain()`` to the end of the closure, which is refused then.

        What the closure changes for a while, ``model.eval()`` say, it must be able to change back.
        """
        if self.stopped is not None:
            return plain()
        if not self.in_closure:
            return watched()
        try:
            return watched()
        except (Refused, NoGradient):
            raise
        except NotCovered as stop:
            self.stopped = self.dependence.stopped or stop
            return plain()
        except Exception as error:
            out = plain()  # which raises it, if it is the closure's own
            self.stopped = NotCovered(raising(error, line(), self.where))
            return out

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise NotCovered("the closure uses torch.func")
        self.autocast |= torch.is_autocast_enabled(next(iter(self.names)).device.type)
        if func in COMPOSED:
            return COMPOSED[func](self, func, args, kwargs)
        rule = RULES.get(func)
        use = None if rule is None else rule.bind(func, args, kwargs)
        if use is not None and self._goes_by_rule(use):
            return self._covered(use)
        return direct.apply(self, func, args, kwargs)

    def _goes_by_rule(self, use: Use) -> bool:
        """Whether the input has rows, and nothing else depends on examples."""
        x = use.arguments[use.inputs[0]]
        if not x.numel():
            return True
        known = {*use.owners, *use.inputs, *use.rule.unread(use)}
        others = [t for n, t in use.arguments.items() if n not in known]

        def decide() -> bool:
            return all(self.dependence.at(t) is None for t in others)

        what = self.names[next(iter(use.owners.values()))] if use.owners else type(use.rule).__name__
        return self.has_rows(x, what) and self._remembered(("alone", what, _forms(others)), decide)

    def has_rows(self, x: Tensor, what: str) -> bool:
        """Whether ``x`` has rows of the examples: else each group sees it as it is.

        What doesn't depend on parameters is taken to have them where their number fits. If that is wrong the losses
        come out `Mixed`.

        Raises:
            NotCovered: if its examples aren't along the first dimension, in order.
        """

        def decide() -> bool:
            place, whole = self.dependence.at(x), self._groups.whole
            if place is not None and type(x) is not Tensor:
                raise NotCovered(f"{what} sees a tensor of the class {type(x).__name__} that depends on parameters")
            if x.ndim == 0 or type(x) is not Tensor:
                if place is not None and self.parted:
                    raise Unordered(f"{what} sees one number for all examples")
                return False
            if place is None:
                if self.dependence.is_constant(x):
                    return False
                if not self.sure:
                    rows_of(x, whole, what)
                return len(x) % whole == 0
            if not self.parted:
                rows_of(x, whole, what)
            elif isinstance(place, Mixed):
                raise Unordered(f"{what} sees what depends on {place.why}")
            elif place.dim or place.inner * whole != len(x):
                raise Unordered(
                    f"{what} sees a tensor of shape {tuple(x.shape)} whose examples aren't along the first dimension"
                )
            return True

        return self._remembered(("rows", what, _forms([x])), decide)

    def _remembered(self, key: Any, decide: Callable[[], Any]) -> Any:
        """A decision; where activation checkpointing calls a layer again, nothing is followed, the one before."""
        if self.dependence.active:
            decision = decide()
            if self._again:
                if self._decisions.get(key) != decision:
                    raise NotCovered(_OTHERWISE)
                return decision
            self.decided.append((key, decision))
            self._decisions[key] = decision if self._decisions.get(key, decision) == decision else None
            return decision
        if (before := self._decisions.get(key)) is None:
            raise NotCovered(
                f"{key[1]} is used in backward by a way nobody watches (a function of autograd's own, say)"
            )
        return before

    @contextmanager
    def following(self, constants: list[Tensor]) -> Iterator[None]:
        """See `watch.Handler`."""
        with self.dependence:
            self.dependence.set_constant(constants)
            self.dependence.hide(p for p in self.names if type(p) is Watched)
            with self._inside():
                yield

    @contextmanager
    def _inside(self) -> Iterator[None]:
        self.in_closure, self.stopped = True, None
        try:
            yield
        finally:
            self.in_closure = False
        stopped, self.stopped = self.stopped or self.dependence.stopped, None
        if stopped is not None:
            raise stopped

    def by_rows(self, x: Tensor, what: str, call: Callable[[], Tensor]) -> Tensor:
        """See `watch.Handler`."""
        if not self.dependence.active or (place := self.dependence.at(x)) is None:
            return call()
        with self.dependence.paused():
            y = call()
        if place == Along(0, len(x) // self._groups.whole):
            return self.dependence.own(y, len(y) // self._groups.whole)
        self.dependence.set_mixed(y, what)
        return y

    def check_losses(self, losses: Any) -> None:
        """See `watch.Handler`."""
        if not self.parted or type(losses) is Derived or losses.shape != (self._groups.whole,):
            return
        _check_functions(losses)
        place = self.dependence.at(losses)
        if isinstance(place, Mixed):
            raise Unordered(f"the losses depend on {place.why}")
        if place not in (None, Along(0, 1)):
            raise Unordered("the losses aren't those of the examples in order")

    def has_rule(self, module: nn.Module) -> bool:
        """See `watch.Handler`."""
        return type(module) in RULES

    def layer(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """See `watch.Handler`."""
        return self._or_plain(partial(self._layer, module, args), partial(type(module).forward, module, *args))

    def _layer(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            use = RULES[type(module)].bind_layer(module, args)
            if use.owners:
                for name in use.inputs:
                    if isinstance(use.arguments[name], Tensor):
                        self.has_rows(use.arguments[name], f"{type(module).__name__}")
            return self._covered(use)

    def _covered(self, use: Use) -> Any:
        if not use.owners:
            return use.run()
        groups = self._groups
        first, *others = use.inputs
        if not use.arguments[first].numel():
            with self.dependence.paused():
                return self.without_rows(use)
        self.where = self.names[next(iter(use.owners.values()))]
        self.uses |= {(type(use.rule).__name__, self.names[p]) for p in use.owners.values()}
        rows_of(use.arguments[first], groups.whole, self.where)
        with self.dependence.paused():
            if groups.size == groups.whole:
                out = self.covered(use)
            else:
                rows = [n for n in others if self.has_rows(use.arguments[n], self.where)]
                use.arguments |= {name: groups.own(use.arguments[name]) for name in (first, *rows)}
                out = self.covered(use)
                out = laid_out(groups.among(out), out)
        return self.own(out)

    def own(self, out: Tensor) -> Tensor:
        """``out``, whose rows are those of the examples."""
        return self.dependence.own(out, len(out) // self._groups.whole) if self.dependence.active else out

    def without_rows(self, use: Use) -> Any:
        """A call on no rows, which has zero gradients."""
        return use.run()

    def covered(self, use: Use) -> Any:
        """What becomes of a call that has a rule."""
        raise NotImplementedError

    def stack(self, param: Tensor) -> Tensor:
        """``(groups, *shape)``: a parameter once for each group."""
        raise NotImplementedError


class FirstPass(Pass):
    """At w: takes up the gradients at outputs of layers; weights get none.

    Args:
        groups: of the batch, for all that is known.
        names: of all parameters that are watched.
        members: those whose gradients count.
        factors: whether products may stay unbuilt.
        warn: of what is slow.
        limit: bytes that pieces may take.

    Raises:
        TooLarge: from backward, if they take more and there are several groups.
    """

    def __init__(
        self,
        groups: Groups,
        names: dict[Tensor, str],
        members: set[Tensor],
        factors: bool,
        warn: Callable[[str], None],
        limit: float | None = None,
    ):
        super().__init__(groups, names, warn)
        self.members, self.factors, self.limit = members, factors, limit
        self.pieces: dict[Tensor, Piece] = {}
        self.inputs: list[tuple[Tensor, int, str]] = []
        #: Whether the losses are there, and their gradients are taken.
        self.recording = False
        self._anchor = torch.zeros((), requires_grad=True)

    def covered(self, use: Use) -> Any:
        """The function of detached parameters, tapped."""
        return use.rule.first(use, self)

    def without_rows(self, use: Use) -> Any:
        """Untapped: there is nothing to take up."""
        return use.run(**use.at_w())

    def counts(self, use: Use) -> bool:
        """Whether any gradient of this use is asked for."""
        return torch.is_grad_enabled() and any(p in self.members for p in use.owners.values())

    def tap(self, use: Use, output: Tensor, a: Tensor) -> Tensor:
        """``output``, whose gradient goes to the rule's `Rule.pieces` together with ``a``."""
        if not self.counts(use):
            return output
        # Without the input, which autograd keeps, or activation checkpointing makes again.
        members = {name: p for name, p in use.owners.items() if p in self.members}
        kept = Use(use.rule, use.func, use.arguments | {use.rule.arguments[0]: None}, members, use.leading)

        return _Tap.apply(self._anchor, output, a, self, partial(self.record, kept))

    def record(self, use: Use, a: Tensor, d: Tensor) -> None:
        """Take up the gradient ``d`` at the output of a use whose input was ``a``."""
        where = self.names[next(iter(use.owners.values()))]
        rows_of(a, self._groups.size, where)
        rows_of(d, self._groups.size, where)
        for name, piece in use.rule.pieces(use, a, d, self._groups).items():
            if name in use.owners:  # others are frozen, or don't climb
                self._add(use.owners[name], piece)
        if any(isinstance(self.pieces.get(p), Factors) for p in use.owners.values()):
            self.inputs.append((a, a._version, where))

    def rows(self, param: Tensor, rows: int) -> Tensor:
        """``param`` once for each row, ``(rows, *shape)``; the gradient there is taken up."""
        if param not in self.members or not torch.is_grad_enabled():
            return param.detach().expand(rows, *param.shape)

        def record(d: Tensor) -> None:
            rows_of(d, self._groups.size, self.names[param])
            self._add(param, Built(self._groups.sums(d)))

        return _Copies.apply(self._anchor, param.detach(), rows, self, record)

    def stack(self, param: Tensor) -> Tensor:
        """``param`` once for each group."""
        count = self.groups.count
        if param not in self.members or not torch.is_grad_enabled():
            return param.detach().expand(count, *param.shape)
        return _Copies.apply(self._anchor, param.detach(), count, self, lambda d: self._add(param, Built(d)))

    def _add(self, param: Tensor, piece: Piece) -> None:
        if param in self.members:
            if not self.factors and isinstance(piece, Factors):
                piece = piece.build(self._groups, param.shape)
            if isinstance(piece, Built) and piece.owned and param not in self.pieces and param.numel() >= 10_000:
                piece.squares(self._groups)  # while it is in the cache
            self.pieces[param] = add(self.pieces.get(param), piece, self._groups, param.shape)
            if self.limit is not None:
                self._keep_to(self.limit)

    def _keep_to(self, limit: float) -> None:
        held = sum(piece.held for piece in self.pieces.values())
        if held <= limit:
            return
        if self._groups.count > 1:
            raise TooLarge
        self.warn(f"m-SAM: one group takes {held / 1e6:.1f} MB, above memory_limit: it can't be split any further")

    def expect(self) -> None:
        """Raise NotCovered for gradients that the closure takes for itself."""
        if not self.recording:
            raise NotCovered("the closure takes gradients of its own (to penalize them, say)")

    def check_inputs(self) -> None:
        """Raise NotCovered if what was kept for the second pass was written to."""
        for a, version, where in self.inputs:
            if a._version != version:
                raise NotCovered(f"the input of {where} was changed in place after the first pass")


class _Tap(torch.autograd.Function):
    """Hands (input, gradient at the output) over; else the identity."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, output: Tensor, a: Tensor, watch: FirstPass, record: Any) -> Tensor:
        ctx.save_for_backward(a)
        ctx.watch, ctx.record = watch, record
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:  # type: ignore[override]
        (a,) = ctx.saved_tensors
        ctx.watch.expect()
        ctx.record(a.detach(), d.detach())
        return None, d, None, None, None


class _Copies(torch.autograd.Function):
    """Copies of a parameter, whose gradients are handed over."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, param: Tensor, count: int, watch: FirstPass, record: Any) -> Tensor:
        ctx.watch, ctx.record = watch, record
        return param.expand(count, *param.shape)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:  # type: ignore[override]
        ctx.watch.expect()
        ctx.record(d.detach())
        return None, None, None, None, None


@dataclass
class Perturbation:
    """w_j = ``keeps_j`` · w + Σ c_i d_i a_iᵀ over the group's examples, or written out.

    Attributes:
        factors: of the sum; None where it is written out.
        c: ``(groups,)``.
        keeps: 1 + ρ s_j λ, ``(groups,)``; None for 1.
        stack: the w_j, ``(groups, *shape)``.
        raw: gradients ``(groups, *shape)``, from which ``stack`` is made when it is asked for.
        owned: whether it may be written where they are.
        terms: of ``raw``, see `Built`.
    """

    factors: Factors | None = None
    c: Tensor | None = None
    keeps: Tensor | None = None
    stack: Tensor | None = None
    raw: Tensor | None = None
    owned: bool = False
    terms: Tensor | None = None


class SecondPass(Pass):
    """At each group's own w + e.

    Args:
        groups: of the batch.
        names: of all parameters that are watched.
        perturbations: of those that are perturbed.
        warn: of what is slow.
        first: the pass before. What it found of the closure's tensors holds here, as the closure does the same.
    """

    def __init__(
        self,
        groups: Groups,
        names: dict[Tensor, str],
        perturbations: dict[Tensor, Perturbation],
        warn: Callable[[str], None],
        first: FirstPass,
    ):
        super().__init__(groups, names, warn)
        self.decided, self._decisions, self.inner = first.decided, first._decisions, first.inner
        self._replayed: Iterator[tuple[Any, Any]] | None = None
        self.perturbations = perturbations
        #: Parameters whose gradients are recorded in `pieces`.
        self.members: Set[Tensor] = frozenset()
        #: Of the groups' summed losses at their own w + e.
        self.pieces: dict[Tensor, Piece] = {}
        self._tapped = False

    @property
    def divided_by(self) -> int:
        """See `Pass`."""
        return self.groups.whole

    @contextmanager
    def following(self, constants: list[Tensor]) -> Iterator[None]:
        """Nothing is followed twice; raises NotCovered if the closure does something else."""
        self._replayed = iter(self.decided)
        try:
            with self._inside():
                yield
            if next(self._replayed, None) is not None:
                raise NotCovered(_CHANGED)
        finally:
            self._replayed = None

    def _remembered(self, key: Any, decide: Callable[[], Any]) -> Any:
        if self._replayed is None:
            return super()._remembered(key, decide)
        before, decision = next(self._replayed, (None, False))
        if before != key:
            raise NotCovered(_CHANGED)
        return decision

    def _followed_again(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def places(self, values: Any) -> list[Any]:
        """The first pass looked."""
        return []

    def check_losses(self, losses: Any) -> None:
        """The first pass did."""

    def covered(self, use: Use) -> Any:
        """With what was added to the weights."""
        if not torch.is_grad_enabled() or self.members.isdisjoint(use.owners.values()):
            return self._perturbed(use)
        self._tapped = type(use.rule).pieces is not Rule.pieces
        try:
            out = self._perturbed(use)
            if self._tapped and out.requires_grad:
                out.register_hook(partial(self._record, use, use.rule.prepared(use).detach()))
        finally:
            self._tapped = False
        return out

    def _perturbed(self, use: Use) -> Any:
        if not any(p in self.perturbations for p in use.owners.values()):
            return use.rule.unmoved(use, self)
        return use.rule.perturbed(use, self)

    def _record(self, use: Use, a: Tensor, d: Tensor) -> None:
        for name, piece in use.rule.pieces(use, a, d, self._groups).items():
            if name in use.owners:
                self._add(use.owners[name], piece)

    def _add(self, param: Tensor, piece: Piece) -> None:
        if param in self.members:
            self.pieces[param] = add(self.pieces.get(param), piece, self._groups, param.shape)

    def factors(self, param: Tensor) -> Perturbation | None:
        """What is added to ``param``, if it is unbuilt."""
        found = self.perturbations.get(param)
        return found if found is not None and found.factors is not None and found.stack is None else None

    def constant(self, param: Tensor) -> Tensor:
        """``(groups, *shape)``: the weights of each group, through which no gradient goes."""
        found = self.perturbations.get(param)
        if found is None:
            return param.detach().expand(self.groups.count, *param.shape)
        return written_out(param, found, self.groups)

    def moved(self, param: Tensor, dtype: torch.dtype) -> Tensor:
        """``(groups, *shape)``: what is added to the weights, for types in which w + e would be w again."""
        return (self.constant(param) - param.detach()).to(dtype)

    def stack(self, param: Tensor) -> Tensor:
        """The same, differentiable."""
        record = None if self._tapped or param not in self.members else lambda d: self._add(param, Built(d))
        if param not in self.perturbations and record is None:
            return param.expand(self.groups.count, *param.shape)
        return _Moved.apply(param, self.constant(param), record)

    def rows(self, param: Tensor, rows: int) -> Tensor:
        """``(rows, *shape)``: for each row the weights of its group, differentiable."""
        return self.groups.spread(self.stack(param), rows)


class _Moved(torch.autograd.Function):
    """A parameter, moved to where each group has it."""

    @staticmethod
    def forward(ctx: Any, param: Tensor, stack: Tensor, record: Callable[[Tensor], None] | None) -> Tensor:
        ctx.record = record
        return stack.view_as(stack)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:  # type: ignore[override]
        if ctx.record is not None:
            ctx.record(d.detach())
        return d.sum(0), None, None


def written_out(param: Tensor, found: Perturbation, groups: Groups) -> Tensor:
    """The weights of each group, as late as that: then they are in the cache when they are used."""
    if found.stack is not None:
        return found.stack
    assert found.c is not None
    at_w = param.detach()
    if found.keeps is not None:
        at_w = at_w * found.keeps.to(param.dtype).view(-1, *[1] * param.ndim)
    if found.raw is not None:
        c = found.c.to(param.dtype).view(-1, *[1] * param.ndim)
        into = found.raw if found.owned and found.raw.dtype == param.dtype else None  # in bfloat16 w + e is w
        found.stack = torch.addcmul(at_w, found.raw, c, out=into)
        if found.owned:
            found.raw = None
    else:
        assert found.factors is not None
        built = found.factors.build(groups, param.shape).stack.to(param.dtype)
        c = found.c.to(built.dtype).view(-1, *[1] * param.ndim)
        found.stack = torch.addcmul(at_w, built, c, out=built)
    return found.stack
