"""An optimizer around an optimizer, which schedulers, trainers, scalers and checkpoints take for the one inside."""

from collections.abc import Callable
from typing import Self, TypeVar

from torch import Tensor
from torch.optim import Optimizer

from lowland.assigning import Absent, unassignable
from lowland.optim import amp, foreign
from lowland.optim.core import Core
from lowland.values import Foreign, ParameterGroup, State, StateDict

T = TypeVar("T")
Closure = Callable[[], object]

_SETTING = (
    "The argument ``{}`` of `lowland.SAM`, which says what it is. Assigned, it takes effect from the next step on."
)


class _Setting(property):
    """An option of a `Core`, which says what becomes of it when it is assigned."""

    def __set_name__(self, owner: type, name: str) -> None:
        def assign(wrapper: "Wrapper", value: object) -> None:
            wrapper._own.assign(name, value)

        super().__init__(self.fget, assign)
        self.__doc__ = _SETTING.format(name.removesuffix("_rule"))


def setting(read: Callable[[Core], T]) -> T:
    """Declares an attribute of an optimizer that is an option, or part of one, as ``read`` finds it."""
    return _Setting(lambda wrapper: read(wrapper._own))  # type: ignore[return-value]


def view(read: Callable[[Core], T], doc: str) -> T:
    """Declares an attribute of an optimizer to look at."""
    return property(lambda wrapper: read(wrapper._own), doc=doc)  # type: ignore[return-value]


def of_base(name: str, read: Callable[[Core], T] | None = None) -> T:
    """Declares an attribute that is the base optimizer's, to read and to set.

    Args:
        name: there.
        read: what reading it gives, if not that; then nobody deletes it.
    """

    def find(wrapper: "Wrapper") -> State:
        return getattr(wrapper._own.base, name) if read is None else read(wrapper._own)

    def assign(wrapper: "Wrapper", value: object) -> None:
        setattr(wrapper._own.base, name, value)

    return property(
        find,
        assign,
        (lambda wrapper: delattr(wrapper._own.base, name)) if read is None else None,
        "The base optimizer's.",
    )  # type: ignore[return-value]


def _groups(core: Core) -> list[ParameterGroup]:
    """Not for a GradScaler that unscales before the passes are over: RuntimeError."""
    if core.in_the_middle:
        amp.refuse_unscaling()
    return core.base.param_groups


def _state(core: Core) -> dict[Tensor, StateDict]:
    """With what the rules remember beside it."""
    of_base = getattr(core.base, "state", {})
    return core.memory.save({p: p for p in core.params()}, of_base) if core.memory else of_base


_KEEPS_BASE = "it keeps the optimizer it was made around. Make a new SAM around the other"


@unassignable(base=_KEEPS_BASE)
class Wrapper(Optimizer):
    """Shares parameter groups, state and whatever else it has not itself with the base optimizer.

    Trainers put stand-ins before an optimizer: objects of a subclass that copy its ``__dict__``, or that have none of
    it and look up there what they lack. What a stand-in sets would stay with it, and the optimizer would never know of
    the passes that were run. So there is one attribute alone, the `Core`, which they all have in common.
    """

    _own: Core
    base = view(lambda own: own.base, f"It can't be assigned: {_KEEPS_BASE}.")
    param_groups = of_base("param_groups", _groups)
    state = of_base("state", _state)  # type: ignore[arg-type]  # torch's is a defaultdict
    defaults: StateDict = of_base("defaults")
    # A GradScaler sets these two around the step of an optimizer that takes the scale itself.
    grad_scale: Tensor | None = of_base("grad_scale")
    found_inf: Tensor | None = of_base("found_inf")

    def __new__(cls, *arguments: object, **named: object) -> Self:
        """Before Python looks at the arguments: those that there aren't are worth a better error."""
        foreign.check(cls, arguments, named)
        return super().__new__(cls)

    def __init__(self, core: Core):
        self._own = core
        if not hasattr(core.base, "defaults"):  # a container that never called Optimizer.__init__
            core.base.defaults = {}
        # Not Optimizer.__init__, which would make parameter groups and state of its own beside the base's; this sets up
        # hooks and profiling as unpickling does.
        super().__setstate__({})

    def __getattr__(self, name: str) -> Foreign:
        # What else the base optimizer can do: train() and eval() of a schedule-free one, say.
        if name in ("base", "_own") or name.startswith("__"):
            raise AttributeError(name)
        absent = getattr(type(self), name, None)
        if isinstance(absent, Absent):  # it has raised its advice, which brought Python here
            absent.__get__(self)
        if name in foreign.METHODS and not hasattr(self.base, name):
            raise AttributeError(f"{type(self).__name__} has no {name}(): {foreign.METHODS[name]}")
        return getattr(self.base, name)


# What torch does around the methods of its own optimizers: the hooks are called on the wrapper.


def hooked_step(optimizer: Optimizer, closure: Closure | None, step: Callable[[Closure | None], T]) -> T:
    """Call ``step(closure)`` between the optimizer's step hooks, which may replace the closure."""
    for before in optimizer._optimizer_step_pre_hooks.values():
        replaced = before(optimizer, (closure,), {})
        if replaced is not None:
            arguments, named = replaced
            closure = named.get("closure", *arguments)
    result = step(closure)
    for after in optimizer._optimizer_step_post_hooks.values():
        after(optimizer, (closure,), {})
    return result


def hooked_state_dict(optimizer: Optimizer, save: Callable[[], StateDict]) -> StateDict:
    """Call ``save()`` between the optimizer's state_dict hooks, which may replace the result."""
    for before in optimizer._optimizer_state_dict_pre_hooks.values():
        before(optimizer)
    state_dict = save()
    for after in optimizer._optimizer_state_dict_post_hooks.values():
        replaced = after(optimizer, state_dict)
        state_dict = state_dict if replaced is None else replaced
    return state_dict


def hooked_load_state_dict(optimizer: Optimizer, state_dict: StateDict, load: Callable[[StateDict], None]) -> None:
    """Call ``load(state_dict)`` between the optimizer's loading hooks, which may replace ``state_dict``."""
    for before in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = before(optimizer, state_dict)
        state_dict = state_dict if replaced is None else replaced
    load(state_dict)
    for after in optimizer._optimizer_load_state_dict_post_hooks.values():
        after(optimizer)
