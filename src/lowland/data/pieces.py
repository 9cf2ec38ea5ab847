"""A text as pieces, read in order and shuffled on the way through a buffer."""

import torch
from torch import Tensor

from lowland.assigning import Absent, unassignable
from lowland.data.batches import seeded
from lowland.errors import SettingError

BUFFERED = 10  # batches


def consecutive(tokens: Tensor, length: int) -> Tensor:
    """The consecutive pieces of a text, int64 ``(pieces, length)``; the rest that fills no piece is left out.

    Args:
        tokens: ``(characters,)``, integers of any type, on any device.
        length: characters in a piece.
    """
    count = len(tokens) // length
    return tokens[: count * length].view(count, length).long()


_FIXED = "its batches follow from what it was made of. Make another"


@unassignable(**dict.fromkeys(("pieces", "batch_size", "seed"), _FIXED))
class TextPieces:
    """Minibatches of consecutive pieces of a text, shuffled through a buffer, as Long & Bartlett 2024 draw them.

    The text is cut into pieces of ``length`` + 1 characters, as many as fill whole batches, and read in order, again
    and again. A buffer holds the first 10 batches of them. Every piece of a batch is taken from a random place of the
    buffer, where the next piece of the text is put in its stead. Those of a step follow from seed and step alone.

    Args:
        tokens: ``(characters,)``, integers of any type, on any device.
        length: characters in a window. A piece has one more: its first ``length`` are the inputs, its last the targets.
        batch_size: windows in a batch.
        seed: of the places. They are drawn on the CPU, and so the same on every device.

    Raises:
        SettingError: for a text of fewer than 10 batches.
    """

    pieces: Tensor
    batch_size: int
    seed: int
    tokens = Absent(_FIXED)
    length = Absent(_FIXED)

    def __init__(self, tokens: Tensor, length: int, batch_size: int, seed: int):
        pieces = consecutive(tokens, length + 1)
        batches = len(pieces) // batch_size
        if batches < BUFFERED:
            raise SettingError(
                f"A text of {len(tokens)} characters makes {batches} batches of {batch_size} windows of {length}, and "
                f"the buffer holds {BUFFERED}: choose smaller batches or shorter windows."
            )
        self.pieces = pieces[: batches * batch_size]
        self.batch_size, self.seed = batch_size, seed
        self._places = BUFFERED * batch_size
        self._step, self._held = 0, list(range(self._places))  # the pieces in the buffer before that step

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the batch at ``step``, int64 ``(batch_size, length)`` each."""
        if step == self._step + 1:
            self._taken(self._step, self._held)
        elif step != self._step:
            self._held = self._found(step)
        self._step = step
        taken = torch.tensor(self._taken(step, self._held.copy()), device=self.pieces.device)
        chosen = self.pieces[taken % len(self.pieces)]
        return chosen[:, :-1], chosen[:, 1:]

    def _drawn(self, step: int) -> list[int]:
        places: list[int] = torch.randint(
            self._places, (self.batch_size,), generator=seeded(self.seed, step)
        ).tolist()  # fmt: skip
        return places

    def _taken(self, step: int, held: list[int]) -> list[int]:
        """The pieces of a batch, counted through all passes over the text; ``held`` is brought up to date."""
        following = self._places + step * self.batch_size
        taken = []
        for number, place in enumerate(self._drawn(step), following):
            taken.append(held[place])
            held[place] = number
        return taken

    def _found(self, step: int) -> list[int]:
        """What the buffer holds before ``step``: in each place the piece that was put there last, looking back."""
        found: dict[int, int] = {}
        earlier = step
        while earlier > 0 and len(found) < self._places:
            earlier -= 1
            first = self._places + earlier * self.batch_size
            for offset, place in reversed(list(enumerate(self._drawn(earlier)))):
                found.setdefault(place, first + offset)
        return [found.get(place, place) for place in range(self._places)]
