"""What is taken for granted of tensors that say nothing of their examples, until the losses tell whether it holds.

A wrong guess is never a wrong gradient: rows that are given to the wrong examples don't reach the losses in order,
which is found. Then the closure is evaluated once more, by the next guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Guess:
    """Which tensors have rows of the examples.

    Attributes:
        several: whether data has rows where their number is a multiple of the batch's, or only where it is that number.
        second: whether the second dimension is looked at before the first, or None where neither it nor sizes above the
            batch's count.
        repeated: of what `Tensor.expand` repeats: whether multiples of the batch's size are rows, too; None for never.
        owners: whose the rows of data are, by how many there are, as an evaluation before has shown.
    """

    several: bool = True
    second: bool | None = False
    repeated: bool | None = False
    owners: Mapping[int, Tensor] = field(default_factory=dict, compare=False)


#: In the order in which they are tried.
GUESSES = (
    Guess(),
    Guess(repeated=True),
    Guess(second=True),
    Guess(several=False, second=None),
    Guess(repeated=None),
)
