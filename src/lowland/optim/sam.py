"""SAM: an optimizer around an optimizer, for the training loop one already has."""

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowland.assigning import Absent, unassignable
from lowland.optim import amp, assigned, bases, layout, m_sam, parallel, selected
from lowland.optim.ascent import Ascent
from lowland.optim.buffers import places, warn_of_new
from lowland.optim.descent import Descent
from lowland.optim.displacement import Displacement
from lowland.optim.functional import EPS, check_rho
from lowland.optim.grad_mode import recording, unrecorded
from lowland.optim.memory import split
from lowland.optim.passes import MSamHost, Passes
from lowland.optim.scope import Scope, resolve
from lowland.optim.sharding import local, settled
from lowland.optim.wrapper import shared

Rho = float | Callable[[int], float]

_PASSES_WITH_SCALER = (
    "`for evaluation in optimizer.passes(scaler=scaler): with evaluation: scaler.scale(loss_fn()).backward()`"
)
_MAXIMIZES = (
    "maximize=True: SAM climbs before it descends, so it can only minimize. Leave maximize out, and minimize the "
    "negative of the objective: (-objective).backward()"
)
STEPS = "sam_steps"  # in every parameter group: what saves optimizers elsewhere carries groups, and often nothing else


def _radius(rho: Any) -> float:
    """``rho`` as a float: what is saved must load anywhere. Raises ValueError for what can't be a radius."""
    if isinstance(rho, Tensor) and rho.numel() == 1:
        rho = rho.item()
    if isinstance(rho, Tensor) or (isinstance(rho, int) and abs(rho) > 1e300):
        raise ValueError(f"rho must be a number, not {rho!r}")
    check_rho(rho)
    return float(rho)


