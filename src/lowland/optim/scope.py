"""Which parameters climb. The others are not perturbed, and don't count in the norm of the ascent gradient."""

import re
from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from lowland.torch_tools import Scope, parameters_in, unwrapped

_TORCHS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # the first: of batches and of instances
_NORM = re.compile(r"norm(alization)?([123]d)?$|^GRN$", re.IGNORECASE)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+(?:\d+d)?|\d+")


def normalization_layers(model: nn.Module) -> list[Tensor]:
    """Scales and shifts of every normalization layer: SAM-ON.

    (Mueller et al. 2023, *Normalization Layers Are All That Sharpness-Aware Minimization Needs*.) Those are torch's,
    what is derived from them, and layers of others that are called so, by a word (``LlamaRMSNorm``,
    ``ConvNextV2GRN``, not ``NormalHead``), hold no other layers, and have but one number for each channel in each
    parameter (not a ``NormedLinear``).
    """
    return [p for module, own_parameters in layers(model) if is_normalization(module) for p in own_parameters]


def last_layer(model: nn.Module) -> list[Tensor]:
    """Parameters of the last layer with a trainable weight of two dimensions or more, in the order of registration.

    That is the classifier of most networks; where it isn't, hand ``scope`` the module itself. Normalization layers are
    passed over, whatever the shape of their weights.
    """
    found: list[Tensor] = []
    for module, own_parameters in layers(model):
        if any(p.ndim > 1 and p.requires_grad for p in own_parameters) and not is_normalization(module):
            found = own_parameters
    return found


def layers(model: nn.Module) -> Iterator[tuple[nn.Module, list[Tensor]]]:
    """Each module with the parameters that are its own, not those of modules in it, in the order of registration.

    What takes the place of a parameter belongs to the layer: the parametrizations of
    `torch.nn.utils.parametrizations`, and what is around a ``base_layer``, as peft's adapters are. Such an adapter
    comes as its ``base_layer``.
    """
    seen: set[nn.Module] = set()

    def visit(module: nn.Module) -> Iterator[tuple[nn.Module, list[Tensor]]]:
        if module in seen:
            return
        seen.add(module)
        children = dict(module._modules.items())
        base = children.get("base_layer")
        if base is not None:
            seen.update(module.modules())
            while isinstance(getattr(base, "base_layer", None), nn.Module):
                base = base.base_layer  # type: ignore[assignment]
            yield base, [*module.parameters()]
            return
        own_parameters: list[Tensor] = [*module.parameters(recurse=False)]
        parametrizations = children.get("parametrizations") if parametrize.is_parametrized(module) else None
        if parametrizations is not None:
            seen.update(parametrizations.modules())
            own_parameters = [*parametrizations.parameters(), *own_parameters]
        yield module, own_parameters
        for child in children.values():
            if child is not None:
                yield from visit(child)

    return visit(model)


def is_normalization(module: nn.Module) -> bool:
    """Whether ``module`` is a normalization layer: see `normalization_layers`."""
    if isinstance(module, _TORCHS):
        return True
    names = [kind.__name__ for kind in type(module).__mro__] + [getattr(module, "original_name", "")]  # a script's
    if not any(_NORM.search(word) for name in names for word in _WORDS.findall(name)):
        return False
    own_parameters = list(module.parameters())
    alone = len(own_parameters) == sum(len(list(p)) for _, p in layers(module) if _ is module)
    return alone and all(p.numel() == max(p.shape, default=1) for p in own_parameters)


def resolve(scope: Scope, model: nn.Module | None, params: Iterable[Tensor]) -> set[Tensor] | None:
    """The parameters of an optimizer that climb, or None for all.

    Raises:
        TypeError: for something that gives no parameters.
        ValueError: for a function without a model, or if it gives none of ``params``.
    """
    if scope is None:
        return None
    members = parameters_in(scope, model)
    if members.isdisjoint(params):
        raise ValueError(
            f"{describe(scope, members, model)}: none of the optimizer's parameters, so that nothing would climb; hand "
            "scope= a module or parameters that it has"
        )
    return members


def describe(scope: Scope, members: Iterable[Tensor], model: nn.Module | None) -> str:
    """What ``scope`` has chosen, by the model's names for it, for a message."""
    names: dict[Tensor, str] = {} if model is None else {p: name for name, p in unwrapped(model).named_parameters()}
    of = sorted(names.get(p, f"a parameter of shape {tuple(p.shape)}") for p in members)
    shown = ", ".join(of[:8]) + (f" and {len(of) - 8} more" if len(of) > 8 else "")
    who = getattr(scope, "__name__", "the scope")
    return f"{who} chose {shown or 'no parameters'}"
