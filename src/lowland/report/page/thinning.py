"""Thins curves of many records, by a rule that keeps every peak visible."""

from collections.abc import Sequence


def kept(values: Sequence[float | None], most: int) -> list[int]:
    """The indices of at most ``most`` values that stand for all.

    The first and the last, and from each of equally long stretches between them the lowest and the highest. A stretch
    without values keeps its first index, so that a gap stays one.
    """
    if len(values) <= most:
        return list(range(len(values)))
    stretches = max(1, (most - 2) // 2)
    inner = len(values) - 2
    found = [0]
    for stretch in range(stretches):
        low, high = (1 + stretch * inner // stretches, 1 + (stretch + 1) * inner // stretches)
        there = [(value, index) for index in range(low, high) if (value := values[index]) is not None]
        found += sorted({min(there)[1], max(there)[1]}) if there else [low]
    return [*found, len(values) - 1]


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(position * (count - 1) / (most - 1)) for position in range(most)})
