"""The evaluations of a step: where the weights are in each, and what becomes of its gradient."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowland.optim import amp, assigned, foreign, parallel, penalty, rules
from lowland.optim.ascent import Ascent, Climb, Slope, l2
from lowland.optim.beside import Beside
from lowland.optim.buffers import Buffers, modules
from lowland.optim.constants import Constants
from lowland.optim.descent import Descent, Pair
from lowland.optim.displacement import Displacement
from lowland.optim.grad_mode import recording, unrecorded
from lowland.optim.m_sam.host import Parameters, Settings
from lowland.optim.memory import Memory
from lowland.optim.scope import Scope, describe
from lowland.optim.sharding import global_dot, global_norm, local, local_pair, settled
from lowland.optim.wrapper import Wrapper, shared
from lowland.torch_tools import random_states, replay


@dataclass(slots=True)
class _Plan:
    """What to move, along what, by how much.

    And whether from an evaluation at w, the scaler of the loss, and whether each process climbs along its own gradient.
    """

    owners: list[Tensor]
    weights: list[Tensor]
    directions: list[Tensor]
    rhos: list[float]
    climb: Climb
    scale: float | Tensor
    evaluated: bool
    scaler: Any
    unsynchronized: bool


_NOTHING: AbstractContextManager[None] = nullcontext()
_NOT_ENTERED = (
    "passes() went on, but its last evaluation was not run: `for evaluation in optimizer.passes():`, and in it "
    "`with evaluation:` around forward and backward"
)
_FSDP2 = (
    " (With FSDP2, set_requires_gradient_sync(False) and set_requires_all_reduce(False) keep gradients from the "
    "optimizer: leave them on for the ascent, and for every pass where a rule takes both gradients.)"
)


class Passes(Wrapper):
    """What `SAM` does between two steps; `passes` says which evaluations the rules need, in order."""

    model: nn.Module | None = shared(assigned.model)
    m: int | None = shared(assigned.m)
    eps: float = shared(assigned.eps)
    l2: float = shared(assigned.l2)
    same_masks: bool = shared()
    freeze: bool = shared()
    audit: bool = shared()
    memory_limit: float | None = shared(assigned.memory_limit)
    perturbed_norms: bool = shared()
    ascent_rule: Ascent = shared(assigned.ascent_rule)
    descent_rule: Descent | None = shared(assigned.descent_rule)
    scope: Scope = shared(assigned.chosen)
    _scope: set[Tensor] | None = shared()
    _memory: Memory = shared()
    _displacement: Displacement = shared()
    #: Whether the descent rule makes the step's gradient of that at w, too.
    _combines: bool = shared()
    #: How many evaluations come before that at w + ε.
    _evaluations: int = shared()
    _needs_scale: bool = shared()
    _learns: bool = shared()
    _pass: str | None = shared()
    _climb: _Plan | None = shared()
    _states: list[Any] | None = shared()
    _buffers: Buffers | None = shared()
    _constants: Constants = shared()
    _fsdp: parallel.Fsdp = shared()
    _names: dict[Tensor, str] = shared()
    _beside: Beside = shared()
    _at_w: list[Tensor | None] = shared()
    _frozen: list[Tensor] = shared()
    _engine: Any = shared()
    #: Last passes since the last step.
    _evaluated: int = shared()
    _warned: bool = shared()
    _told: bool = shared()
    _scaling: amp.Scaling = shared()
    #: Whether the gradients of the passes were cleared since.
    _cleared: bool = shared()
    #: The `passes` on their way through a batch, if any.
    _run: object = shared()
    #: Whether the last ones were left between two.
    _left: bool = shared()
    #: The pass under way, if any: what it began is undone once, by whoever comes to it first.
    _owner: object = shared()
    #: Parameters whose gradients are set aside, and these.
    _held: tuple[list[Tensor], list[Tensor | None]] | None = shared()
    #: Whether the weights are elsewhere, or copies of them were made there.
    _moved: bool = shared()
    #: Whether the last batch that was begun is left out.
    _skipped: bool = shared()
    #: Versions of the gradients that were there before a pass that adds to them; None if none were.
    _versions: list[int] | None = shared()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's.

        Raises:
            RuntimeError: to a GradScaler that unscales before the passes are over.
        """
        if self._pass is not None or self._climb is not None:
            amp.refuse_unscaling()
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        self.base.param_groups = value

    @property
    def steps(self) -> int:
        """Steps made so far."""
        raise NotImplementedError

    def _complete_groups(self) -> None:
        raise NotImplementedError

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        """Before Python looks at the arguments: those of other libraries are worth a better error."""
        foreign.check(cls, arguments, named)
        return super().__new__(cls)

    def _take_up_rules(self) -> None:
        """What follows from them, once."""
        descent = self.descent_rule
        self._combines = descent is not None and not descent.per_example
        self._evaluations = max(self.ascent_rule.evaluations, self._combines)
        self._needs_scale = self.ascent_rule.needs_scale or (descent is not None and descent.needs_scale)
        self._learns = type(self.ascent_rule).learn is not Ascent.learn

    def _forget(self) -> None:
        """No pass is under way, and none was."""
        self._take_up_rules()
        self._pass = self._climb = self._states = self._buffers = self._engine = None
        self._fsdp, self._beside, self._scaling = parallel.Fsdp(None, ()), Beside(), amp.Scaling()
        self._constants = Constants()
        self._names, self._at_w, self._frozen = {}, [], []
        self._evaluated = 0
        self._warned, self._told = False, True
        self._cleared = self._left = self._skipped = self._moved = False
        self._versions = self._run = self._owner = self._held = None

    def passes(self, scaler: Any = None, sync: bool = True) -> Iterator[AbstractContextManager[None]]:
        """The evaluations that one step takes, in order; run forward and backward inside each.

        As many as the rules need: two for SAM; one where every group has rho 0. Parameters that another optimizer
        updates get the gradients of all passes added, so clear theirs between. Gradients accumulated so far are kept,
        and the last pass adds to them.

        Args:
            scaler: as in `ascent`.
            sync: as in `ascent`.
        """
        self._refuse_per_example("passes()")
        self._complete_groups()
        self._tell(scaler)
        before = self._evaluated
        self._skipped, self._run = False, (run := object())
        try:
            try:
                if self._stays:
                    yield self._plain(scaler)
                elif not self._climbs:
                    yield self._alone(scaler)
                else:
                    for index in range(self._evaluations):
                        yield self._ascent(scaler, sync, onward=index > 0)
                        if self._skipped:
                            return
                        if self._climb is None:
                            raise RuntimeError(_NOT_ENTERED)
                    yield self._perturbed(scaler)
                if self._evaluated == before and not self._skipped:
                    raise RuntimeError(_NOT_ENTERED)
            finally:
                self._leave(run)
        finally:
            self._leave(run)  # an interrupt may fall before the first

    def _leave(self, run: object) -> None:
        """The passes of ``run`` are over, in whatever way; nothing if others are under way by now."""
        if self._run is run:
            if self._pass is not None:
                self._undo()
            self._left = self._left or self._climb is not None
            self._climb = self._run = None

    def skip(self) -> None:
        """Leave the batch whose passes are under way out of the step: for a guard against a loss that isn't finite.

        Call it inside a pass or between two, then leave by ``continue`` or ``break``. The weights are w again, bit for
        bit; gradients are those of before the batch, of micro-batches accumulated earlier, say. A `SAM.step` that has
        nothing else to go along then does nothing: weights, momenta and the count of steps stay. Batch-norm statistics
        count the batch, as in plain training, if its forward pass at w was run; so does what a rule learns at w. A
        ``GradScaler`` that the passes were told of takes the batch for one of zero gradients: ``scaler.step`` and
        ``scaler.update`` may follow.

        Under DDP and FSDP2 all processes must skip the same batches, and call this before ``backward``.

        Raises:
            RuntimeError: if no passes are under way; with ``m`` or ESAM, which run the passes themselves; after
                ``backward`` of a pass that adds to gradients accumulated before.
        """
        if self.per_example:
            raise RuntimeError(
                "skip() is for passes(): m-SAM and ESAM run theirs by themselves. To leave a batch out, raise an "
                "exception in the closure and catch it around the call"
            )
        if self._pass is None and self._climb is None and self._run is None and not self._displacement.displaced:
            raise RuntimeError(
                "skip() leaves out the batch whose passes are under way, and none is: to drop one that is through, "
                "call optimizer.zero_grad() in place of step()"
            )
        if self._versions is not None and self._versions != _versions(self._params()):
            raise RuntimeError(
                "skip() comes too late: backward() of this pass has added to gradients that were accumulated before. "
                "Call it before backward(), or drop all of them: optimizer.zero_grad()"
            )
        self._skipped = True
        if self._pass is None:
            self._back_to_w()
            self._leave_out()

    def _leave_out(self, adds: bool = False) -> None:
        """The skipped batch is over; ``adds`` if its last pass added to the gradients."""
        self._climb, self._at_w = None, []
        params = list(self._params())
        if adds and self._versions is None:
            for param in params:
                param.grad = None
        self._versions = None
        if self._scaling.scaler is not None and all(param.grad is None for param in params):
            # The scaler refuses a step without any gradient.
            smallest = min((p for p in params if p.requires_grad and p.numel()), key=Tensor.numel)
            smallest.grad = torch.zeros_like(smallest)

    @property
    def _stays(self) -> bool:
        """Whether rho is 0 everywhere."""
        return all(group["rho"] == 0 for group in self.param_groups)

    @property
    def _climbs(self) -> bool:
        """Whether this step does."""
        return self.descent_rule is None or self.descent_rule.climbs(self.steps)

    def ascent(self, scaler: Any = None, sync: bool = True) -> AbstractContextManager[None]:
        """The pass at w: inside, ``backward`` fills the ascent gradient.

        Gradients accumulated so far are set aside and are back afterwards. After an exception inside, the
        optimizer is as it was before.

        Args:
            scaler: the ``GradScaler`` by which the loss is scaled in both passes. Then ``eps`` is meant for the
                gradient proper, and an overflow makes the scaler skip the step and back off. Without it, an
                ascent that overflows makes the step the base optimizer's own. Rules that need the gradient proper
                need it.
            sync: whether DDP averages the ascent gradient over its processes. If not, each climbs along its own:
                m-SAM, with m the batch of one process. False needs ``model``, the DDP wrapper.

        Raises:
            RuntimeError: inside another pass, if no parameter received a gradient, or if the rules need other passes
                than these two.
            ValueError: for ``sync=False`` without DDP, or with a descent rule that needs both gradients of a batch.
        """
        self._refuse_per_example("ascent()")
        if self._evaluations != 1 or not self._climbs:
            raise RuntimeError(f"{self._rules} takes other passes than ascent() and perturbed(): use passes()")
        self._complete_groups()
        self._tell(scaler)
        return self._ascent(scaler, sync)

    @contextmanager
    def _ascent(
        self, scaler: Any = None, sync: bool = True, onward: bool = False, buffers: bool = True
    ) -> Iterator[None]:
        """At w, or ``onward``: where the climb so far has led. ``buffers``: whether it sees to those of the model."""
        if onward and self._climb is None:
            raise RuntimeError("a pass was left out: run every evaluation of passes() in turn")
        self._ready_for("ascent pass")
        if not sync and self._combines:
            raise ValueError(f"{self._rules} takes both gradients of the same batch: sync=False can't be")
        before, self._climb = self._climb if onward else None, None
        params, rhos = self._trainable()
        if not onward:
            self._start()
            self._buffers = Buffers(self.model, self._constants) if buffers and self.model is not None else None
        everyone = params + self._outside()
        held = [parallel.set_aside(param.grad) for param in everyone]
        owner = object()
        try:
            try:  # as in `_apart`, without the price of one more context
                self._begin("ascent", everyone, held, owner)
                with parallel.ascending(self.model, self._fsdp, sync):
                    if before is None and self.same_masks:
                        self._states = random_states(params)
                    if before is None and not self.freeze:
                        yield
                        self._penalize(scaler)
                    else:
                        with self._without_the_rest(params), self._at(before):
                            yield
                            self._penalize(scaler)
                gradients = [param.grad for param in params]
                if self._buffers is not None and not onward:
                    self._buffers.settle()
            except RuntimeError as error:
                _explain(error, moved=before is not None)
                raise
            finally:
                self._close(owner)
        finally:
            self._close(owner)  # an interrupt may fall before the first
        if self._skipped:
            self._leave_out()
            return
        if self._combines and not onward:
            self._at_w = [parallel.set_aside(gradient) for gradient in gradients]
        try:
            self._climb = self._plan(params, gradients, rhos, scaler, sync, before)
            if self._scaling.scaler is not None:
                self._scaling.note()
        except BaseException:
            self._climb = None
            raise

    @contextmanager
    def _at(self, plan: _Plan | None) -> Iterator[None]:
        """Inside, the weights are where ``plan`` has led, which is needed once more; for None at w."""
        if plan is None:
            yield
            return
        directions = list(plan.directions)
        self._leave_w(plan)
        yield
        self._back_to_w()  # after an exception whoever closes the pass does it
        plan.directions = directions

    @contextmanager
    def _without_the_rest(self, params: list[Tensor]) -> Iterator[None]:
        """Inside, parameters out of scope require no gradient. DDP and sharded models count on everybody's."""
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        if alone and self.freeze and self._scope is not None and not self._combines:
            self._frozen = [param for param in params if param not in self._scope]
        try:
            for param in self._frozen:
                param.requires_grad_(False)
            yield
        except RuntimeError as error:
            if self._frozen and "does not require grad" in str(error):  # torch's, of a loss that is a constant
                raise RuntimeError(self._out_of_reach) from error
            raise
        self._thaw()  # after an exception whoever closes the pass does it

    def _nothing_in_reach(self) -> str | None:
        """What to say of losses that depend on no parameter that climbs, if there is a scope."""
        return None if self._scope is None else self._out_of_reach

    @property
    def _out_of_reach(self) -> str:
        chosen = describe(self.scope, self._scope or (), self.model)
        return (
            f"the loss of this pass depends on none of the parameters in scope: {chosen}. Hand scope= the layer that "
            "is meant, scope=model.classifier say."
        )

    def _thaw(self) -> None:
        for param in self._frozen:
            param.requires_grad_(True)
        self._frozen = []

    @contextmanager
    def _apart(self, name: str, params: list[Tensor], owner: object) -> Iterator[list[Tensor | None]]:
        """Inside, ``backward`` fills gradients of its own; afterwards they are in the list, and the others back.

        After an exception whoever closes the pass brings them back.
        """
        taken: list[Tensor | None] = []
        held = [parallel.set_aside(param.grad) for param in params]
        self._begin(name, params, held, owner)
        with parallel.ascending(self.model, self._fsdp, True):
            yield taken
        taken += [param.grad for param in params]
        self._end(params, held)

    def _begin(
        self, name: str, params: list[Tensor], held: list[Tensor | None] | None = None, owner: object = None
    ) -> None:
        """A pass, with gradients of its own: those that are there are ``held``."""
        self._owner, self._pass = owner, name
        if held is not None:
            self._held = params, held
        for param in params:
            param.grad = None

    def _end(self, params: list[Tensor], held: list[Tensor | None]) -> None:
        for param, gradient in zip(params, held, strict=True):
            param.grad = gradient
        self._held = self._pass = None

    def _close(self, owner: object) -> None:
        """The pass of ``owner`` is over, in whatever way, if it wasn't before."""
        if self._owner is owner:
            self._undo()

    def _abandon(self, grad: bool) -> None:
        """The batch whose passes an exception ended: as before it, with gradients recorded if ``grad`` says so."""
        try:
            self._undo()
        finally:
            self._climb = self._run = None
            recording(grad)  # an interrupt may keep torch's own contexts from doing it

    def _undo(self) -> None:
        """Whatever a pass has begun: the weights are w, nothing is set aside or frozen, and no pass is under way."""
        try:
            self._undo_once()
        except BaseException:  # an interrupt
            self._undo_once()
            raise

    def _undo_once(self) -> None:
        """May be called again after an exception at any point; what it leaves undone then, the next call does."""
        try:
            self._back_to_w()
        finally:
            self._thaw()
            if self._buffers is not None and not self._buffers.settled:  # an exception ended the first evaluation
                self._buffers.undo()
                self._buffers = None
            if self._held is not None:
                self._end(*self._held)
            self._pass = self._owner = None

    @unrecorded
    def _plan(
        self,
        params: list[Tensor],
        gradients: list[Tensor | None] | None,
        rhos: list[float],
        scaler: Any,
        sync: bool,
        before: _Plan | None = None,
    ) -> _Plan:
        """Where to climb from here: along ``gradients``, or None for rules that take none."""
        taken = repeat(None) if gradients is None else gradients
        members: Iterable[tuple[Tensor, Tensor | None, float]] = zip(params, taken, rhos)  # noqa: B905
        if self._scope is not None:
            members = [member for member in members if member[0] in self._scope]
            params = [member[0] for member in members]
        foret = type(self.ascent_rule) is Ascent
        climbing = set() if before is None else set(before.owners)
        owners, weights, pieces, radii = [], [], [], []
        for param, gradient, rho in members:
            if gradient is not None:
                if gradient.is_sparse and not foret:
                    gradient = gradient.to_dense()
                weight, piece = local_pair(param, gradient)
                pieces.append(piece)
            elif gradients is None:
                weight = local(param.detach())
            elif param in climbing:  # it goes on where an earlier evaluation has led it
                weight, piece = local_pair(param, torch.zeros_like(param))
                pieces.append(piece)
            else:
                continue
            owners.append(param)
            weights.append(weight)
            radii.append(rho)
        if not owners:
            raise RuntimeError(
                self._no_gradient if self._scope is None else f"{self._out_of_reach} {self._no_gradient}"
            )
        scale = amp.loss_scale(scaler, pieces[0]) if pieces else 1.0
        if foret:
            climb = l2(global_norm(params, owners, pieces), self.eps, scale)
            directions = pieces
        else:
            slope = self._slope(params, owners, weights, pieces, radii, scale, before)
            directions, climb = self.ascent_rule.climb(slope)
            if len(directions) != len(owners):
                raise ValueError(f"{self._rules} gave {len(directions)} directions for {len(owners)} parameters")
        if not sync and scaler is not None:
            climb = Climb(climb.factor, parallel.anywhere(climb.overflow, self.model))
        if before is not None:
            climb = Climb(climb.factor, climb.overflow | before.climb.overflow)
        return _Plan(owners, weights, directions, radii, climb, scale, self._evaluations > 0, scaler, not sync)

    def _slope(
        self,
        params: list[Tensor],
        owners: list[Tensor],
        weights: list[Tensor],
        pieces: list[Tensor],
        radii: list[float],
        scale: float | Tensor,
        before: _Plan | None,
    ) -> Slope:
        """What a rule other than Foret's may ask for."""
        climbed = None
        if before is not None:
            so_far = dict(zip(before.owners, before.directions, strict=True))
            climbed = [so_far[o] if o in so_far else torch.zeros_like(w) for o, w in zip(owners, weights, strict=True)]
        if self.ascent_rule.needs_scale and isinstance(scale, Tensor):
            pieces, scale = list(torch._foreach_div(pieces, scale)), 1.0
        return Slope(
            owners,
            weights,
            pieces,
            partial(global_norm, params, owners),
            self.eps,
            scale if self.ascent_rule.evaluations else 1.0,
            self.steps,
            climbed,
            max(radii),
            self._name,
            partial(self._memory.of, owners),
            self.base,
        )

    def perturbed(self) -> AbstractContextManager[None]:
        """The pass at w + ε: inside, the weights are w + ε, and ``backward`` adds to ``p.grad``.

        On the way out the weights are w again, bit for bit, exception or not, and the buffers of ``model`` are what
        the evaluation at w has made of them. Inside, they begin as they did there.

        Raises:
            RuntimeError: inside another pass, or without an `ascent` since the last time.
        """
        return self._perturbed()

    @contextmanager
    def _perturbed(self, scaler: Any = None, share: float = 1.0) -> Iterator[None]:
        """At w + ε; ``share`` is that of the pass in the step's loss."""
        if self._pass is None and self._climb is None and self._evaluations:
            raise RuntimeError("perturbed() needs an ascent() before it, to know where to climb")
        self._ready_for("perturbed pass")
        if not self._evaluations:
            self._start()
            params, rhos = self._trainable()
            self._climb = self._plan(params, None, rhos, scaler, True)
        owner = object()
        try:
            try:
                self._owner, self._pass = owner, "perturbed"
                plan, self._climb = self._climb, None
                assert plan is not None
                params = self._trainable()[0] if self._combines else []
                with self._apart("perturbed", params, owner) if self._combines else _NOTHING as gradients:
                    if not self._combines:
                        self._versions = _versions(self._params())
                    self._leave_w(plan)
                    yield
                    self._penalize(plan.scaler, share, plan.unsynchronized)
                    self._back_to_w()
            except RuntimeError as error:
                _explain(error)
                raise
            finally:
                self._close(owner)
        finally:
            self._close(owner)  # an interrupt may fall before the first
        if self._buffers is not None and not self._buffers.away:  # else an interrupt fell into putting them back
            self._buffers = None
        if self._skipped:
            self._leave_out(adds=not self._combines)
            return
        self._versions = None
        if gradients is not None:
            at_w, self._at_w = self._at_w, []
            self._add(params, at_w, gradients, plan.climb.factor, plan.scale)
        if plan.scaler is not None or self._beside:
            self._pass_on_overflow(plan, params)
        self._count_pass()

    def _pass_on_overflow(self, plan: _Plan, params: list[Tensor]) -> None:
        """To whoever looks at the gradients: of the ascent to a scaler, of what goes beside the step to all."""
        overflow = plan.climb.overflow if plan.scaler is not None else False
        if self._beside:
            overflow = overflow | self._beside.overflow(params)
        amp.pass_on_overflow(overflow, [p.grad for p in self._params() if p.grad is not None])
        self._beside.belong_to_gradients()

    @contextmanager
    def _alone(self, scaler: Any) -> Iterator[None]:
        """The only pass of a step that reuses what an earlier one learnt."""
        self._ready_for("plain pass")
        self._start()
        params, _ = self._trainable()
        owner = object()
        try:
            with self._apart("plain", params, owner) as gradients:
                yield
                self._penalize(scaler)
        finally:
            self._close(owner)
        if self._skipped:
            self._leave_out()
            return
        self._add(params, None, gradients, 1.0)
        self._count_pass()

    @unrecorded
    def _add(
        self,
        params: list[Tensor],
        at_w: list[Tensor | None] | None,
        gradients: list[Tensor | None],
        factor: float | Tensor,
        scale: float | Tensor = 1.0,
    ) -> None:
        """Add to ``p.grad`` what the descent rule makes of a pass's gradients."""
        rule = self.descent_rule
        assert rule is not None
        if all(gradient is None for gradient in gradients):
            raise RuntimeError(f"{self._rules}: {self._no_gradient}")
        owners, first, last = [], [], []
        for param, g, s in zip(params, at_w or gradients, gradients, strict=True):
            if g is None and s is None:
                continue
            owners.append(param)
            first.append(settled(param, g))
            last.append(settled(param, s))
        pieces = [local(s) for s in last]
        pair = Pair(
            [local(g) for g in first] if at_w is not None else pieces,
            pieces,
            partial(global_dot, params, owners),
            partial(self._memory.of, owners),
        )
        # Where nothing was climbed along, the gradient at w + ε is that at w.
        if at_w is None:
            combined = rule.alone(pair)
        else:
            combined = rule.combine(pair) if isinstance(factor, Tensor) or factor else pieces
        if not isinstance(combined, list) or len(combined) != len(pieces):
            raise ValueError(f"{self._rules} must give a list of {len(pieces)} tensors, one for each parameter")
        if isinstance(factor, Tensor):
            combined = [torch.where(factor != 0, c, s) for c, s in zip(combined, pieces, strict=True)]
        beside = rule.beside(pair) if at_w is not None else None
        if beside is not None:
            self._beside.add(owners, beside, scale)
        torch._foreach_copy_(pieces, combined)
        for param, gradient in zip(owners, last, strict=True):
            # Into the pass's own memory, where DDP expects it.
            param.grad = gradient if param.grad is None else gradient.add_(param.grad)

    def _penalize(self, scaler: Any, share: float = 1.0, unsynchronized: bool = False) -> None:
        """Add the gradient of ½λ‖w‖² to that of the pass under way, before the weights leave.

        Args:
            scaler: of the pass's loss, if any.
            share: of the pass in the step's loss.
            unsynchronized: whether the weights differ between DDP's processes.
        """
        if not self.l2 or self._skipped:
            return
        params = self._trainable()[0]
        later = self._pass == "perturbed" and self._fsdp.modules and not self._combines
        if not later and all(param.grad is None for param in params):
            return  # backward was forgotten, which others say
        mean = parallel.averaging(self.model) if unsynchronized else None
        penalty.add(params, share * self.l2, amp.loss_scale(scaler, params[0]), mean)

    def _leave_w(self, plan: "_Plan") -> None:
        self._moved = True  # before the first one moves
        self._displacement.move(plan.weights, plan.directions, plan.rhos, plan.climb)
        plan.directions.clear()  # while new gradients grow
        self._forget_copies_of_weights()
        if self._states is not None:
            replay(self._states)
        if plan.evaluated and self._buffers is not None:
            self._buffers.rewind()

    def _back_to_w(self) -> None:
        """From wherever the weights are. What an interrupt of this leaves undone, the next call does."""
        if self._moved:
            self._displacement.put_back()
            self._forget_copies_of_weights()
            self._moved = False
        if self._buffers is not None and self._buffers.away:
            self._buffers.finish()

    def _forget_copies_of_weights(self) -> None:
        """Made elsewhere, and not of the weights that are there now."""
        amp.clear_caches()
        self._fsdp.reshard()  # gathered

    @contextmanager
    def _plain(self, scaler: Any) -> Iterator[None]:
        self._ready_for("plain pass")
        self._start()
        owner = object()
        try:
            self._owner, self._pass = owner, "plain"
            self._versions = _versions(self._params())
            yield
            self._penalize(scaler)
        finally:
            self._close(owner)
        if self._skipped:
            self._leave_out(adds=True)
            return
        self._versions = None
        self._count_pass()

    def _start(self) -> None:
        """What holds for all passes over a batch, looked for anew; nothing is left of the batch before."""
        self._climb, self._skipped, self._left, self._versions = None, False, False, None
        self._beside.forget_if_gradients_went()
        self._fsdp = parallel.Fsdp(self.model, self._params())

    def _count_pass(self) -> None:
        """The last of a run of passes is done."""
        self._evaluated += 1
        self._cleared = False
        if self._scaling.scaler is not None:
            self._scaling.note()

    def _tell(self, scaler: Any) -> None:
        """The passes of the loss that ``scaler`` scales, if any, begin."""
        self._told = scaler is not None
        self._scaling.tell(scaler)

    def _ready_for(self, what: str) -> None:
        """For a pass, as `_ready`, and the gradients that are there are scaled as its own will be."""
        self._ready(what)
        if self._scaling.scaler is not None:
            known = {id(self), id(self.base), self._own.known_as}
            there = self._at_w if self._climb is not None and self._combines else [p.grad for p in self._params()]
            self._scaling.check_pass(known, there)

    def _not_inside(self, what: str) -> None:
        if self._pass is not None:
            raise RuntimeError(f"{what} inside the {self._pass} pass: leave its `with` block first")

    def _trainable(self) -> tuple[list[Tensor], list[float]]:
        """The parameters that may get a gradient, and the radius of each."""
        params, rhos = [], []
        for group in self.base.param_groups:
            rho = group["rho"]
            for param in group["params"]:
                if param.requires_grad:
                    params.append(param)
                    rhos.append(rho)
        return params, rhos

    def _outside(self) -> list[Tensor]:
        """The model's parameters that another optimizer has: their gradient is that at w + ε."""
        if self.model is None:
            return []
        known, found = set(self._params()), list[Tensor]()
        for module in modules(self.model):
            for param in module._parameters.values():
                if param is not None and param.requires_grad and param not in known:
                    known.add(param)
                    found.append(param)
        return found

    def _name(self, param: Tensor) -> str:
        assert self.model is not None
        if param not in self._names:
            self._names = {p: name for name, p in self.model.named_parameters()}
        if param not in self._names:
            raise ValueError(
                f"{self._rules} tells parameters apart by their names, and a parameter of shape {tuple(param.shape)} "
                "is not the model's"
            )
        return self._names[param]

    def _params(self) -> Iterator[Tensor]:
        return (param for group in self.base.param_groups for param in group["params"])

    @property
    def per_example(self) -> bool:
        """Whether the rules take the loss of each example, and run backward themselves: `SAM.backward`."""
        return self.m is not None or (self.descent_rule is not None and self.descent_rule.per_example)

    def _refuse_per_example(self, what: str) -> None:
        if self.m is not None:
            raise RuntimeError(f"{what} has one perturbation for all: with m use step(closure) or backward(closure)")
        if self.per_example:
            raise RuntimeError(f"{what} sees no losses: {self._rules} takes step(closure) or backward(closure)")

    @property
    def _no_gradient(self) -> str:
        return (
            "no parameter that climbs received a gradient in this pass: was backward() called? To leave a batch out, "
            "one whose loss isn't finite say, call optimizer.skip() before `continue` or `break`."
        ) + (_FSDP2 if self._fsdp.modules else "")

    @property
    def _rules(self) -> str:
        return rules.name(self.ascent_rule, self.descent_rule)

    def _ready(self, what: str) -> None:
        """For ``what``: no pass is under way, and no interrupted one left the weights elsewhere."""
        self._not_inside(what)
        self._undo_once()


