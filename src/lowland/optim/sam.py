"""SAM: an optimizer around an optimizer, for the training loop one already has."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowland.optim import amp, grouped, parallel
from lowland.optim.ascent import Climb, l2
from lowland.optim.batch_norm import SavedStatistics, statistics
from lowland.optim.displacement import Displacement
from lowland.optim.functional import EPS, check_rho
from lowland.optim.randomness import random_states, replay
from lowland.optim.sharding import global_norm, local_pair

Rho = float | Callable[[int], float]

STEPS = "sam_steps"  # in every parameter group: what saves optimizers elsewhere carries groups, and often nothing else


class _OfBase:
    """An attribute that is the base optimizer's, to read, to set and to delete."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, sam: Any, owner: type | None = None) -> Any:
        return self if sam is None else getattr(sam.base, self.name)

    def __set__(self, sam: Any, value: Any) -> None:
        setattr(sam.base, self.name, value)

    def __delete__(self, sam: Any) -> None:
        delattr(sam.base, self.name)


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
    """What to move, along what, by how much; and whether an overflow is a scaler's business."""

    weights: list[Tensor]
    directions: list[Tensor]
    rhos: list[float]
    climb: Climb
    scaled: bool


class SAM(Optimizer):
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

    # What schedulers, trainers, scalers and users reach for is the base optimizer's own.
    param_groups: list[dict[str, Any]] = _OfBase()  # type: ignore[assignment]
    state: Any = _OfBase()
    defaults: dict[str, Any] = _OfBase()  # type: ignore[assignment]
    # A GradScaler sets these two around the step of an optimizer that takes the scale itself.
    grad_scale: Any = _OfBase()
    found_inf: Any = _OfBase()

    def __init__(
        self,
        base: Optimizer,
        rho: Rho = 0.05,
        *,
        model: nn.Module | None = None,
        m: int | None = None,
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
        if m is not None:
            grouped.check(m, model, params)
        self.base, self.model, self.m, self.eps, self.same_masks = base, model, m, eps, same_masks
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
        # Not Optimizer.__init__, which would make groups and state of its own beside the base's; this sets up
        # hooks and profiling as unpickling does.
        super().__setstate__({})

    def _forget(self) -> None:
        """No pass is under way, and none was."""
        self._pass: str | None = None
        self._climb: _Plan | None = None
        self._states: list[Any] | None = None
        self._statistics: SavedStatistics | None = None
        self._fsdp = parallel.Fsdp(None, ())
        self._evaluated = self._warned = False

    def __getattr__(self, name: str) -> Any:
        # What else the base optimizer can do: train() and eval() of a schedule-free one, say.
        if name == "base" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.base, name)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the group's ``rho`` is this optimizer's unless it brings one."""
        if "rho" in param_group:
            _radius(param_group["rho"])
        self.base.add_param_group(param_group)
        self._complete_groups()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        self.base.zero_grad(set_to_none)

    @property
    def steps(self) -> int:
        """SAM steps made so far; those that a scaler skips don't count, unless a fused base optimizer skips them."""
        return self.param_groups[0][STEPS]

    @property
    def under_way(self) -> str | None:
        """The pass under way: ``"ascent"``, ``"perturbed"`` or ``"plain"``; else None, and the weights are w."""
        return self._pass or ("perturbed" if self._displacement.displaced else None)

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

        Two for SAM; one where every group has rho 0. Parameters that another optimizer updates get the gradients of
        both passes added, so clear theirs between. Gradients accumulated so far are kept, and the last
        pass adds to them.

        Args:
            scaler: as in `ascent`.
            sync: as in `ascent`.
        """
        self._refuse_m("passes()")
        self._complete_groups()
        if all(group["rho"] == 0 for group in self.param_groups):
            yield self._plain()
        else:
            yield self._ascent(scaler, sync)
            yield self.perturbed()

    def ascent(self, scaler: Any = None, sync: bool = True) -> AbstractContextManager[None]:
        """The pass at w: inside, ``backward`` fills the ascent gradient.

        Gradients accumulated so far are set aside and are back afterwards. After an exception inside, the
        optimizer is as it was before.

        Args:
            scaler: the ``GradScaler`` by which the loss is scaled in both passes. Then ``eps`` is meant for the
                gradient proper, and an overflow makes the scaler skip the step and back off. Without it, an
                ascent that overflows makes the step the base optimizer's own.
            sync: whether DDP averages the ascent gradient over its processes. If not, each climbs along its own:
                m-SAM, with m the batch of one process. False needs ``model``, the DDP wrapper.

        Raises:
            RuntimeError: inside another pass, or if no parameter received a gradient.
            ValueError: for ``sync=False`` without DDP.
        """
        self._refuse_m("ascent()")
        self._complete_groups()
        return self._ascent(scaler, sync)

    @contextmanager
    def _ascent(self, scaler: Any = None, sync: bool = True) -> Iterator[None]:
        self._ready("ascent pass")
        self._climb = None
        self._fsdp = parallel.Fsdp(self.model, self._params())
        params, rhos = self._members()
        held = [parallel.set_aside(param.grad) for param in params]
        try:
            self._pass = "ascent"
            for param in params:
                param.grad = None
            with parallel.ascending(self.model, self._fsdp, sync):
                if self.same_masks:
                    self._states = random_states(params)
                yield
            gradients = [param.grad for param in params]
        finally:
            for param, gradient in zip(params, held, strict=True):
                param.grad = gradient
            self._pass = None
        with torch.no_grad():
            self._climb = self._plan(params, gradients, rhos, scaler, sync)

    def _plan(
        self, params: list[Tensor], gradients: list[Tensor | None], rhos: list[float], scaler: Any, sync: bool
    ) -> "_Plan":
        owners, weights, pieces, radii = [], [], [], []
        for param, gradient, rho in zip(params, gradients, rhos, strict=True):
            if gradient is not None:
                weight, piece = local_pair(param, gradient)
                owners.append(param)
                weights.append(weight)
                pieces.append(piece)
                radii.append(rho)
        if not owners:
            raise RuntimeError(
                "no parameter received a gradient in the ascent pass: was backward() called? "
                "(With FSDP2, set_requires_gradient_sync(False) and set_requires_all_reduce(False) keep "
                "gradients from the optimizer: leave them on for the ascent.)"
            )
        directions, measured = self._directions(owners, weights, pieces)
        climb = l2(global_norm(params, owners, measured), self.eps, amp.loss_scale(scaler, pieces[0]))
        if not sync and scaler is not None:
            climb = Climb(climb.factor, parallel.anywhere(climb.overflow, self.model))
        return _Plan(weights, directions, radii, climb, scaler is not None)

    def _directions(
        self, owners: list[Tensor], weights: list[Tensor], gradients: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Along what to climb, and of what to take the norm."""
        return gradients, gradients

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """The pass at w + ε: inside, the weights are w + ε, and ``backward`` adds to ``p.grad``.

        On the way out the weights are w again, bit for bit, exception or not, and so are the batch-norm
        statistics of ``model``.

        Raises:
            RuntimeError: inside another pass, or without an `ascent` since the last time.
        """
        if self._pass is None and self._climb is None:
            raise RuntimeError("perturbed() needs an ascent() before it, to know where to climb")
        self._ready("perturbed pass")
        try:
            self._pass = "perturbed"
            plan, self._climb = self._climb, None
            assert plan is not None
            try:
                self._leave_w(plan)
                yield
            finally:
                self._back_to_w()
            if plan.scaled:
                amp.pass_on_overflow(plan.climb.overflow, [p.grad for p in self._params() if p.grad is not None])
            self._evaluated = True
        finally:
            self._pass = None

    def _leave_w(self, plan: "_Plan") -> None:
        with torch.no_grad():
            self._displacement.move(plan.weights, plan.directions, plan.rhos, plan.climb)
        plan.directions.clear()  # while new gradients grow
        self._forget_copies_of_weights()
        if self._states is not None:
            replay(self._states)
        if self.model is not None and (buffers := statistics(self.model)):
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

    def _members(self) -> tuple[list[Tensor], list[float]]:
        """The parameters that may climb, and the radius of each."""
        params, rhos = [], []
        for group in self.param_groups:
            rho = group["rho"]
            for param in group["params"]:
                if param.requires_grad:
                    params.append(param)
                    rhos.append(rho)
        return params, rhos

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
        hooked = type(self).step is SAM.step
        for before in self._optimizer_step_pre_hooks.values() if hooked else ():
            replaced = before(self, (closure,), {})
            if replaced is not None:
                arguments, named = replaced
                closure = named.get("closure", *arguments)
        result = self._step(closure)
        for after in self._optimizer_step_post_hooks.values() if hooked else ():
            after(self, (closure,), {})
        return result

    # Not to be wrapped by torch: hooks are seen to, and the profiler sees the base optimizer's step.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        losses = []
        self._ready("step()")
        if closure is not None:
            self._climb = None
            self.zero_grad()
            if self.m is not None:
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

    def backward(self, closure: Callable[[], Tensor]) -> Tensor:
        """With ``m``: add the m-SAM gradient of a batch to ``p.grad``; the base step is left to `step`.

        Args:
            closure: returns the loss of each example, shape (batch,), and runs no backward.

        Returns:
            The mean loss at w, a 0-d tensor.

        Raises:
            RuntimeError: without ``m``.
            ValueError: if ``closure`` returns something else, or the model couples the examples of a batch.
        """
        if self.m is None:
            raise RuntimeError("backward() is for m-SAM: give SAM an m, or run backward in passes()")
        return grouped.backward(self, closure)

    def _refuse_m(self, what: str) -> None:
        if self.m is not None:
            raise RuntimeError(f"{what} has one perturbation for all: with m use step(closure) or backward(closure)")

    def _update(self) -> None:
        evaluated, self._evaluated = self._evaluated, False
        if evaluated:
            if not self._fsdp.modules and all(param.grad is None for param in self._params()):
                raise RuntimeError(
                    "no parameter has a gradient: was backward() called in the last pass, and zero_grad() only after "
                    "step()?"
                )
            self._count()
        else:
            self._warn_of_a_plain_step()
        self.base.step()
        self._forget_copies_of_weights()

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
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self.base.state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            replaced = after(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load a `state_dict`, or one of the bare base optimizer: then rho and the number of steps stay."""
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = before(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        self._not_inside("load_state_dict()")
        if self._displacement.overwritten:  # the weights were loaded first
            self._displacement.forget()
        self._back_to_w()
        self._complete_groups()
        own = [{key: group[key] for key in ("rho", STEPS)} for group in self.param_groups]
        self.base.load_state_dict(state_dict)
        for group, values in zip(self.param_groups, own, strict=True):
            for key, value in values.items():
                group.setdefault(key, value)
        self._forget()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        """For copying and pickling: as torch's optimizers, without hooks and without a pass under way."""
        own = ("base", "model", "m", "eps", "same_masks", "_schedule", "_rho", "_scheduled")
        return {name: getattr(self, name) for name in own} | {"keep_on": self._displacement.keep_on}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        self._displacement = Displacement(state.pop("keep_on"))
        self._forget()
        super().__setstate__(state)

    def __repr__(self) -> str:
        return f"SAM(rho={[group.get('rho', self._rho) for group in self.param_groups]}, base={self.base!r})"
