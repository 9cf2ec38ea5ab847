"""SAM: an optimizer around an optimizer, for the training loop one already has."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowland.optim import amp, grouped, parallel, rules, selected
from lowland.optim.ascent import Ascent, Climb, Slope
from lowland.optim.batch_norm import SavedStatistics, statistics
from lowland.optim.descent import Descent, Pair
from lowland.optim.displacement import Displacement
from lowland.optim.functional import EPS, check_rho
from lowland.optim.memory import Memory, split
from lowland.optim.randomness import random_states, replay
from lowland.optim.scope import Scope, frozen, resolve
from lowland.optim.sharding import global_dot, global_norm, is_distributed, local, local_pair, settled
from lowland.optim.wrapper import Wrapper

Rho = float | Callable[[int], float]

STEPS = "sam_steps"  # in every parameter group: what saves optimizers elsewhere carries groups, and often nothing else


def _radius(rho: Any) -> float:
    """``rho`` as a float: what is saved must load anywhere. Raises ValueError for what can't be a radius."""
    if isinstance(rho, Tensor) and rho.numel() == 1:
        rho = rho.item()
    if isinstance(rho, Tensor) or (isinstance(rho, int) and abs(rho) > 1e300):
        raise ValueError(f"rho must be a number, not {rho!r}")
    check_rho(rho)
    return float(rho)


@dataclass(slots=True)
class _Plan:
    """What to move, along what, by how much; whether from an evaluation at w; whether a scaler minds overflows."""

    owners: list[Tensor]
    weights: list[Tensor]
    directions: list[Tensor]
    rhos: list[float]
    climb: Climb
    scale: float | Tensor
    evaluated: bool
    scaled: bool


