"""An optimizer around an optimizer, which schedulers, trainers, scalers and checkpoints take for the one inside."""

from collections.abc import Callable
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NoReturn

from torch.optim import Optimizer

from lowland.assigning import refusal

_SETTING = (
    "The argument ``{}`` of `lowland.SAM`, which says what it is. Assigned, it takes effect from the next step on."
)


class _OfBase:
    """An attribute that is the base optimizer's, to read, to set and to delete."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, wrapper: Any, owner: type | None = None) -> Any:
        return self if wrapper is None else getattr(wrapper.base, self.name)

    def __set__(self, wrapper: Any, value: Any) -> None:
        setattr(wrapper.base, self.name, value)

    def __delete__(self, wrapper: Any) -> None:
        delattr(wrapper.base, self.name)


class _Shared(property):
    """An attribute in ``_own``, the one object that an optimizer has in common with whatever stands in for it."""

    def __init__(self, assign: Callable[[Any, Any], None] | None = None, doc: str | None = None):
        super().__init__()
        self.assign, self.doc = assign, doc

    def __set_name__(self, owner: type, name: str) -> None:
        def keep(wrapper: Any, value: Any) -> None:
            setattr(wrapper._own, name, value)

        super().__init__(attrgetter(f"_own.{name}"), self.assign or keep)
        # In place of attrgetter's own.
        self.__doc__ = _SETTING.format(name.removesuffix("_rule")) if self.doc is None else self.doc


def shared(assign: Callable[[Any, Any], None] | None = None) -> Any:
    """Declares an attribute of a `Wrapper` that trainers' stand-ins for the optimizer read and change with it.

    Args:
        assign: what assigning it does: keeps the value in ``_own``, if it may. By default any is kept.
    """
    return _Shared(assign)


def fixed(name: str, advice: str) -> Any:
    """`shared`, and not to be assigned: that raises AttributeError with ``advice``."""

    def refuse(wrapper: Any, value: Any) -> NoReturn:
        raise refusal(wrapper, name, advice)

    return _Shared(refuse, f"It can't be assigned: {advice}.")


class Wrapper(Optimizer):
    """Shares groups, state and whatever else it has not itself with ``base``, and runs the hooks on itself.

    Trainers put stand-ins before an optimizer: objects of a subclass that copy its ``__dict__``, or that have none of
    it and look up there what they lack. What a stand-in sets would stay with it, and the optimizer would never know of
    the passes that were run. So every attribute that a subclass sets is declared with `shared`.

    Subclasses give `_step`, `_save` and `_load`.
    """

    base: Optimizer = fixed("base", "it keeps the optimizer it was made around. Make a new SAM around the other")
    _own: SimpleNamespace
    param_groups: list[dict[str, Any]] = _OfBase()  # type: ignore[assignment]
    state: Any = _OfBase()
    defaults: dict[str, Any] = _OfBase()  # type: ignore[assignment]
    # A GradScaler sets these two around the step of an optimizer that takes the scale itself.
    grad_scale: Any = _OfBase()
    found_inf: Any = _OfBase()

    def __init__(self, base: Optimizer):
        self._own = SimpleNamespace(known_as=id(self), base=base)
        if not hasattr(base, "defaults"):  # a container that never called Optimizer.__init__
            base.defaults = {}
        # Not Optimizer.__init__, which would make groups and state of its own beside the base's; this sets up
        # hooks and profiling as unpickling does.
        super().__setstate__({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For copies and pickles, which share nothing with where they come from but what ``state`` brings."""
        self._own = SimpleNamespace(**state, known_as=id(self))
        super().__setstate__({})

    def __getattr__(self, name: str) -> Any:
        # What else the base optimizer can do: train() and eval() of a schedule-free one, say.
        if name in ("base", "_own") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.base, name)

    def _hooked_step(self, closure: Callable[[], Any] | None) -> Any:
        for before in self._optimizer_step_pre_hooks.values():
            replaced = before(self, (closure,), {})
            if replaced is not None:
                arguments, named = replaced
                closure = named.get("closure", *arguments)
        result = self._step(closure)
        for after in self._optimizer_step_post_hooks.values():
            after(self, (closure,), {})
        return result

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        raise NotImplementedError

    def _hooked_state_dict(self) -> dict[str, Any]:
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self._save()
        for after in self._optimizer_state_dict_post_hooks.values():
            replaced = after(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        return state_dict

    def _save(self) -> dict[str, Any]:
        raise NotImplementedError

    def _hooked_load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = before(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        self._load(state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _load(self, state_dict: dict[str, Any]) -> None:
        raise NotImplementedError
