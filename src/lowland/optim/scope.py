"""Which parameters climb. The others are not perturbed, and don't count in the norm of the ascent gradient."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from lowland.optim.parallel import ddp, unwrapped

#: A function of the model that gives parameters, one of its modules, or parameters; None for all.
Scope = Callable[[nn.Module], Iterable[Tensor]] | nn.Module | Iterable[Tensor] | None


def normalization_layers(model: nn.Module) -> list[Tensor]:
    """Scales and shifts of every normalization layer: SAM-ON.

    (Mueller et al. 2023, *Normalization Layers Are All That Sharpness-Aware Minimization Needs*.) Those are torch's,
    and any module whose class is called so: ``RMSNorm``, ``LlamaRMSNorm``, ``FrozenBatchNorm2d``.
    """
    return [p for module in model.modules() if "norm" in type(module).__name__.lower() for p in own(module)]


def last_layer(model: nn.Module) -> list[Tensor]:
    """Parameters of the last module with a trainable weight of two dimensions or more, in the order of registration.

    That is the classifier of most networks; where it isn't, hand ``scope`` the module itself.
    """
    last = [module for module in model.modules() if any(p.ndim > 1 and p.requires_grad for p in own(module))]
    return own(last[-1]) if last else []


def own(module: nn.Module) -> list[Tensor]:
    """Parameters of ``module`` itself, not of what is in it."""
    return list(module.parameters(recurse=False))


def resolve(scope: Scope, model: nn.Module | None, params: Iterable[Tensor]) -> set[Tensor] | None:
    """The parameters of an optimizer that climb, or None for all.

    Raises:
        TypeError: for something that gives no parameters.
        ValueError: for a function without a model, or if it gives none of ``params``.
    """
    if scope is None:
        return None
    if isinstance(scope, nn.Module):
        chosen: Iterable[Tensor] = scope.parameters()
    elif callable(scope):
        if model is None:
            raise ValueError("a scope that is a function looks for its parameters in the model: give model=")
        wrapper = ddp(model)
        chosen = scope(unwrapped(model if wrapper is None else wrapper.module))
    else:
        chosen = scope
    members = set(chosen) if isinstance(chosen, Iterable) else {chosen}
    if not all(isinstance(param, Tensor) for param in members):
        raise TypeError("scope= is a function of the model that gives parameters, a module of it, or parameters")
    if members.isdisjoint(params):
        name = getattr(scope, "__name__", "the scope")
        raise ValueError(f"{name} has none of the optimizer's parameters: nothing would climb")
    return members
