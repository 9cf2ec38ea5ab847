"""Words of sentences that people read: numbers with their noun, long lists cut short."""

from collections.abc import Sequence

_FEW = 3


def counted(number: int, noun: str) -> str:
    """A number and its noun, which takes an s: ``1 point``, ``2 points``.

    Args:
        number: how many.
        noun: of one.
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def few(names: Sequence[str]) -> str:
    """The first three names, and how many more there are: ``a, b, c and 7 more``; four are named all."""
    if len(names) <= _FEW + 1:
        return ", ".join(names)
    return f"{', '.join(names[:_FEW])} and {len(names) - _FEW} more"
