"""SAM: an optimizer around an optimizer, for the training loop one already has."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowland.optim import ascent
from lowland.optim.batch_norm import frozen_statistics
from lowland.optim.functional import EPS, check_rho

Rho = float | Callable[[int], float]


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
    groups, ``zero_grad``) works as with the base optimizer, whose state and groups this object shares.

    Args:
        base: any torch optimizer; it makes the update.
        rho: radius of the ascent, in the units of the parameters; or a function of the number of steps made
            so far that gives it. A ``rho`` key in one of the base optimizer's groups wins over this argument;
            where no function sets it, ``group["rho"]`` may be changed at any time, as ``lr`` may. Where every
            group has rho 0, a step takes a single pass and is the base optimizer's own.
        model: if given, its batch-norm statistics are left alone by the perturbed pass.
        eps: added to the gradient norm.

    A gradient that is zero or not finite gives a zero perturbation, without waiting for the device. Memory
    beyond the base optimizer's: one copy of the perturbed parameters.

    Raises:
        TypeError: if ``base`` is no torch optimizer.
        ValueError: for a negative or non-finite rho, or a ``base`` that already is a SAM, or LBFGS.
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

    def __init__(self, base: Optimizer, rho: Rho = 0.05, *, model: nn.Module | None = None, eps: float = EPS):
        if not isinstance(base, Optimizer):
            raise TypeError("SAM goes around an optimizer: SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)")
        if isinstance(base, SAM):
            raise ValueError("the base optimizer already is a SAM: wrap the optimizer inside it")
        if isinstance(base, torch.optim.LBFGS):
            raise ValueError("LBFGS evaluates its closure at points of its own choosing: SAM can't go around it")
        if not 0 <= eps < float("inf"):
            raise ValueError(f"eps is added to the gradient norm: it must be finite and at least 0, not {eps}")
        self.base, self.model, self.eps = base, model, eps
        self.steps = 0
        self._schedule = rho if callable(rho) else None
        self._rho = rho(0) if callable(rho) else rho
        check_rho(self._rho)
        self._scheduled = [index for index, group in enumerate(base.param_groups) if "rho" not in group]
        self._pass: str | None = None
        self._ascended: tuple[list[Tensor], list[Tensor]] | None = None
        self._displaced: tuple[list[Tensor], list[Tensor]] | None = None
        self._complete_groups()
        # Not Optimizer.__init__, which would make groups and state of its own beside the base's; this sets up
        # hooks and profiling as unpickling does.
        super().__setstate__({})

    # What schedulers, trainers and users reach for is the base optimizer's own.

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base optimizer's parameter groups, each with its ``rho``."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base optimizer's state."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's defaults."""
        return self.base.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the group's ``rho`` is this optimizer's unless it brings one."""
        if "rho" in param_group:
            check_rho(param_group["rho"])
        self.base.add_param_group(param_group)
        if "rho" not in param_group:
            self._scheduled.append(len(self.param_groups) - 1)
        self._complete_groups()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        self.base.zero_grad(set_to_none)

    def _complete_groups(self) -> None:
        if self._schedule is not None:
            self._rho = self._schedule(self.steps)
            for index in self._scheduled:
                self.param_groups[index]["rho"] = self._rho
        for group in self.param_groups:
            check_rho(group.setdefault("rho", self._rho))

    # The passes.

    def passes(self) -> Iterator[AbstractContextManager[None]]:
        """The evaluations that one step takes, in order; run forward and backward inside each.

        Two for SAM; one where every group has rho 0. Gradients accumulated so far are kept, and the last
        pass adds to them.
        """
        self._complete_groups()
        if all(group["rho"] == 0 for group in self.param_groups):
            yield self._evaluation("plain")
        else:
            yield self.ascent()
            yield self.perturbed()

    @contextmanager
    def ascent(self) -> Iterator[None]:
        """The pass at w: inside, ``backward`` fills the ascent gradient.

        Gradients accumulated so far are set aside and are back afterwards. After an exception inside, the
        optimizer is as it was before.

        Raises:
            RuntimeError: inside another pass, or if no parameter received a gradient.
        """
        self._complete_groups()
        members = [(p, group["rho"]) for group in self.param_groups for p in group["params"] if p.requires_grad]
        set_aside = [p.grad for p, _ in members]
        with self._evaluation("ascent"):
            try:
                for p, _ in members:
                    p.grad = None
                yield
                climbing = [(p, p.grad, rho) for p, rho in members if p.grad is not None]
            finally:
                for (p, _), gradient in zip(members, set_aside, strict=True):
                    p.grad = gradient
        if not climbing:
            raise RuntimeError("no parameter received a gradient in the ascent pass: was backward() called?")
        params, gradients, rhos = map(list, zip(*climbing, strict=True))
        ascent.l2_(gradients, rhos, self.eps)
        self._ascended = params, gradients

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """The pass at w + ε: inside, the weights are w + ε, and ``backward`` adds to ``p.grad``.

        On the way out the weights are w again, bit for bit, exception or not, and so are the batch-norm
        statistics of ``model``.

        Raises:
            RuntimeError: inside another pass, or without an `ascent` since the last time.
        """
        if self._pass is None and self._ascended is None:
            raise RuntimeError("perturbed() needs an ascent() before it, to know where to climb")
        with self._evaluation("perturbed"):
            params, perturbation = self._ascended  # type: ignore[misc]
            self._ascended = None
            with torch.no_grad():
                self._displaced = params, [p.clone() for p in params]
            try:
                with torch.no_grad():
                    torch._foreach_add_(params, perturbation)
                del perturbation  # one copy of the parameters, not two, while the gradients grow
                with frozen_statistics(self.model):
                    yield
            finally:
                self._put_back()

    def _put_back(self) -> None:
        """Make the weights w again. Kept until it is done: an interrupt may fall into the restoration itself."""
        if self._displaced is not None:
            with torch.no_grad():
                torch._foreach_copy_(*self._displaced)
            self._displaced = None

    @contextmanager
    def _evaluation(self, name: str) -> Iterator[None]:
        if self._pass is not None:
            raise RuntimeError(f"{name} pass inside the {self._pass} pass: leave its `with` block first")
        self._put_back()
        self._pass = name
        try:
            yield
        finally:
            self._pass = None

    # The step.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update the weights with the gradient in ``p.grad``, or with that of ``closure``'s passes.

        Args:
            closure: runs forward and backward and returns the loss. It may clear the gradients or not; they
                are cleared before the first pass.

        Returns:
            What ``closure`` returned at w (its first call), or None without one.

        Raises:
            RuntimeError: inside a pass, or after an `ascent` that no `perturbed` pass followed.
        """
        if self._pass is not None:
            raise RuntimeError(f"step() inside the {self._pass} pass: leave its `with` block first")
        self._put_back()
        losses = []
        if closure is not None:
            self._ascended = None
            self.zero_grad()
            with torch.enable_grad():
                for evaluation in self.passes():
                    with evaluation:
                        losses.append(closure())
        if self._ascended is not None:
            raise RuntimeError("step() after ascent() without perturbed(): the gradient at w + e is missing")
        self.base.step()
        self.steps += 1
        return losses[0] if losses else None

    # State.

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's state_dict, ``rho`` in each group, with ``"sam"`` beside it: all that a resume needs.

        Raises:
            RuntimeError: between `ascent` and `perturbed`, whose perturbation is not part of it.
        """
        if self._pass is not None or self._ascended is not None:
            raise RuntimeError("state_dict() in the middle of a step: finish its passes first")
        self._put_back()
        return {**self.base.state_dict(), "sam": {"steps": self.steps}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load a `state_dict`, or one of the bare base optimizer (then rho and the step count stay as they are)."""
        own = state_dict.get("sam")
        rhos = [group["rho"] for group in self.param_groups]
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != "sam"})
        for group, rho in zip(self.param_groups, rhos, strict=True):
            group.setdefault("rho", rho)
        self.steps = own["steps"] if own is not None else self.steps
        self._ascended = None

    def __getstate__(self) -> dict[str, Any]:
        """For copying and pickling: as torch's optimizers, without hooks and without a pass under way."""
        own = ("base", "model", "eps", "steps", "_schedule", "_rho", "_scheduled")
        return {name: getattr(self, name) for name in own} | {"_pass": None, "_ascended": None, "_displaced": None}

    def __repr__(self) -> str:
        return f"SAM(rho={[group['rho'] for group in self.param_groups]}, base={self.base!r})"
