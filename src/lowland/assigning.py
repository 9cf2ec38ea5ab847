"""Attributes that refuse assignment with advice, or check each value: no assignment is silently without effect."""

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


def refusal(owner: Any, name: str, advice: str) -> AttributeError:
    """The error to raise when the attribute ``name`` of ``owner`` is assigned."""
    return AttributeError(f"{type(owner).__name__}.{name} can't be assigned: {advice}")


class _Kept:
    """A descriptor that allows one assignment, in the constructor; none if the attribute is a method."""

    def __init__(self, name: str, advice: str, method: FunctionType | None = None):
        self.name, self.advice, self.method = name, advice, method
        self.__doc__ = getattr(method, "__doc__", None)

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        if owner is None:
            return self.method or self
        if self.method is not None:
            return MethodType(self.method, owner)
        if self.name in owner.__dict__:
            return owner.__dict__[self.name]
        raise AttributeError(f"{type(owner).__name__} has no attribute {self.name}")

    def __set__(self, owner: Any, value: Any) -> None:
        if self.method is not None or self.name in owner.__dict__:
            raise refusal(owner, self.name, self.advice)
        owner.__dict__[self.name] = value


def checked(check: Callable[[str, Any], None]) -> Any:
    """Declare an attribute whose value is checked at every assignment, in the constructor and later.

    Args:
        check: takes the name and the value, and raises an error for an invalid value.
    """
    return _Checked(check)


class _Checked:
    def __init__(self, check: Callable[[str, Any], None]):
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        if owner is None:
            return self
        try:
            return owner.__dict__[self.name]
        except KeyError:
            raise AttributeError(f"{type(owner).__name__} has no attribute {self.name} yet") from None

    def __set__(self, owner: Any, value: Any) -> None:
        self.check(self.name, value)
        owner.__dict__[self.name] = value


class Absent:
    """A name that users may take for an attribute: reading or assigning it raises AttributeError with ``advice``."""

    def __init__(self, advice: str):
        self.advice = advice
        self.__doc__ = f"There is no such attribute: {advice}."

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        if owner is None:
            return self
        raise AttributeError(f"{type(owner).__name__} has no attribute {self.name}: {self.advice}")

    def __set__(self, owner: Any, value: Any) -> NoReturn:
        raise refusal(owner, self.name, self.advice)


def unassignable(**advice: str) -> Callable[[type[T]], type[T]]:
    """Make attributes of a class raise AttributeError when they are assigned, with the advice given for each name.

    A property must have no setter. A method stays as it is. Anything else is an instance attribute, which is assigned
    once, in the constructor.
    """

    def decorate(kind: type[T]) -> type[T]:
        for name, text in advice.items():
            there = getattr(kind, name, None)
            if isinstance(there, property):
                kept: Any = property(there.fget, _refusing(name, text), None, there.__doc__)
            else:
                kept = _Kept(name, text, there if isinstance(there, FunctionType) else None)
            setattr(kind, name, kept)
        return kind

    return decorate


def _refusing(name: str, advice: str) -> Callable[[Any, Any], None]:
    def refuse(owner: Any, value: Any) -> NoReturn:
        raise refusal(owner, name, advice)

    return refuse
