"""An optimizer around an optimizer, which schedulers, trainers, scalers and checkpoints take for the one inside."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


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


class Wrapper(Optimizer):
    """Shares groups, state and whatever else it has not itself with ``base``, and runs the hooks on itself.

    Subclasses give `_step`, `_save` and `_load`.
    """

    base: Optimizer
    param_groups: list[dict[str, Any]] = _OfBase()  # type: ignore[assignment]
    state: Any = _OfBase()
    defaults: dict[str, Any] = _OfBase()  # type: ignore[assignment]
    # A GradScaler sets these two around the step of an optimizer that takes the scale itself.
    grad_scale: Any = _OfBase()
    found_inf: Any = _OfBase()

    def __init__(self, base: Optimizer):
        self.base = base
        if not hasattr(base, "defaults"):  # a container that never called Optimizer.__init__
            base.defaults = {}
        # Not Optimizer.__init__, which would make groups and state of its own beside the base's; this sets up
        # hooks and profiling as unpickling does.
        super().__setstate__({})

    def __getattr__(self, name: str) -> Any:
        # What else the base optimizer can do: train() and eval() of a schedule-free one, say.
        if name == "base" or name.startswith("__"):
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
