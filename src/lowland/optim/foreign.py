"""Arguments and methods that SAM and the presets don't have, other libraries' or misspelt: what to write instead."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch.optim import Optimizer

from lowland.errors import suggestion

_OF_THE_BASE = (
    "lr", "momentum", "dampening", "weight_decay", "nesterov", "betas", "amsgrad", "maximize", "foreach", "fused",
)  # fmt: skip
_ASAM = (
    "lowland.optim.presets.ASAM(base, rho=...): as its authors have it, or with eta=0.0, biases=True as adaptive=True "
    "has it elsewhere"
)
#: By name, what it is here.
_OTHERS = {
    "adaptive": f"adaptive SAM is {_ASAM}",
    "eta": f"eta is a setting of adaptive SAM, {_ASAM}",
    "base_optimizer": "",
    "params": "",
    "optimizer": "the base optimizer is the first argument, without a name",
    "perturb_eps": "perturb_eps is eps= here",
    "radius": "radius is rho= here",
    "use_gc": "gradient centralization, use_gc=, has no counterpart here",
} | dict.fromkeys(_OF_THE_BASE, "")
_PASSES = (
    "a loop that calls {} runs unchanged with lowland.compat.SAM in place of lowland.SAM; new code has "
    "`for evaluation in optimizer.passes():` (docs/migrating.md)"
)
#: What other libraries' SAM can do, by name: what to write here.
METHODS = dict.fromkeys(("first_step", "second_step"), _PASSES.format("first_step and second_step")) | dict.fromkeys(
    ("ascent_step", "descent_step"),
    "where it is called stands a pass, `for evaluation in optimizer.passes():` (docs/migrating.md)",
)


def check(
    build: Callable[..., Optimizer],
    arguments: Sequence[object],
    named: Mapping[str, object],
    common: Iterable[str] = (),
) -> None:
    """Raise TypeError for arguments that ``build`` doesn't have, another library's or misspelt, with what to write.

    Args:
        build: makes the optimizer.
        arguments: those without a name.
        named: the others.
        common: the names that ``build`` hands on to SAM.
    """
    given = arguments[1] if len(arguments) > 1 else named.get("base_optimizer")
    is_class = isinstance(given, type) and issubclass(given, Optimizer)
    if not is_class and not named:
        return
    taken = inspect.signature(build).parameters.values()
    own = [parameter.name for parameter in taken if parameter.kind is not parameter.VAR_KEYWORD]
    if "base_optimizer" in own or (len(own) < len(taken) and not common):  # as `lowland.compat.SAM` has it
        return
    known = {*own, *common}
    unknown = [argument for argument in named if argument not in known]
    if not is_class and not unknown:
        return
    name = getattr(build, "__name__", "SAM")
    if is_class or {"base_optimizer", "params"} & set(unknown):
        made = given.__name__ if isinstance(given, type) else "torch.optim.SGD"
        adaptive = f" (adaptive SAM is {_ASAM})" if named.get("adaptive") else ""
        raise TypeError(
            f"{name} goes around an optimizer that is made: {name}({made}(params, lr=...), rho=...){adaptive}. A loop "
            f"written for SAM(params, {made}, rho=..., lr=...), with first_step and second_step, runs with "
            "lowland.compat.SAM"
        )
    # What says most about where the call comes from is explained.
    first = max(unknown, key=lambda argument: (bool(_OTHERS.get(argument)), argument in _OTHERS))
    if first in _OTHERS:
        of_base = f"{first}= is the base optimizer's: {name}(torch.optim.SGD(params, {first}=...), rho=...)"
        raise TypeError(f"{name} has no argument {first}: {_OTHERS[first] or of_base}")
    others = f" Its own are {', '.join(own[1:])}; the others are those of lowland.SAM." if common else ""
    raise TypeError(f"{name} has no argument {first}.{suggestion(first, known)}{others}")


def check_closure(closure: object, method: str) -> None:
    """Raise TypeError for a ``closure`` that ``method`` can't call: a loss, say, which was computed once, at w."""
    if not callable(closure):
        raise TypeError(
            f"{method} takes a function that computes the loss anew in each pass, not a {type(closure).__name__}: "
            f"`def closure(): ...; return loss` and {method[:-1]}closure), or `for evaluation in optimizer.passes():`"
        )
