"""What a SAM was asked for, frozen, and every refusal of it: in the constructor, and where a setting is assigned."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lowland.checks import is_count, number
from lowland.optim import bases, parallel
from lowland.optim import scope as scopes
from lowland.optim.ascent import Ascent
from lowland.optim.descent import Descent
from lowland.optim.scope import Scope
from lowland.optim.sharding import is_distributed
from lowland.torch_tools import ddp, refuse_other_models

MAXIMIZES = (
    "maximize=True: SAM climbs before it descends, so it can only minimize. Leave maximize out, and minimize the "
    "negative of the objective: (-objective).backward()"
)


@dataclass(frozen=True)
class MSam:
    """m-SAM and its settings, for ``SAM(base, model=model, m=MSam(m=1, audit=False))``.

    Attributes:
        m: how many examples share a perturbation; None for plain SAM, where the others say nothing.
        audit: whether two groups are checked against the definition, in the first step, wherever parameters are used in
            a new way, and at batches 10, 100, 1,000, ...: seven evaluations of the batch more. A model that the one
            pass is wrong for goes by the loop then.
        memory_limit: how many bytes the groups' gradients may take between the passes; a batch that takes more goes in
            several parts, each with two passes of its own. None for no limit.
        perturbed_norms: whether `SAM.last` has the norms of the groups' gradients at w + e, too: about another weight
            gradient.

    Raises:
        ValueError: for m that is no integer of at least 1, or a memory limit below 1.
    """

    m: int | None = None
    audit: bool = True
    memory_limit: float | None = None
    perturbed_norms: bool = False

    def __post_init__(self) -> None:
        if self.memory_limit is not None:
            number("memory_limit", self.memory_limit, 1, 1e30)
        if self.m is not None:
            if not is_count(self.m, 1):
                raise ValueError(
                    f"m is how many examples share a perturbation: an integer of at least 1, not {self.m!r}"
                )
            object.__setattr__(self, "m", int(self.m))  # of NumPy, say: what is saved must load anywhere

    @classmethod
    def given(cls, m: "int | MSam | None", audit: bool, memory_limit: float | None, perturbed_norms: bool) -> "MSam":
        """What `SAM` is given, in either way; ValueError for both."""
        if not isinstance(m, MSam):
            return cls(m, audit, memory_limit, perturbed_norms)
        others = {"audit": audit, "memory_limit": memory_limit, "perturbed_norms": perturbed_norms}
        twice = [name for name, value in others.items() if value != getattr(cls, name)]
        if twice:
            raise ValueError(f"{twice[0]} is given twice, beside m=MSam(...), which has it: SAM(..., m={m!r})")
        return m


@dataclass(frozen=True, eq=False)
class Options:
    """What a SAM was asked for: the arguments of `lowland.SAM`, which says what they are.

    Attributes:
        members: the parameters that ``scope`` stands for; None for all.
    """

    model: nn.Module | None = None
    m_sam: MSam = field(default_factory=MSam)
    l2: float = 0.0
    eps: float = 0.0
    ascent_rule: Ascent = field(default_factory=Ascent)
    descent_rule: Descent | None = None
    scope: Scope = None
    members: set[Tensor] | None = None
    same_masks: bool = False
    freeze: bool = False
    keep_on: str = "device"

    @cached_property
    def combines(self) -> bool:
        """Whether the descent rule makes the step's gradient of that at w, too."""
        return self.descent_rule is not None and not self.descent_rule.per_example

    @cached_property
    def evaluations(self) -> int:
        """How many come before that at w + ε."""
        return max(self.ascent_rule.evaluations, self.combines)

    @cached_property
    def needs_scale(self) -> bool:
        """Whether a rule must be told of a GradScaler."""
        return self.ascent_rule.needs_scale or (self.descent_rule is not None and self.descent_rule.needs_scale)

    @cached_property
    def learns(self) -> bool:
        """Whether the ascent rule takes up the gradients of steps."""
        return type(self.ascent_rule).learn is not Ascent.learn

    @property
    def remembered(self) -> tuple[str, ...]:
        """The names of what the rules keep from step to step."""
        return (*self.ascent_rule.memory, *(() if self.descent_rule is None else self.descent_rule.memory))

    @property
    def is_plain(self) -> bool:
        """Whether the ascent rule is `Ascent` itself, without a descent rule or a scope."""
        return type(self.ascent_rule) is Ascent and self.descent_rule is None and self.scope is None

    @property
    def per_example(self) -> bool:
        """Whether a step needs the loss of each example: with ``m``, or for the descent rule."""
        return self.m_sam.m is not None or (self.descent_rule is not None and self.descent_rule.per_example)

    @property
    def rules(self) -> str:
        """What to call the rules in a message."""
        ascent = type(self.ascent_rule).__name__
        return ascent if self.descent_rule is None else f"{ascent} with {type(self.descent_rule).__name__}"


