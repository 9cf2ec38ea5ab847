"""The methods that are compared: SGD, SAM, LSAM, and SAM with one of the two effects that the paper explains it by.

Take a network f(x) = vᵀh(x) with last layer v and features h, whose weights are W; J is the derivative of h by W. The
gradient of the mean logistic loss log(1 + exp(−y f(x))) over n examples is, with λᵢ = sigmoid(−yᵢ f(xᵢ)),

    by v:  (1/n) Σᵢ −yᵢ λᵢ hᵢ          by W:  (1/n) Σᵢ −yᵢ λᵢ Jᵢᵀ v

SAM takes it at the phantom parameters w + e, which are marked by a hat:

    by v:  (1/n) Σᵢ −yᵢ λ̂ᵢ ĥᵢ          by W:  (1/n) Σᵢ −yᵢ λ̂ᵢ Ĵᵢᵀ v̂

Two of the changes are the effects: the phantom importance weights λ̂ say which examples pull, and the phantom last layer
v̂ scales the gradient of everything before it, of each feature by its own factor v̂ⱼ/vⱼ, as a learning rate would. Each
alone, everything else at w:

    only the weights:   by v:  (1/n) Σᵢ −yᵢ λ̂ᵢ hᵢ     by W:  (1/n) Σᵢ −yᵢ λ̂ᵢ Jᵢᵀ v
    only the scaling:   by v:  (1/n) Σᵢ −yᵢ λᵢ hᵢ     by W:  (1/n) Σᵢ −yᵢ λᵢ Jᵢᵀ v̂

With both, λ̂ᵢ hᵢ and λ̂ᵢ Jᵢᵀ v̂, what still differs from SAM is ĥ and Ĵ, the features' own perturbation. LSAM, which
perturbs the last layer alone, has none: there both together are its gradient exactly.

For k classes (ours) v is a matrix (k, features), and −yᵢ λᵢ becomes the gradient of the cross-entropy by the logits,
pᵢ − onehot(yᵢ), a vector. "Only the weights" puts the whole phantom vector p̂ᵢ − onehot(yᵢ) in its place: its norm,
which is the importance weight, and its direction. A bias of the last layer counts to v, with a feature that is 1.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.checks import check_rho
from lowland.optim import SAM
from lowland.optim.buffers import Buffers
from lowland.optim.functional import perturbation
from lowland.optim.scope import Scope, last_layer, resolve
from lowland.training import Settings

METHODS = ("sam", "lsam", "phantom-weights", "phantom-scaling")
SGD = "sgd"  # whatever the method, if ρ is 0
ARMS: Mapping[str, Mapping[str, Any]] = {SGD: {"rho": 0.0}, **{name: {"method": name} for name in METHODS}}
LSAM_NOTE = "ours: that LSAM perturbs the last layer alone is our reading of its name"


class Mechanism:
    """An optimizer around an optimizer, as `lowland.SAM` is, along the gradients of this module's docstring.

    A step takes two gradients at w and one forward pass at w + e, where e is SAM's: ρ g/‖g‖ over the parameters in
    scope. Batch-norm statistics are those of the first pass.

    Args:
        base: makes the update.
        rho: radius ρ ≥ 0; with 0 a step is the base optimizer's.
        model: called with positional arguments, once an evaluation; its last linear layer, in the order of
            registration, is what the docstring calls v, and gives its logits.
        weights: whether examples have their phantom importance weights.
        scaling: whether gradients go through the phantom last layer.
        scope: which parameters e perturbs, as for `lowland.SAM`.

    Raises:
        ValueError: for ρ out of range, or a network without a linear layer.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float,
        model: nn.Module,
        *,
        weights: bool,
        scaling: bool,
        scope: Scope = None,
    ):
        check_rho(rho)
        self.base, self.rho, self.model, self.last = base, rho, model, last_linear(model)
        self.param_groups = base.param_groups
        self.weights, self.scaling = weights, scaling
        wanted = resolve(scope, model, list(model.parameters()))
        self.perturbed = {
            name: p for name, p in model.named_parameters() if p.requires_grad and (wanted is None or p in wanted)
        }

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self.param_groups = self.base.param_groups

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Update; the loss at w. ``closure`` does the forward pass, ``backward``, and returns the loss."""
        self.base.zero_grad()
        inputs: list[tuple[Any, ...]] = []
        with torch.enable_grad(), self.model.register_forward_pre_hook(lambda _, args: inputs.append(args)):
            loss = closure()
        if self.rho > 0:
            saved = Buffers(self.model)
            phantom = self._phantom()
            self.base.zero_grad()
            with torch.enable_grad(), self._weighted(phantom, inputs[-1]), self._scaled(phantom):
                closure()
            saved.undo()
        self.base.step()
        return loss

    def _phantom(self) -> dict[str, Tensor]:
        """Name → parameter at w + e, of those that are perturbed."""
        gradient = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in self.perturbed.items()}
        e = perturbation(gradient, self.rho)
        return {name: p.detach() + e[name] for name, p in self.perturbed.items()}

    def _weighted(self, phantom: dict[str, Tensor], inputs: tuple[Any, ...]) -> AbstractContextManager[Any]:
        """The model gives the logits at ``phantom``, whose gradient goes back through the network as it is."""
        if not self.weights:
            return nullcontext()
        with torch.no_grad():
            given = torch.func.functional_call(self.model, phantom, inputs)
        return self.model.register_forward_hook(lambda _, args, logits: logits + (given - logits).detach())

    def _scaled(self, phantom: dict[str, Tensor]) -> AbstractContextManager[Any]:
        """The last layer gives what it gives, but the gradient by its input goes through its ``phantom`` weight."""
        if not self.scaling:
            return nullcontext()
        name = next(name for name, p in self.model.named_parameters() if p is self.last.weight)
        weight = phantom.get(name, self.last.weight.detach())

        def scaled(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            (features,) = args
            path = F.linear(features, weight)
            return F.linear(features.detach(), self.last.weight, self.last.bias) + (path - path.detach())

        return self.last.register_forward_hook(scaled)


def last_linear(model: nn.Module) -> nn.Linear:
    """The last linear layer in the order of registration, which gives the logits; ValueError if there is none."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("the network has no linear layer that would give its logits")
    return linear[-1]


def make_optimizer(method: str, base: torch.optim.Optimizer, rho: float, model: nn.Module) -> SAM | Mechanism:
    """The optimizer of one of `METHODS` around ``base``; with ``rho`` 0 it is SGD for each."""
    if rho == 0 or method == "sam":
        return SAM(base, rho=rho, model=model)
    if method == "lsam":
        return SAM(base, rho=rho, model=model, scope=last_layer, freeze=True)
    return Mechanism(base, rho, model, weights=method == "phantom-weights", scaling=method == "phantom-scaling")


def method_of(settings: Settings) -> str:
    """`SGD`, or one of `METHODS`."""
    return SGD if settings.rho == 0 else str(settings.method)  # type: ignore[attr-defined]


def toy_arm(method: str, rho: float) -> str:
    """The name of the toys' arm of that ρ: ``sam-rho-0.1``."""
    return f"{method}-rho-{rho:g}"