class SAM(Wrapper):
    """Sharpness-aware minimization: climb to w + ε, take the gradient there, update w with it.

    ε(w) = ρ g / (‖g‖ + eps), with g the gradient at w and its norm over the parameters of all groups
    (Foret et al. 2021, *Sharpness-Aware Minimization for Efficiently Improving Generalization*, equation 2).

    The three ways to use it compute the same. With torch's own closure convention::

        loss = optimizer.step(closure)           # closure: forward, backward, return the loss

    spelled out, for loops that clip, scale or accumulate::

        for evaluation in optimizer.passes():
            with evaluation:
                loss_fn().backward()
        optimizer.step(); optimizer.zero_grad()

    or each pass by its name, `ascent` and `perturbed`. Everything else (learning-rate schedules, parameter
    groups, ``zero_grad``) works as with the base optimizer, whose state, groups and other attributes this object
    shares.

    Args:
        base: any torch optimizer; it makes the update.
        rho: radius of the ascent, in the units of the parameters; or a function of the number of SAM steps made
            so far that gives it. A ``rho`` key in one of the base optimizer's groups wins over this argument;
            where no function sets it, ``group["rho"]`` may be changed at any time, as ``lr`` may; where one does,
            it is that of the last pass. Where every group has rho 0, a step takes a single pass and is the base
            optimizer's own.
        model: if given, its batch-norm statistics are left alone by the perturbed pass. Under DDP give the
            wrapper: then the ascent is synchronized also in the middle of ``no_sync``, and ``sync=False`` works.
        m: how many examples share a perturbation (m-SAM). Then ``step`` takes a closure that returns the loss of
            each example and calls no ``backward``; `backward` does the same for accumulation. Needs ``model``.
            Computed by a loop over the groups: right, and slow for small m.
        eps: added to the gradient norm.
        same_masks: whether the perturbed pass draws the same random numbers as the ascent, so that dropout leaves
            out the same units. By default it draws its own: that is how the published values of rho were found,
            and nothing touches torch's generators.
        keep_on: where w lies during the perturbed pass: ``"device"``, or ``"cpu"`` (pinned) for models that don't
            leave room for one more copy. The weights come back bit for bit either way.

    A gradient that is zero or not finite gives a zero perturbation, without waiting for the device. Memory
    beyond the base optimizer's: one copy of the perturbed parameters (the process's own part of sharded ones).

    Raises:
        TypeError: if ``base`` is no torch optimizer, or ``model`` no module.
        ValueError: for a negative or non-finite rho; a ``base`` that already is a SAM, LBFGS or Adadelta; ``m`` without
            ``model``, or with parameters that are not the model's.
        RuntimeError: for passes out of order, or a pass in which no parameter received a gradient.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, model=model)
        >>> def closure():
        ...     loss = model(torch.ones(5, 3)).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
    """

    def __init__(
        self,
        base: Optimizer,
        rho: Rho = 0.05,
        *,
        model: nn.Module | None = None,
        m: int | None = None,
        ascent: Ascent | None = None,
        descent: Descent | None = None,
        scope: Scope = None,
        eps: float = EPS,
        same_masks: bool = False,
        keep_on: str = "device",
    ):
        if not isinstance(base, Optimizer):
            raise TypeError("SAM goes around an optimizer: SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)")
        if isinstance(base, SAM):
            raise ValueError("the base optimizer already is a SAM: wrap the optimizer inside it")
        if "rho" in base.defaults:
            raise ValueError(f"{type(base).__name__} has a rho of its own in its groups, which is not SAM's radius")
        if isinstance(base, torch.optim.LBFGS):
            raise ValueError("LBFGS evaluates its closure at points of its own choosing: SAM can't go around it")
        if not isinstance(eps, int | float) or not 0 <= eps < float("inf"):
            raise ValueError(f"eps is added to the gradient norm: it must be finite and at least 0, not {eps!r}")
        params = [p for group in base.param_groups for p in group["params"]]
        if model is not None:
            if not isinstance(model, nn.Module):
                raise TypeError(f"model= is the network itself, a torch.nn.Module, not a {type(model).__name__}")
            if set(params).isdisjoint(model.parameters()):
                raise ValueError("model= is another model: it has none of the base optimizer's parameters")
        parallel.check(params)
        self.ascent_rule, self.descent_rule = rules.check(ascent, descent, base, model, m)
        if m is not None:
            grouped.check(m, model, params)
        super().__init__(base)
        self._memory = Memory((*self.ascent_rule.memory, *(() if descent is None else descent.memory)))
        self.scope, self._scope = scope, resolve(scope, model, params)
        self.model, self.m, self.eps, self.same_masks = model, m, eps, same_masks
        self._schedule = rho if callable(rho) else None
        self._rho = _radius(rho(0) if callable(rho) else rho)
        if any(STEPS in group and _radius(group["rho"]) != self._rho for group in base.param_groups):
            warnings.warn(
                "this base optimizer was in a SAM before: its groups keep the rho they have, which wins over the "
                "argument. Make a new base optimizer, or set group['rho'] or delete it first.",
                stacklevel=2,
            )
        self._scheduled: list[int] = []
        self._displacement = Displacement(keep_on)
        self._forget()
        self._complete_groups()

    def _forget(self) -> None:
        """No pass is under way, and none was."""
        self._pass: str | None = None
        self._climb: _Plan | None = None
        self._states: list[Any] | None = None
        self._statistics: SavedStatistics | None = None
        self._fsdp = parallel.Fsdp(None, ())
        self._names: dict[Tensor, str] = {}
        self._beside: dict[Tensor, Tensor] = {}
        self._at_w: list[Tensor | None] = []
        self._evaluated = self._warned = False
        self._told = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the group's ``rho`` is this optimizer's unless it brings one."""
        if "rho" in param_group:
            _radius(param_group["rho"])
        self.base.add_param_group(param_group)
        self._scope = resolve(self.scope, self.model, self._params())
        self._complete_groups()

    @property
    def steps(self) -> int:
        """SAM steps made so far; those that a scaler skips don't count, unless a fused base optimizer skips them."""
        return self.param_groups[0][STEPS]

    @property
    def under_way(self) -> str | None:
        """The name of the pass under way, ``"ascent"`` or ``"perturbed"`` say; else None, and the weights are w."""
        return self._pass or ("perturbed" if self._displacement.displaced else None)

    @property
    def is_plain(self) -> bool:
        """Whether a step is that of Foret et al.: along the gradient of all parameters, and down that at w + ε."""
        return type(self.ascent_rule) is Ascent and self.descent_rule is None and self.scope is None

    def _complete_groups(self) -> None:
        steps = self.param_groups[0].setdefault(STEPS, 0)
        for index, group in enumerate(self.param_groups):
            if "rho" not in group:
                group["rho"] = self._rho
                self._scheduled.append(index)
            group.setdefault(STEPS, steps)
        if self._schedule is not None:
            self._rho = _radius(self._schedule(steps))
            for index in self._scheduled:
                self.param_groups[index]["rho"] = self._rho
        for group in self.param_groups:
            if type(group["rho"]) is not float or not 0 <= group["rho"] < math.inf:
                group["rho"] = _radius(group["rho"])

    # The passes.

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
        self._told = scaler is not None
        if all(group["rho"] == 0 for group in self.param_groups):
            yield self._plain()
        elif not self._climbs:
            yield self._alone()
        else:
            for index in range(self._evaluations):
                yield self._ascent(scaler, sync, onward=index > 0)
            yield self._perturbed(scaler)

    @property
    def _evaluations(self) -> int:
        """Before that at w + ε."""
        return max(self.ascent_rule.evaluations, self._combines)

    @property
    def _climbs(self) -> bool:
        """Whether this step does."""
        return self.descent_rule is None or self.descent_rule.climbs(self.steps)

    @property
    def _combines(self) -> bool:
        """Whether the descent rule makes the step's gradient of that at w, too."""
        return self.descent_rule is not None and not self.descent_rule.per_example

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
        self._told = scaler is not None
        return self._ascent(scaler, sync)

    @contextmanager
    def _ascent(self, scaler: Any = None, sync: bool = True, onward: bool = False) -> Iterator[None]:
        """At w, or ``onward``: where the climb so far has led."""
        if onward and self._climb is None:
            raise RuntimeError("a pass was left out: run every evaluation of passes() in turn")
        self._ready("ascent pass")
        if not sync and self._combines:
            raise ValueError(f"{self._rules} takes both gradients of the same batch: sync=False can't be")
        before, self._climb = self._climb if onward else None, None
        params, rhos = self._trainable()
        if not onward:
            self._fsdp = parallel.Fsdp(self.model, self._params())
            if self._beside and all(param.grad is None for param in params):  # a step was skipped
                self._beside.clear()
        with self._apart("ascent", params, sync) as gradients, self._frozen(params):
            try:
                if before is not None:
                    directions = list(before.directions)
                    self._leave_w(before)
                    before.directions = directions
                elif self.same_masks:
                    self._states = random_states(params)
                yield
            finally:
                if before is not None:
                    self._back_to_w()
        if self._combines and not onward:
            self._at_w = list(gradients)
        with torch.no_grad():
            self._climb = self._plan(params, gradients, rhos, scaler, sync, before)

    def _frozen(self, params: list[Tensor]) -> AbstractContextManager[None]:
        """What is out of scope needs no gradient to climb; sharded models and DDP count on those of all parameters."""
        if self._scope is None or self._combines or parallel.ddp(self.model) or any(map(is_distributed, params)):
            return nullcontext()
        return frozen([param for param in params if param not in self._scope])

    @contextmanager
    def _apart(self, name: str, params: list[Tensor], sync: bool = True) -> Iterator[list[Tensor | None]]:
        """Inside, ``backward`` fills gradients of its own; afterwards they are in the list, and the others back."""
        taken: list[Tensor | None] = []
        held = [parallel.set_aside(param.grad) for param in params]
        try:
            self._pass = name
            for param in params:
                param.grad = None
            with parallel.ascending(self.model, self._fsdp, sync):
                yield taken
            taken += [param.grad for param in params]
        finally:
            for param, gradient in zip(params, held, strict=True):
                param.grad = gradient
            self._pass = None

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
        climbers, owners, weights, pieces, radii = [], [], [], [], []
        for index, param in enumerate(params):
            if self._scope is not None and param not in self._scope:
                continue
            climbers.append(param)
            if gradients is None:
                weights.append(local(param.detach()))
            else:
                gradient = gradients[index]
                if gradient is None:
                    continue
                if gradient.is_sparse and type(self.ascent_rule) is not Ascent:
                    gradient = gradient.to_dense()
                weight, piece = local_pair(param, gradient)
                weights.append(weight)
                pieces.append(piece)
            owners.append(param)
            radii.append(rhos[index])
        if not owners:
            raise RuntimeError(
                "no parameter received a gradient in the ascent pass: was backward() called? Is its loss one of "
                "parameters in the scope? (With FSDP2, set_requires_gradient_sync(False) and "
                "set_requires_all_reduce(False) keep gradients from the optimizer: leave them on for the ascent.)"
            )
        climbed = None
        if before is not None:
            so_far = dict(zip(before.owners, before.directions, strict=True))
            climbed = [so_far[o] if o in so_far else torch.zeros_like(w) for o, w in zip(owners, weights, strict=True)]
        slope = Slope(
            owners,
            weights,
            pieces,
            partial(global_norm, climbers, owners),
            self.eps,
            amp.loss_scale(scaler, pieces[0]) if pieces else 1.0,
            self.steps,
            climbed,
            max(radii),
            self._name,
            partial(self._memory.of, owners),
            self.base,
        )
        directions, climb = self.ascent_rule.climb(slope)
        if not sync and scaler is not None:
            climb = Climb(climb.factor, parallel.anywhere(climb.overflow, self.model))
        if before is not None:
            climb = Climb(climb.factor, climb.overflow | before.climb.overflow)
        return _Plan(owners, weights, directions, radii, climb, slope.scale, self._evaluations > 0, scaler is not None)

    def perturbed(self) -> AbstractContextManager[None]:
        """The pass at w + ε: inside, the weights are w + ε, and ``backward`` adds to ``p.grad``.

        On the way out the weights are w again, bit for bit, exception or not, and so are the batch-norm
        statistics of ``model``.

        Raises:
            RuntimeError: inside another pass, or without an `ascent` since the last time.
        """
        return self._perturbed()

    @contextmanager
    def _perturbed(self, scaler: Any = None) -> Iterator[None]:
        if self._pass is None and self._climb is None and self._evaluations:
            raise RuntimeError("perturbed() needs an ascent() before it, to know where to climb")
        self._ready("perturbed pass")
        params, rhos = self._trainable()
        if not self._evaluations:
            self._fsdp = parallel.Fsdp(self.model, self._params())
            with torch.no_grad():
                self._climb = self._plan(params, None, rhos, scaler, True)
        try:
            self._pass = "perturbed"
            plan, self._climb = self._climb, None
            assert plan is not None
            with self._apart("perturbed", params) if self._combines else nullcontext() as gradients:
                try:
                    self._leave_w(plan)
                    yield
                finally:
                    self._back_to_w()
            if gradients is not None:
                at_w, self._at_w = self._at_w, []
                self._add(params, at_w, gradients, plan.climb.factor, plan.scale)
            if plan.scaled:
                overflow = plan.climb.overflow | self._overflow_beside()
                amp.pass_on_overflow(overflow, [p.grad for p in self._params() if p.grad is not None])
            self._evaluated = True
        finally:
            self._pass = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The only pass of a step that reuses what an earlier one learnt."""
        self._ready("plain pass")
        self._fsdp = parallel.Fsdp(self.model, self._params())
        params, _ = self._trainable()
        with self._apart("plain", params) as gradients:
            yield
        self._add(params, None, gradients, 1.0)
        self._evaluated = True

    @torch.no_grad()
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
        if isinstance(factor, Tensor):
            combined = [torch.where(factor != 0, c, s) for c, s in zip(rule.combine(pair), pieces, strict=True)]
        elif at_w is None:
            combined = rule.alone(pair)
        else:
            combined = rule.combine(pair) if factor else pieces
        beside = rule.beside(pair) if at_w is not None else None
        for param, piece in zip(owners, beside or (), strict=False):
            self._beside[param] = piece.div_(scale).add_(self._beside.get(param, 0))
        torch._foreach_copy_(pieces, combined)
        for param, gradient in zip(owners, last, strict=True):
            # Into the pass's own memory, where DDP expects it.
            param.grad = gradient if param.grad is None else gradient.add_(param.grad)

    def _leave_w(self, plan: "_Plan") -> None:
        with torch.no_grad():
            self._displacement.move(plan.weights, plan.directions, plan.rhos, plan.climb)
        plan.directions.clear()  # while new gradients grow
        self._forget_copies_of_weights()
        if self._states is not None:
            replay(self._states)
        if plan.evaluated and self.model is not None and (buffers := statistics(self.model)):
            self._statistics = SavedStatistics(buffers)

    def _back_to_w(self) -> None:
        """From wherever the weights are. What an interrupt of this leaves undone, the next call does."""
        if self._displacement.displaced:
            self._displacement.put_back()
            self._forget_copies_of_weights()
        if self._statistics is not None:
            self._statistics.restore()
            self._statistics = None

    def _forget_copies_of_weights(self) -> None:
        """Made elsewhere, and not of the weights that are there now."""
        torch.clear_autocast_cache()  # casts
        self._fsdp.reshard()  # gathered

    @contextmanager
    def _plain(self) -> Iterator[None]:
        self._ready("plain pass")
        self._fsdp = parallel.Fsdp(self.model, self._params())
        try:
            self._pass = "plain"
            yield
            self._evaluated = True
        finally:
            self._pass = None

    def _not_inside(self, what: str) -> None:
        if self._pass is not None:
            raise RuntimeError(f"{what} inside the {self._pass} pass: leave its `with` block first")

    def _trainable(self) -> tuple[list[Tensor], list[float]]:
        """The parameters that may get a gradient, and the radius of each."""
        params, rhos = [], []
        for group in self.param_groups:
            rho = group["rho"]
            for param in group["params"]:
                if param.requires_grad:
                    params.append(param)
                    rhos.append(rho)
        return params, rhos

    def _name(self, param: Tensor) -> str:
        assert self.model is not None
        if param not in self._names:
            self._names = {p: name for name, p in self.model.named_parameters()}
        return self._names[param]

    def _params(self) -> Iterator[Tensor]:
        return (param for group in self.param_groups for param in group["params"])

    # The step.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update the weights with the gradient in ``p.grad``, or with that of ``closure``'s passes.

        Args:
            closure: runs forward and backward and returns the loss. It may clear the gradients or not; they
                are cleared before the first pass. With ``m`` it returns the loss of each example, and runs no
                backward.

        Returns:
            What ``closure`` returned at w (its first call), with ``m`` the mean of that; None without a closure.

        Raises:
            RuntimeError: inside a pass, or after an `ascent` that no `perturbed` pass followed.

        Warns:
            UserWarning: if gradients are there but no pass was run since the last step: that is a plain step.
        """
        # A subclass's own step is wrapped by torch, which then calls the hooks.
        return self._hooked_step(closure) if type(self).step is SAM.step else self._step(closure)

    # Not to be wrapped by torch: hooks are seen to, and the profiler sees the base optimizer's step.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        losses = []
        self._ready("step()")
        if closure is not None:
            self._climb = None
            self.zero_grad()
            if self._per_example:
                losses.append(self.backward(closure))
            else:
                with torch.enable_grad():
                    for evaluation in self.passes():
                        with evaluation:
                            losses.append(closure())
        if self._climb is not None:
            raise RuntimeError("step() after ascent() without perturbed(): the gradient at w + e is missing")
        self._update()
        return losses[0] if losses else None

    def _ready(self, what: str) -> None:
        """For ``what``: no pass is under way, and no interrupted one left the weights elsewhere."""
        self._not_inside(what)
        self._back_to_w()

    def backward(self, closure: Callable[[], Tensor], scaler: Any = None) -> Tensor:
        """With ``m``, or a rule that chooses examples: add the gradient of a batch to ``p.grad``; no base step.

        Args:
            closure: returns the loss of each example, shape (batch,), and runs no backward. Its loss is not scaled.
            scaler: the ``GradScaler`` that is to scale it, if any.

        Returns:
            The mean loss at w, a 0-d tensor.

        Raises:
            RuntimeError: without ``m`` or such a rule.
            ValueError: if ``closure`` returns something else, or, with ``m``, the model couples the examples of a
                batch.
        """
        if not self._per_example:
            raise RuntimeError("backward() is for m-SAM and ESAM: give SAM an m, or run backward in passes()")
        self._complete_groups()
        self._told = scaler is not None
        return (selected if self.m is None else grouped).backward(self, closure, scaler)

    @property
    def _per_example(self) -> bool:
        return self.m is not None or (self.descent_rule is not None and self.descent_rule.per_example)

    def _refuse_per_example(self, what: str) -> None:
        if self.m is not None:
            raise RuntimeError(f"{what} has one perturbation for all: with m use step(closure) or backward(closure)")
        if self._per_example:
            raise RuntimeError(f"{what} sees no losses: {self._rules} takes step(closure) or backward(closure)")

    @property
    def _rules(self) -> str:
        return rules.name(self.ascent_rule, self.descent_rule)

    def _update(self) -> None:
        evaluated, self._evaluated = self._evaluated, False
        if evaluated:
            if not self._fsdp.modules and all(param.grad is None for param in self._params()):
                raise RuntimeError(
                    "no parameter has a gradient: was backward() called in the last pass, and zero_grad() only after "
                    "step()?"
                )
            self._refuse_unknown_scale()
            self._learn()
            self._count()
        else:
            self._warn_of_a_plain_step()
        self.base.step()
        if self._beside:
            self._step_beside()
        self._forget_copies_of_weights()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        self._beside.clear()
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def _step_beside(self) -> None:
        """What the descent rule subtracts from the weights after the base optimizer's step."""
        skipped = getattr(self.base, "found_inf", None)  # by a scaler, on the device
        for group in self.param_groups:
            for param in group["params"]:
                if param in self._beside:
                    change = self._beside[param] * (group["lr"] if group.get("maximize") else -group["lr"])
                    local(param).add_(change if skipped is None else torch.where(skipped != 0, 0, change))
        self._beside.clear()

    def _overflow_beside(self) -> bool | Tensor:
        if not self._beside:
            return False
        norm = global_norm(self._trainable()[0], list(self._beside), list(self._beside.values()))
        return ~torch.isfinite(norm) if isinstance(norm, Tensor) else not math.isfinite(norm)

    def _refuse_unknown_scale(self) -> None:
        descent = self.descent_rule
        if self._told or not (self.ascent_rule.needs_scale or (descent is not None and descent.needs_scale)):
            return
        if amp.inside_scaler():
            raise RuntimeError(
                f"the loss was scaled, and {self._rules} needs the gradient proper: hand the GradScaler to the passes, "
                "too: optimizer.passes(scaler=scaler)"
            )

    def _learn(self) -> None:
        if type(self.ascent_rule).learn is Ascent.learn:
            return
        owners = [param for param in self._trainable()[0] if param.grad is not None]
        pieces = [local(settled(param, param.grad)) for param in owners]
        with torch.no_grad():
            self.ascent_rule.learn(partial(self._memory.of, owners), pieces)

    def _count(self) -> None:
        steps = self.steps + 1
        for group in self.param_groups:
            group[STEPS] = steps

    def _warn_of_a_plain_step(self) -> None:
        if self._warned or all(group["rho"] == 0 or not group.get("lr", 1) for group in self.param_groups):
            return
        if any(param.grad is not None for param in self._params()):
            self._warned = True
            warnings.warn(
                "step() without passes: this was a plain step of the base optimizer, not SAM's. Run forward and "
                "backward inside `for evaluation in optimizer.passes(): with evaluation: ...`, or hand step() a "
                "closure; for a plain step on purpose call optimizer.base.step().",
                stacklevel=4,
            )

    # State.

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's state_dict, with ``rho`` and the number of steps in each group: all a resume needs.

        Raises:
            RuntimeError: between `ascent` and `perturbed`, whose perturbation is not part of it.
        """
        if self._pass is not None or self._climb is not None:
            raise RuntimeError("state_dict() in the middle of a step: finish its passes first")
        self._back_to_w()
        return self._hooked_state_dict()

    def _save(self) -> dict[str, Any]:
        state_dict = self.base.state_dict()
        if self._memory.names and (self.steps or state_dict["state"]):
            state_dict["state"] = self._memory.save(list(self._params()), state_dict["state"])
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load a `state_dict`, or one of the bare base optimizer: then rho and the number of steps stay."""
        self._hooked_load_state_dict(state_dict)

    def _load(self, state_dict: dict[str, Any]) -> None:
        self._not_inside("load_state_dict()")
        if self._displacement.overwritten:  # the weights were loaded first
            self._displacement.forget()
        self._back_to_w()
        self._complete_groups()
        own = [{key: group[key] for key in ("rho", STEPS)} for group in self.param_groups]
        bare, remembered = split(state_dict["state"])
        self.base.load_state_dict({**state_dict, "state": bare})
        self._memory.load(list(self._params()), remembered)
        for group, values in zip(self.param_groups, own, strict=True):
            for key, value in values.items():
                group.setdefault(key, value)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """For copying and pickling: as torch's optimizers, without hooks and without a pass under way."""
        own = (
            "base", "model", "m", "ascent_rule", "descent_rule", "eps", "same_masks",
            "_memory", "_rho", "_schedule", "_scheduled", "_scope", "scope",
        )  # fmt: skip
        return {name: getattr(self, name) for name in own} | {"keep_on": self._displacement.keep_on}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        self._displacement = Displacement(state.pop("keep_on"))
        self._forget()
        super().__setstate__(state)

    def __repr__(self) -> str:
        return f"SAM(rho={[group.get('rho', self._rho) for group in self.param_groups]}, base={self.base!r})"