def check_base(base: object, kind: type[Optimizer]) -> None:
    """Raise an error unless ``kind``, the class of SAM, can go around ``base``.

    Raises:
        TypeError: for what is no optimizer.
        ValueError: for one that needs more than gradients, is a SAM or has a rho of its own.
    """
    if not isinstance(base, Optimizer):
        raise TypeError(
            "SAM goes around an optimizer: SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05). For the "
            "arguments of other libraries, (params, base_optimizer, rho=...), there is lowland.compat.SAM"
        )
    if isinstance(base, kind):
        raise ValueError("the base optimizer already is a SAM: wrap the optimizer inside it")
    if "rho" in getattr(base, "defaults", {}):
        raise ValueError(
            f"{type(base).__name__} has a rho of its own in its parameter groups, which is not SAM's radius"
        )
    if isinstance(base, torch.optim.LBFGS):
        raise ValueError("LBFGS evaluates its closure at points of its own choosing: SAM can't go around it")
    bases.check(base)


def checked(asked: Options, base: Optimizer) -> Options:
    """``asked`` of a SAM around ``base``, with what follows; raises an error for what can't be."""
    params = _params(base)
    options = _eps(asked, base)
    options = _l2(options, base)
    parallel.check(options.model if isinstance(options.model, nn.Module) else None, params)
    _check_model(options.model, params)
    refuse_twice(params)
    options = _rules(options, base)
    options = _m(options, base)
    return _scope(options, base)


def assigned(options: Options, base: Optimizer, name: str, value: object) -> Options:
    """``options`` with another value of the one called ``name``, checked as in the constructor, and what follows."""
    if name == "m" and isinstance(value, MSam):
        options = replace(options, m_sam=value)
    elif name in MSam.__dataclass_fields__:
        options = replace(options, m_sam=replace(options.m_sam, **{name: value}))  # type: ignore[arg-type]
    else:
        options = replace(options, **{name: value})  # type: ignore[arg-type]
    return _CHECKS[name](options, base) if name in _CHECKS else options


def refuse_twice(params: Iterable[object]) -> None:
    """Torch only warns, and a gradient that counts twice makes another norm."""
    seen = [param for param in params if isinstance(param, Tensor)]
    if len(set(seen)) < len(seen):
        shapes = ", ".join({str(tuple(p.shape)) for p in seen if sum(p is other for other in seen) > 1})
        raise ValueError(
            f"a parameter stands twice in the parameter groups, of shape {shapes} (tied weights of two modules, say): "
            "name each once, as model.parameters() does"
        )


def _params(base: Optimizer) -> list[Tensor]:
    return [param for group in base.param_groups for param in group["params"]]


def _l2(options: Options, base: Optimizer) -> Options:
    number("l2", options.l2, 0, 1e30)
    if options.l2 and isinstance(base, torch.optim.SparseAdam):
        raise ValueError("with l2 every gradient is dense: not for SparseAdam")
    if options.l2 and any("l2" in group for group in base.param_groups):
        raise ValueError("l2 is one number for all parameter groups, and one of them has its own")
    return replace(options, l2=float(options.l2))


def _eps(options: Options, base: Optimizer) -> Options:
    if not isinstance(options.eps, int | float) or not 0 <= options.eps < float("inf"):
        raise ValueError(f"eps is added to the gradient norm: it must be finite and at least 0, not {options.eps!r}")
    return options


def _check_model(model: nn.Module | None, params: list[Tensor]) -> None:
    if model is None:
        return
    refuse_other_models("model", model)
    if set(params).isdisjoint(model.parameters()):
        raise ValueError("model= is another model: it has none of the base optimizer's parameters")


