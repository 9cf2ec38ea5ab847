"""How often to save: often enough to lose little, seldom enough to cost little."""

import time

_SECONDS = 5.0
_SHARE = 0.05  # of the time may go into saving


class Pace:
    """Says when the next checkpoint is due."""

    def __init__(self) -> None:
        self._at, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is."""
        return time.monotonic() - self._at > max(_SECONDS, self._took / _SHARE)

    def saved(self, seconds: float) -> None:
        """A checkpoint was made just now, in so many seconds."""
        self._at, self._took = time.monotonic(), seconds