class MSamHost:
    """A `m_sam.host.Host`: the optimizer, for the passes that `m_sam` makes itself."""

    def __init__(self, optimizer: Passes):
        self.optimizer = optimizer

    @property
    def model(self) -> nn.Module:
        """See `m_sam.host.Host`."""
        assert self.optimizer.model is not None
        return self.optimizer.model

    @property
    def settings(self) -> Settings:
        """See `m_sam.host.Host`."""
        o = self.optimizer
        assert o.m is not None
        return Settings(o.m, o.ascent_rule, o.l2, o.eps, o.audit, o.memory_limit, o.perturbed_norms)

    def parameters(self) -> Parameters:
        """See `m_sam.host.Host`."""
        trainable, rhos = self.optimizer._trainable()
        scope = self.optimizer._scope
        return Parameters(
            list(self.optimizer._params()),
            trainable,
            dict(zip(trainable, rhos, strict=True)),
            {p for p in trainable if scope is None or p in scope},
            self.optimizer._outside(),
            {p: name for name, p in self.model.named_parameters()},
        )

    def buffers(self, carried: Iterable[Tensor] = ()) -> Buffers:
        """See `m_sam.host.Host`."""
        return Buffers(self.model, self.optimizer._constants, carried)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """See `m_sam.host.Host`."""
        self.optimizer._start()
        yield
        self.optimizer._evaluated += 1

    @contextmanager
    def under_way(self, name: str, apart: Sequence[Tensor] = ()) -> Iterator[None]:
        """See `m_sam.host.Host`."""
        params = list(apart)
        held = [parallel.set_aside(p.grad) for p in params]
        try:
            self.optimizer._begin(name, params, held)
            yield
        finally:
            self.optimizer._end(params, held)
            amp.clear_caches()

    def at_w(self, scaler: Any, sync: bool, onward: bool) -> AbstractContextManager[None]:
        """See `m_sam.host.Host`."""
        return self.optimizer._ascent(scaler, sync, onward, buffers=False)

    @contextmanager
    def at_perturbed(self, share: float) -> Iterator[None]:
        """See `m_sam.host.Host`.

        Hooks scale the gradients, not the loss: a function's own backward need not be linear, it may clip. Hooks on
        parameters run before DDP averages.
        """
        optimizer = self.optimizer
        with optimizer._perturbed(share=share):
            owner, hooks = optimizer._owner, []

            def times_share(gradient: Tensor) -> Tensor:
                return gradient * share if optimizer._owner is owner else gradient  # left by an interrupt: nothing

            try:
                for param in optimizer._trainable()[0] + optimizer._outside() if share < 1 else ():
                    hooks.append(param.register_hook(times_share))
                yield
            finally:
                for hook in hooks:
                    hook.remove()

    def perturbations(self, gradients: list[Tensor | None]) -> list[Tensor | None]:
        """See `m_sam.host.Host`."""
        params, rhos = self.optimizer._trainable()
        plan = self.optimizer._plan(params, gradients, rhos, None, True)
        moves = zip(plan.owners, plan.directions, plan.rhos, strict=True)
        steps = {owner: direction * (rho * plan.climb.factor) for owner, direction, rho in moves}
        return [steps.get(p) for p in params]

    def out_of_reach(self) -> str | None:
        """See `m_sam.host.Host`."""
        return self.optimizer._nothing_in_reach()


def _versions(params: Iterable[Tensor]) -> list[int] | None:
    """Of the gradients that are there; None if none are."""
    gradients = [param.grad for param in params]
    if all(gradient is None for gradient in gradients):
        return None
    return [-1 if gradient is None else local(gradient)._version for gradient in gradients]


def _explain(error: RuntimeError, moved: bool = True) -> None:
    """Raise a better one for a graph that an earlier pass has used, or was made before the weights ``moved``."""
    says = str(error)
    if "backward through the graph a second time" in says or (moved and "modified by an inplace operation" in says):
        raise RuntimeError(
            "backward() went through a graph that was made before this pass, or twice through one. Every pass needs a "
            "forward pass of its own, at its own weights: put forward and backward both inside `with evaluation` (or "
            "the closure, or `with optimizer.ascent()` and `with optimizer.perturbed()`). Autograd says: "
            + says.partition(". ")[0].partition(" (")[0]
        ) from error