def _model(options: Options, base: Optimizer) -> Options:
    """Check the options with a new model; a ``scope`` that is a function chooses its parameters again."""
    params = _params(base)
    _check_model(options.model, params)
    _check_groups_climb(options, params)
    _check_rules(options, base)
    return replace(options, members=_members(options, params)) if callable(options.scope) else options


def _m(options: Options, base: Optimizer) -> Options:
    if options.m_sam.m is not None:
        params = _params(base)
        _check_shapes(params)
        _check_rules(options, base)
        _check_groups_climb(options, params)
    return options


def _rules(options: Options, base: Optimizer) -> Options:
    options = options if options.ascent_rule is not None else replace(options, ascent_rule=Ascent())
    _check_rules(options, base)
    if options.ascent_rule.memory or options.ascent_rule.evaluations == 0:
        _check_shapes(_params(base))
    return options


def _scope(options: Options, base: Optimizer) -> Options:
    params = _params(base)
    if options.scope is not None:
        _check_shapes(params)
    if isinstance(options.scope, Iterable) and not isinstance(options.scope, nn.Module):
        options = replace(options, scope=list(options.scope))  # it may be read once only
    return replace(options, members=_members(options, params))


def resolved(options: Options, base: Optimizer) -> Options:
    """For parameters that were added: a scope that is a function is asked anew."""
    return replace(options, members=_members(options, _params(base))) if callable(options.scope) else options


def _members(options: Options, params: list[Tensor]) -> set[Tensor] | None:
    return scopes.resolve(options.scope, options.model, params)


def _check_groups_climb(options: Options, params: list[Tensor]) -> None:
    """Raise ValueError unless groups of m examples can climb for themselves."""
    if options.m_sam.m is None:
        return
    if options.model is None:
        raise ValueError("m needs model=: SAM(base, rho=..., model=model, m=...)")
    own = set(options.model.parameters())
    if any(param not in own for param in params):
        raise ValueError("with m, the base optimizer's parameters must be the model's: some are not in model=")
    if any(is_distributed(param) for param in params):
        raise ValueError("m needs whole parameters in each process: it goes with DDP, not with FSDP2 or DTensors")
    wrapper = ddp(options.model)
    if wrapper is not None and wrapper.static_graph:
        raise ValueError(
            "m doesn't go with DistributedDataParallel(static_graph=True): m-SAM's first passes average nothing, and "
            "with static_graph torch must see an averaged pass first. Leave static_graph out"
        )


def _check_rules(options: Options, base: Optimizer) -> None:
    """Raise TypeError for other things than rules, ValueError for rules that don't go together, with m or ``base``."""
    ascent, descent = options.ascent_rule, options.descent_rule
    for rule, kind, example in ((ascent, Ascent, "ascent.Adaptive()"), (descent, Descent, "descent.SurrogateGap()")):
        if not isinstance(rule, kind) and rule is not None:
            shown = f"the class {rule.__name__}" if isinstance(rule, type) else repr(rule)
            raise TypeError(f"{kind.__name__.lower()}= is a rule, lowland.optim.{example} say, not {shown}")
    ascent.check(base)
    if ascent.needs_names and options.model is None:
        raise ValueError(f"{options.rules} tells parameters apart by their names: give model=")
    if options.combines and isinstance(base, torch.optim.SparseAdam):
        raise ValueError(f"{options.rules} combines gradients, which makes them dense: not for SparseAdam")
    if options.m_sam.m is not None and (descent is not None or ascent.memory or ascent.evaluations == 0):
        raise ValueError(f"m goes with ascent rules that take each group's own gradient, not with {options.rules}")
    if descent is not None and descent.per_example and ascent.evaluations != 1:
        raise ValueError(f"{options.rules}: choosing examples takes an ascent rule with one evaluation")


def _check_shapes(params: list[Tensor]) -> None:
    """Raise ValueError where parameters have no shape yet: those of lazy modules."""
    if any(map(is_lazy, params)):
        raise ValueError(
            "parameters of a lazy module have no shape yet, which m, a scope, and rules that climb without a gradient "
            "or remember one need: run one batch through the model first, `with torch.no_grad(): model(x)`"
        )


_CHECKS: dict[str, Callable[[Options, Optimizer], Options]] = {
    "model": _model, "m": _m, "l2": _l2, "eps": _eps, "ascent_rule": _rules, "descent_rule": _rules, "scope": _scope,
}  # fmt: skip
