"""SAM with the interface that most training scripts use: ``first_step`` and ``second_step``.

A loop written for a library with this interface runs unchanged. In new code prefer `lowland.SAM`: there an exception
between the passes can't leave the weights perturbed.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lowland.assigning import unassignable
from lowland.optim import foreign, layout, sam
from lowland.optim.ascent import Adaptive, Ascent
from lowland.optim.buffers import Buffers
from lowland.optim.core import Core
from lowland.optim.functional import EPS
from lowland.optim.passes import climb
from lowland.optim.update import update
from lowland.torch_tools import level_of_caller

_THEIR_STATE = ("old_p", "e_w")  # keys that these libraries keep in a parameter's state, and save


class _Adaptive(Adaptive):
    """The adaptive ascent with η = 0, for some of the parameters only: those of parameter groups with ``adaptive``."""

    def __init__(self, members: set[Tensor]):
        super().__init__(eta=0.0, biases=True)
        self.__dict__["members"] = members

    def adapts(self, owner: Tensor, name: Callable[[Tensor], str]) -> bool:
        return owner in self.__dict__["members"]


_TWO_CALLS = "first_step() and second_step() know nothing of it: use lowland.SAM, or a preset of lowland.optim.presets"


@unassignable(
    base_optimizer="it keeps the optimizer that it made. Make a new SAM",
    ascent_rule="it follows from the groups: group['adaptive'] = True is ASAM",
    descent_rule=_TWO_CALLS,
    m=_TWO_CALLS,
    l2=_TWO_CALLS,
    same_masks=_TWO_CALLS,
    freeze=_TWO_CALLS,
    audit=_TWO_CALLS,
    memory_limit=_TWO_CALLS,
    perturbed_norms=_TWO_CALLS,
)
class SAM(sam.SAM):
    """`lowland.SAM` behind the usual two calls.

    A loop that runs with it::

        loss_fn().backward()
        optimizer.first_step(zero_grad=True)
        loss_fn().backward()
        optimizer.second_step(zero_grad=True)

    Compared with those libraries:

    - A gradient that is zero or not finite doesn't destroy the weights.
    - The weights come back bit for bit, in their own memory.
    - The second pass doesn't use casts that autocast cached in the first.
    - The norm is global under FSDP2 and tensor parallelism.
    - Schedulers and step hooks see the step. ``state_dict()`` is complete. Copies work.
    - With ``model``, its buffers (batch-norm statistics, for example) are updated once a step.

    Limits of this interface:

    - The second evaluation starts from the buffers that the first one left, not from those before the step.
    - After an exception between the two calls the weights stay perturbed until the next `first_step`, `second_step`,
      `state_dict` or `restore`.
    - A ``GradScaler`` unscales once a step, so mixed precision with a scaler needs `passes`.

    Args:
        params: parameters, or parameter groups, which may have their own ``rho`` and ``adaptive``.
        base_optimizer: class of the base optimizer, or any function of ``params`` and ``kwargs`` that makes one.
        rho: radius of the ascent.
        adaptive: whether to climb by ε = ρ w² g / (‖|w| g‖ + eps): ASAM (Kwon et al. 2021) with η = 0 and for all
            parameters, as in these libraries. The authors use η = 0.01 and leave biases out.
        model: as in `lowland.SAM`.
        perturb_eps: added to the norm.
        kwargs: arguments of the base optimizer.

    Raises:
        TypeError: if ``base_optimizer`` is an optimizer instead of its class.
        ValueError: as `lowland.SAM`.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
        >>> model(torch.ones(5, 3)).square().mean().backward()
        >>> optimizer.first_step(zero_grad=True)
        >>> model(torch.ones(5, 3)).square().mean().backward()
        >>> optimizer.second_step(zero_grad=True)
    """

    _own: Core

    def __init__(
        self,
        params: Any,
        base_optimizer: Callable[..., torch.optim.Optimizer],
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        model: nn.Module | None = None,
        perturb_eps: float = EPS,
        **kwargs: Any,
    ):
        if isinstance(base_optimizer, torch.optim.Optimizer):
            raise TypeError("base_optimizer is a class here, torch.optim.SGD say; for an optimizer use lowland.SAM")
        self._adaptive = adaptive
        super().__init__(base_optimizer(params, **kwargs), rho, model=model, eps=perturb_eps)

    @property
    def base_optimizer(self) -> torch.optim.Optimizer:
        return self.base

    def _complete_groups(self) -> None:
        super()._complete_groups()
        for group in self.param_groups:
            group.setdefault("adaptive", self._adaptive)
        members = {p for group in self.param_groups if group["adaptive"] for p in group["params"]}
        rule = self._own.options.ascent_rule
        if members != (rule.__dict__["members"] if isinstance(rule, _Adaptive) else set()):
            rule = _Adaptive(members) if members else Ascent()
            self._own.options = replace(self._own.options, ascent_rule=rule)

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Climb along the gradients in ``p.grad``: the weights are w + ε afterwards.

        Args:
            zero_grad: whether to clear the gradients. If not, the next ``backward`` adds to them.

        Raises:
            RuntimeError: inside a pass, or if there is no gradient.

        Warns:
            UserWarning: if the weights were still perturbed, after an exception. They are w again, but the gradients
                are those at w + ε.
        """
        own = self._own
        own.refuse_inside("first_step()")
        if own.displacement.displaced:
            self.restore()
            warnings.warn(
                "first_step() while the weights were still perturbed: they are restored. After an exception between "
                "first_step() and second_step() call restore(), and compute the gradients anew.",
                stacklevel=level_of_caller(),
            )
        self._complete_groups()
        params, rhos = own.trainable()
        gradients = [p.grad for p in params]
        if all(gradient is None for gradient in gradients):
            raise RuntimeError(
                "there is no gradient to climb along: call loss.backward() before first_step() or step(closure). "
                "If closures are called for you (by a trainer, say), use lowland.SAM."
            )
        plan = climb(own, params, gradients, rhos)
        step = own.start()
        step.buffers = None if self.model is None else Buffers(self.model, own.constants)
        step.leave_w(plan)
        if zero_grad:
            self.zero_grad()

    def second_step(self, zero_grad: bool = False) -> None:
        """Go back to w and make the base optimizer's step with the gradients in ``p.grad``.

        Args:
            zero_grad: whether to clear the gradients after the step.

        Raises:
            RuntimeError: without a `first_step` before.
        """
        self._return()
        self.step()
        if zero_grad:
            self.zero_grad()

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Climb along the gradients in ``p.grad``, call ``closure`` at w + ε, go back to w and update.

        Args:
            closure: runs forward and backward. Without it this is the base optimizer's step.

        Raises:
            RuntimeError: if there is no gradient, or in the middle of a step.
        """
        own = self._own
        if closure is not None:
            foreign.check_closure(closure, "step()")
            own.refuse_in_scaler()
            self.first_step(zero_grad=True)
            try:
                with torch.enable_grad():
                    closure()
            except BaseException:
                self.restore()
                raise
            self._return()
        own.refuse_inside("step()")
        if own.displacement.displaced or own.planned:
            raise RuntimeError("step() in the middle of a SAM step: finish it with second_step() or the perturbed pass")
        update(own)

    def restore(self) -> None:
        """Make the weights w again, after an exception between `first_step` and `second_step`."""
        self._own.back_to_w()

    def _return(self) -> None:
        own = self._own
        if not own.displacement.displaced:
            raise RuntimeError("second_step() needs a first_step() before it")
        if own.step is not None and own.step.buffers is not None:
            own.step.buffers.look()
        self.restore()
        own.step = None
        own.pending.evaluated += 1

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load a `state_dict`, that of the base optimizer, or that of a library with this interface.

        Those libraries save weights or perturbations, and often leave the base optimizer's state out.
        """
        if layout.is_torchs(state_dict, list(self._own.params())):
            state = {
                key: {name: value for name, value in of.items() if name not in _THEIR_STATE}
                for key, of in state_dict["state"].items()
            }
            state_dict = {**state_dict, "state": {key: of for key, of in state.items() if of}}
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_adaptive": self._adaptive}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self._adaptive = state.pop("_adaptive")
        super().__setstate__(state)
