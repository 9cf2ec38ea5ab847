"""Arguments that other libraries' SAM takes: said in their names what they are here."""

import inspect
from collections.abc import Callable, Mapping, Sequence

from torch.optim import Optimizer

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
    "use_gc": "gradient centralization, use_gc=, has no counterpart here",
} | dict.fromkeys(_OF_THE_BASE, "")


def check(build: Callable[..., Optimizer], arguments: Sequence[object], named: Mapping[str, object]) -> None:
    """Raise TypeError for arguments to ``build`` that are another library's, with what to write in their place."""
    given = arguments[1] if len(arguments) > 1 else named.get("base_optimizer")
    is_class = isinstance(given, type) and issubclass(given, Optimizer)
    others = [name for name in named if name in _OTHERS]
    if not is_class and not others:
        return
    known = inspect.signature(build).parameters
    others = [name for name in others if name not in known]
    if "base_optimizer" in known or not (others or is_class):  # as `lowland.compat.SAM` has it
        return
    name = getattr(build, "__name__", "SAM")
    if is_class or {"base_optimizer", "params"} & set(others):
        made = given.__name__ if isinstance(given, type) else "torch.optim.SGD"
        adaptive = f" (adaptive SAM is {_ASAM})" if named.get("adaptive") else ""
        raise TypeError(
            f"{name} goes around an optimizer that is made: {name}({made}(params, lr=...), rho=...){adaptive}. A loop "
            f"written for SAM(params, {made}, rho=..., lr=...), with first_step and second_step, runs with "
            "lowland.compat.SAM"
        )
    says = [_OTHERS[other] for other in others if _OTHERS[other]]
    if not says:
        says = [f"{others[0]}= is the base optimizer's: {name}(torch.optim.SGD(params, {others[0]}=...), rho=...)"]
    raise TypeError(f"{name} has no argument {others[0]}: {says[0]}")
