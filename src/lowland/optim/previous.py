"""SAM that climbs on the previous batch."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Batch = TypeVar("Batch")


def with_previous(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Batch]]:
    """Each batch, with the one before it: what to climb on, and what to descend on.

    So the examples that ε was made for are others than those whose gradient is taken at w + ε (an option in the code
    of Andriushchenko & Flammarion 2022). The old batch is evaluated at the present weights: two gradients a step. The
    first batch comes with itself, and is plain SAM's.

    Example:
        >>> list(with_previous("abc"))
        [('a', 'a'), ('a', 'b'), ('b', 'c')]

        In a loop, with any rule that takes two evaluations::

            for climb_on, descend_on in with_previous(loader):
                for evaluation, (x, y) in zip(optimizer.passes(), (climb_on, descend_on), strict=True):
                    with evaluation:
                        loss_fn(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
    """
    previous: list[Batch] = []
    for batch in batches:
        yield (previous or [batch])[0], batch
        previous = [batch]
