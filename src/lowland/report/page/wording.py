"""Counts and lists of names in words."""

from collections.abc import Sequence


def counted(count: int, word: str) -> str:
    """``"1 claim"``, ``"2 claims"``; for words that take an s."""
    return f"{count:,} {word if count == 1 else word + 's'}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first ``most`` of several names, and how many there are beside them: ``"a, b, c and 7 more"``."""
    left = len(names) - most
    return ", ".join(names) if left <= 0 else f"{', '.join(names[:most])} and {left:,} more"