@unassignable(
    steps="step() counts. Set group['sam_steps'] of the parameter groups, or load_state_dict()",
    under_way="the passes say so; skip() leaves out the batch whose passes are under way",
    is_plain="it follows from ascent_rule, descent_rule and scope",
    is_scheduled="it says whether the constructor was given a function, lowland.SAM(base, rho=function)",
    per_example="it follows from m and descent_rule",
    last="each batch with m leaves it",
    ascent="it is the pass at w. The rule is optimizer.ascent_rule",
)
class SAM(Passes):
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

    or each pass by its name, `ascent` and `perturbed`. Other rules of the family change the formula and the number of
    passes, not the loop: `lowland.optim.presets` has them by name. Everything else (learning-rate schedules, parameter
    groups, ``zero_grad``) works as with the base optimizer, whose state, groups and other attributes this object
    shares.

    Args:
        base: makes the update: any torch optimizer whose step takes the gradients in ``p.grad``, and no more.
        rho: radius of the ascent, in the units of the parameters; or a function of the number of SAM steps made
            so far that gives it. A ``rho`` key in one of the base optimizer's groups wins over this argument;
            where no function sets it, ``group["rho"]`` may be changed at any time, as ``lr`` may; where one does,
            it is that of the last pass. Where every group has rho 0, a step takes a single pass and is the base
            optimizer's own.
        model: if given, its buffers (batch-norm statistics, spectral norm's vectors, codebooks, counters) move once a
            step, in the evaluation at w, and every evaluation begins with them as they were before. Under DDP give the
            wrapper: then the ascent is synchronized also in the middle of ``no_sync``, and ``sync=False`` works.
        m: how many examples share a perturbation (m-SAM). Then ``step`` takes a closure that returns the loss of
            each example and calls no ``backward``; `backward` does the same for accumulation. Needs ``model``.
            All groups are computed together, in two passes over the batch, for what `lowland.optim.m_sam` covers;
            else by a loop over the groups, right and slow for small m, with a warning that says why. Batch norm in
            training mode takes the statistics of each group; its running statistics move once a step, along those
            at w, averaged over the batch. SyncBatchNorm is refused.
        l2: λ of ½λ‖w‖², which both passes see as a part of the loss: the ascent climbs along ∇L(w) + λw, the descent
            goes along ∇L(w + ε) + λ(w + ε). That is not the base optimizer's weight decay, which no ascent sees. ‖w‖ is
            over all trainable parameters, those included that are out of scope or that the loss doesn't reach. One
            number for all groups; not part of the `state_dict`, and ``optimizer.l2`` may be changed between steps.
            Each run through the passes counts it once, whatever number of ``backward`` calls a pass has, and so does
            each `backward` with ``m``: where the gradients of k micro-batches that climb each for itself add up to a
            mean, with their losses divided by k, give λ/k. Losses that are returned leave it out.
        ascent: where to climb: a rule of `lowland.optim.ascent`, by default that of the formula above.
        descent: what to descend along: a rule of `lowland.optim.descent`, by default the gradient at w + ε.
        scope: which parameters climb: a function of the model that gives them (`lowland.optim.scope` has some), one
            of its modules, or parameters; by default all. The norm is over those.
        eps: added to the gradient norm.
        same_masks: whether the perturbed pass draws the same random numbers as the ascent, so that dropout leaves
            out the same units. By default it draws its own: that is how the published values of rho were found,
            and nothing touches torch's generators.
        freeze: whether parameters out of scope require no gradient while climbing, which saves their part of that
            backward pass. Not with reentrant activation checkpointing, which would cut others off, too; nothing is
            frozen where there are several processes.
        keep_on: where w lies during the perturbed pass: ``"device"``, or ``"cpu"`` (pinned) for models that don't
            leave room for one more copy. The weights come back bit for bit either way.
        audit: with ``m``, whether two groups are checked against the definition, in the first step, wherever parameters
            are used in a new way, and at batches 10, 100, 1,000, ...: seven evaluations of the batch more. A model that
            the one pass is wrong for goes by the loop then.
        memory_limit: with ``m``, how many bytes the groups' gradients may take between the passes; a batch that takes
            more goes in several parts, each with two passes of its own. None for no limit.
        perturbed_norms: with ``m``, whether `last` has the norms of the groups' gradients at w + e, too: about another
            weight gradient.

    Settings may be changed between steps by assigning them: each takes effect from the next step on, checked as here.
    The rules are ``optimizer.ascent_rule`` and ``optimizer.descent_rule``, rho is ``group["rho"]``. What can't be
    assigned raises AttributeError and says what to do.

    A gradient that is zero or not finite gives a zero perturbation, without waiting for the device. Memory
    beyond the base optimizer's: one copy of the perturbed parameters (the process's own part of sharded ones), and what
    a rule keeps.

    Raises:
        TypeError: if ``base`` is no torch optimizer, ``model`` no module, or a rule no rule.
        ValueError: for a negative or non-finite rho or l2; a ``base`` that already is a SAM, LBFGS or Adadelta, whose
            step needs more than gradients (a closure, or their derivatives, as AdaHessian's does, as far as its source
            shows it), a parameter group with ``maximize=True``, now or later, or with l2 SparseAdam or one that has l2
            in its groups; ``m`` without ``model``, or with parameters that are not the model's; rules that don't go
            together, with ``m`` or with ``base``; a scope that has none of the parameters.
        RuntimeError: for passes out of order, a pass in which no parameter received a gradient, or settings that are
            assigned in the middle of a step.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, model=model)
        >>> def closure():
        ...     loss = model(torch.ones(5, 3)).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
    """

    scope: Any = shared(assigned.chosen)
    _schedule: Callable[[int], float] | None = shared()
    _rho: float = shared()
    #: Groups whose rho follows the schedule.
    _scheduled: list[int] = shared()
    rho = Absent(
        "rho stands in the parameter groups, for group in optimizer.param_groups: group['rho'] = 0.1; a function of "
        "the number of steps goes to the constructor, lowland.SAM(base, rho=function)"
    )
    descent = Absent("the rule is optimizer.descent_rule")

    def __init__(
        self,
        base: Optimizer,
        rho: Rho = 0.05,
        *,
        model: nn.Module | None = None,
        m: int | None = None,
        l2: float = 0.0,
        ascent: Ascent | None = None,
        descent: Descent | None = None,
        scope: Scope = None,
        eps: float = EPS,
        same_masks: bool = False,
        freeze: bool = False,
        keep_on: str = "device",
        audit: bool = True,
        memory_limit: float | None = None,
        perturbed_norms: bool = False,
    ):
        if not isinstance(base, Optimizer):
            raise TypeError(
                "SAM goes around an optimizer: SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05). For the "
                "arguments of other libraries, (params, base_optimizer, rho=...), there is lowland.compat.SAM"
            )
        if isinstance(base, SAM):
            raise ValueError("the base optimizer already is a SAM: wrap the optimizer inside it")
        if "rho" in getattr(base, "defaults", {}):
            raise ValueError(f"{type(base).__name__} has a rho of its own in its groups, which is not SAM's radius")
        if isinstance(base, torch.optim.LBFGS):
            raise ValueError("LBFGS evaluates its closure at points of its own choosing: SAM can't go around it")
        bases.check(base)
        if isinstance(rho, nn.Module):
            raise TypeError("the second argument is rho: hand the network over by its name, model=model")
        super().__init__(base)
        assigned.start(self)
        assigned.eps(self, eps)
        assigned.l2(self, l2)
        assigned.memory_limit(self, memory_limit)
        parallel.check(model if isinstance(model, nn.Module) else None, self._params())
        assigned.model(self, model)
        _refuse_twice(self._params())
        assigned.both_rules(self, ascent, descent)
        assigned.m(self, m)
        assigned.chosen(self, scope)
        own = self._own
        own.same_masks, own.freeze, own.audit, own.perturbed_norms = same_masks, freeze, audit, perturbed_norms
        self._schedule = rho if callable(rho) else None
        self._rho = _radius(rho(0) if callable(rho) else rho)
        if any(STEPS in group and _radius(group["rho"]) != self._rho for group in base.param_groups):
            warnings.warn(
                "this base optimizer was in a SAM before: its groups keep the rho they have, which wins over the "
                "argument. Make a new base optimizer, or set group['rho'] or delete it first.",
                stacklevel=2,
            )
        self._scheduled = []
        self._displacement = Displacement(keep_on)
        self._forget()
        self._complete_groups()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the group's ``rho`` is this optimizer's unless it brings one."""
        if "rho" in param_group:
            _radius(param_group["rho"])
        if param_group.get("maximize"):
            raise ValueError(_MAXIMIZES)
        added = param_group["params"]
        if isinstance(added, Iterable) and not isinstance(added, Tensor | set):
            param_group["params"] = added = list(added)  # it may be read once only
            _refuse_twice(param[1] if isinstance(param, tuple) else param for param in added)
        self.base.add_param_group(param_group)
        if callable(self.scope):
            self._scope = resolve(self.scope, self.model, self._params())
        self._complete_groups()

    @property
    def keep_on(self) -> str:
        """Where w lies during the perturbed pass: ``"device"`` or ``"cpu"``."""
        return self._displacement.keep_on

    @keep_on.setter
    def keep_on(self, value: str) -> None:
        if self.under_way:
            raise RuntimeError("keep_on assigned in the middle of a step: finish its passes first")
        self._displacement = Displacement(value)

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
        """Whether a step is that of Foret et al.: along the gradient of all parameters, and down that at w + ε.

        With ``l2`` it is that on the loss with the term.
        """
        return type(self.ascent_rule) is Ascent and self.descent_rule is None and self.scope is None

    @property
    def is_scheduled(self) -> bool:
        """Whether a function gives rho."""
        return self._schedule is not None

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
            if group.get("maximize"):
                raise ValueError(_MAXIMIZES)
            if type(group["rho"]) is not float or not 0 <= group["rho"] < math.inf:
                group["rho"] = _radius(group["rho"])

    # The step.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update the weights with the gradient in ``p.grad``, or with that of ``closure``'s passes.

        Without passes before it that is the base optimizer's step along what is there: ``l2`` is not added.

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
        losses: list[Any] = []
        self._ready("step()")
        if closure is not None:
            self._refuse_in_scaler()
            if self._evaluated and not self._cleared and any(param.grad is not None for param in self._params()):
                return self._step_behind_passes(closure)
            self._climb, self._left = None, False
            self.zero_grad()
            if self.per_example:
                losses.append(self.backward(closure))
            else:
                grad = torch.is_grad_enabled()
                try:
                    with torch.enable_grad():
                        for evaluation in self.passes():
                            with evaluation:
                                losses.append(closure())
                except BaseException:
                    self._abandon(grad)
                    raise
        if self._climb is not None or self._left:
            raise RuntimeError(
                "step() after ascent() without perturbed(): the gradient at w + e is missing. To leave a batch out, "
                "call optimizer.skip() before leaving its passes"
            )
        skipped, self._skipped = self._skipped, False
        if self._evaluated or not skipped:
            self._update()
        return losses[0] if losses else None

    def _step_behind_passes(self, closure: Callable[[], Any]) -> Any:
        """The passes are through; trainers hand over a closure all the same, that calls their hooks alone."""
        params = self._trainable()[0]
        before = [(param.grad, None if param.grad is None else local(param.grad)._version) for param in params]
        ran: list[Tensor] = []
        hooks = [param.register_post_accumulate_grad_hook(ran.append) for param in params]
        try:
            with torch.enable_grad():
                result = closure()
        finally:
            for hook in hooks:
                hook.remove()
        # FSDP2 and others write gradients past these hooks.
        if ran or (self._fsdp.modules and _changed(params, before)):
            raise RuntimeError(
                "step(closure) after passes(): the gradient of the passes was there, and the closure ran backward "
                "once more. Call step() without a closure, or step(closure) without passes; optimizer.zero_grad() "
                "drops what is there"
            )
        self._update()
        return result

    def backward(self, closure: Callable[[], Tensor], scaler: Any = None) -> Tensor:
        """With ``m``, or a rule that chooses examples: add the gradient of a batch to ``p.grad``; no base step.

        That is of the batch's mean loss and, once, of ``l2``.

        Args:
            closure: returns the loss of each example, shape (batch,), and runs no backward. Its loss is not scaled.
            scaler: the ``GradScaler`` that is to scale it, if any.

        Returns:
            The mean loss at w, a 0-d tensor.

        Raises:
            RuntimeError: without ``m`` or such a rule.
            ValueError: if ``closure`` returns something else, or, with ``m``, the model couples the groups of a batch,
                or batch norm in training mode has one value a channel in one of them; under DDP, with ``m``, if
                ``closure`` runs another wrapper than ``model``.
        """
        if not self.per_example:
            raise RuntimeError("backward() is for m-SAM and ESAM: give SAM an m, or run backward in passes()")
        self._complete_groups()
        self._tell(scaler)
        grad = torch.is_grad_enabled()
        try:
            if self.m is None:
                return selected.backward(self, closure, scaler)
            self._ready_for("m-SAM pass")
            assert self.model is not None
            before = None
            if self._engine is None:
                self._engine, before = m_sam.Engine(MSamHost(self)), places(self.model)
            with parallel.no_other_ddp(self.model):
                mean = self._engine.backward(closure, scaler)
            # The loop comes after an evaluation, which may have registered some.
            if before is not None and self._engine.reason is not None:
                warn_of_new(before, places(self.model))
        except BaseException:
            self._abandon(grad)
            raise
        self._cleared = False
        self._scaling.note()
        return mean

    @property
    def last(self) -> m_sam.Last | None:
        """With ``m``, losses and gradient norms of the groups of the last batch; None where the loop was taken."""
        return None if self._engine is None else self._engine.last

    def plan(self) -> None:
        """Print how the last step with ``m`` held the groups' gradients, and what that took."""
        if self.m is None:
            raise RuntimeError("plan() is for m-SAM: give SAM an m")
        print(m_sam.Engine(MSamHost(self)).plan() if self._engine is None else self._engine.plan())

    def _update(self) -> None:
        if self._evaluated:
            self._scaling.check_step(self.base)
            self._scaling.forget()
        evaluated, self._evaluated = self._evaluated, 0
        if evaluated:
            if not self._fsdp.modules and all(param.grad is None for param in self._params()):
                raise RuntimeError(
                    "no parameter has a gradient: was backward() called in the last pass, and zero_grad() only after "
                    "step()? To leave a batch out, call optimizer.skip() before `continue` or `break`"
                )
            if (self._needs_scale or self.l2) and not self._told:
                self._refuse_unknown_scale()
            if self._learns:
                self._learn()
            self._count()
        else:
            self._warn_of_a_plain_step()
            # torch.distributed.checkpoint makes such a step, of zeros, to see what state there will be.
            self._memory.make(param for param in self._params() if param.grad is not None)
        grad = torch.is_grad_enabled()
        try:
            self.base.step()
        except Exception as error:
            told = bases.explain(self.base, error)
            if told is None:
                raise
            raise told from error
        except BaseException:
            recording(grad)  # an interrupt may keep torch's own step from doing it
            raise
        if self._beside:
            self._beside.step(self.base)
        self._forget_copies_of_weights()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        self._beside.clear()
        self._scaling.forget()
        self._cleared = True
        self.base.zero_grad(set_to_none)

    def _refuse_unknown_scale(self) -> None:
        if amp.inside_scaler():
            raise RuntimeError(
                f"the loss was scaled, and {'l2' if self.l2 else self._rules} needs to know by what: hand the "
                "GradScaler to the passes, too: optimizer.passes(scaler=scaler)"
            )

    def _refuse_in_scaler(self) -> None:
        if amp.inside_scaler():
            how = "optimizer.backward(closure, scaler=scaler)" if self.per_example else _PASSES_WITH_SCALER
            raise RuntimeError(
                "scaler.step(optimizer, closure) unscales before the closure runs: the update would be as much too "
                f"large as the loss is scaled. Instead: {how}, then scaler.step(optimizer)"
            )

    @unrecorded
    def _learn(self) -> None:
        owners = [param for param in self._trainable()[0] if param.grad is not None]
        pieces = [local(settled(param, param.grad)) for param in owners]
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
                "closure. Where a library runs the loop, lowland.adapters has what it takes. For a plain step on "
                "purpose call optimizer.base.step().",
                stacklevel=4,
            )

    # State.

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's state_dict, with ``rho`` and the number of steps in each group: all a resume needs.

        If that has a layout of its own, it is the entry ``"base"``, and SAM's part the entry ``"sam"``.

        Raises:
            RuntimeError: between `ascent` and `perturbed`, whose perturbation is not part of it.
        """
        if self._pass is not None or self._climb is not None:
            raise RuntimeError("state_dict() in the middle of a step: finish its passes first")
        self._back_to_w()
        return self._hooked_state_dict()

    def _save(self) -> dict[str, Any]:
        state_dict, params = self.base.state_dict(), list(self._params())
        if not layout.is_torchs(state_dict, params):
            return layout.pack(
                state_dict, self.param_groups, ("rho", STEPS), self._memory.save(dict(enumerate(params)), {})
            )
        if self._memory:
            state_dict["state"] = self._memory.save(self._keyed(state_dict), state_dict["state"])
        return state_dict

    @property  # type: ignore[misc]
    def state(self) -> Any:
        """The base optimizer's, with what the rules remember beside it."""
        memory, of_base = getattr(self._own, "_memory", None), getattr(self.base, "state", {})
        return memory.save({p: p for p in self._params()}, of_base) if memory else of_base

    @state.setter
    def state(self, value: Any) -> None:
        self.base.state = value

    def _keyed(self, state_dict: dict[str, Any]) -> dict[Any, Tensor]:
        """The parameters by what a state_dict calls them: numbers, or, from torch.distributed.checkpoint, names."""
        return dict(
            zip((key for group in state_dict["param_groups"] for key in group["params"]), self._params(), strict=True)
        )

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
        params = list(self._params())
        if layout.is_torchs(state_dict, params):
            bare, remembered = split(state_dict["state"])
            self.base.load_state_dict({**state_dict, "state": bare})
            self._memory.load(self._keyed(state_dict), remembered)
        elif layout.is_packed(state_dict):
            saved: Any = state_dict[layout.OWN]
            self.base.load_state_dict(state_dict[layout.BASE])
            self._memory.load(dict(enumerate(params)), saved["memory"])
            for group, values in zip(self.param_groups, saved["groups"], strict=True):
                group.update(values)
        else:  # the base optimizer's, in a layout of its own or one that it refuses
            self.base.load_state_dict(state_dict)
            self._memory.load({}, {})
        for group, values in zip(self.param_groups, own, strict=True):
            for key, value in values.items():
                group.setdefault(key, value)
        if self._schedule is None and self._rho > 0 and self._stays:
            warnings.warn(
                "rho is 0 in this checkpoint, as a schedule may have left it, and this SAM has no schedule: until you "
                "set group['rho'], its steps are the base optimizer's",
                stacklevel=4,
            )
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """For copying and pickling: as torch's optimizers, without hooks and without a pass under way."""
        own = (
            "base", "model", "m", "l2", "ascent_rule", "descent_rule", "eps", "same_masks", "freeze", "audit",
            "memory_limit", "perturbed_norms", "_memory", "_rho", "_schedule", "_scheduled", "_scope", "scope",
        )  # fmt: skip
        return {name: getattr(self, name) for name in own} | {"keep_on": self.keep_on}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        state = dict(state)
        keep_on = state.pop("keep_on")
        super().__setstate__(state)
        self._displacement = Displacement(keep_on)
        self._forget()

    def __repr__(self) -> str:
        rules = "" if self.is_plain else f", {self._rules}" + (", scope" if self.scope is not None else "")
        schedule = ", scheduled" if self._schedule is not None else ""
        radii = [group.get("rho", self._rho) for group in self.param_groups]
        l2 = f", l2={self.l2}" if self.l2 else ""
        return f"SAM(rho={radii}{schedule}{l2}{rules}, base={self.base!r})"


def _refuse_twice(params: Iterable[Any]) -> None:
    """Torch only warns, and a gradient that counts twice makes another norm."""
    seen = [param for param in params if isinstance(param, Tensor)]
    if len(set(seen)) < len(seen):
        shapes = ", ".join({str(tuple(p.shape)) for p in seen if sum(p is other for other in seen) > 1})
        raise ValueError(
            f"a parameter stands twice in the parameter groups, of shape {shapes} (tied weights of two modules, say): "
            "name each once, as model.parameters() does"
        )


def _changed(params: list[Tensor], before: list[tuple[Tensor | None, int | None]]) -> bool:
    return any(
        param.grad is not gradient or (gradient is not None and local(gradient)._version != version)
        for param, (gradient, version) in zip(params, before, strict=True)
    )
