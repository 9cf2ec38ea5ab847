"""Attributes that are assigned without effect would be a trap: they take effect, or say what to do instead."""

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


def refusal(owner: Any, name: str, advice: str) -> AttributeError:
    """The error of an attribute that can't be assigned."""
    return AttributeError(f"{type(owner).__name__}.{name} can't be assigned: {advice}")


class _Kept:
    """An attribute that refuses to be assigned once it has a value, or at all where it is a method or absent."""

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
    """Declares an attribute whose values are checked whenever they are assigned, in the constructor and later.

    Args:
        check: takes the name and the value, and raises an error for what can't be.
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
    """A name that users take for an attribute: reading and assigning it raise AttributeError with ``advice``."""

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
    """Makes attributes of a class refuse to be assigned: with AttributeError, and the advice under their name.

    A property may have no setter. A method stays as it is. Anything else is an attribute of the instances, which are
    given it once, when they are made.
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
