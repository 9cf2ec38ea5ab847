"""How long the checks took beside the training that they watch."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch


class Stopwatch:
    """Two clocks, of which one runs at a time: that of the checks inside `check`, that of training outside.

    Args:
        budget: the largest share of all time that checks may take; None for any.
    """

    def __init__(self, budget: float | None):
        self.budget = budget
        self.checks = self._trained = self.last = 0.0
        self._since: float | None = None  # when training began, or went on
        self._begun = 0.0  # when the check did

    def start(self) -> None:
        """Start the clock of training, unless it runs."""
        if self._since is None:
            self._since = perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds in the check so far."""
        return perf_counter() - self._begun

    @property
    def training(self) -> float:
        """The seconds outside of the checks so far."""
        return self._trained + (0.0 if self._since is None else perf_counter() - self._since)

    @property
    def share(self) -> float:
        """The share of the checks in all time so far, 0 to 1."""
        total = self.checks + self.training
        return self.checks / total if total > 0 else 0.0

    def affordable(self) -> bool:
        """Whether one more check, as long as the last one, keeps to the budget."""
        if self.budget is None:
            return True
        checks = self.checks + self.last
        return checks <= self.budget * (checks + self.training)

    def wait(self) -> float:
        """The seconds of training until `affordable`, 0 where it is."""
        if self.budget is None:
            return 0.0
        return max(0.0, (self.checks + self.last) * (1 / self.budget - 1) - self.training)

    @contextmanager
    def check(self, device: torch.device) -> Iterator[None]:
        """A check; only here is there any waiting for ``device``, so that its time is counted where it belongs."""
        _wait(device)
        self._trained, self._begun, self._since = self.training, perf_counter(), None
        try:
            yield
        finally:
            _wait(device)
            self._since = perf_counter()
            self.last = self._since - self._begun
            self.checks += self.last

    def state_dict(self) -> dict[str, float]:
        """The seconds of both clocks, and of the last check."""
        return {"check_seconds": self.checks, "training_seconds": self.training, "last_check_seconds": self.last}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Continue from the seconds of a `state_dict`."""
        self.checks, self.last = state_dict["check_seconds"], state_dict["last_check_seconds"]
        self._trained, self._since = state_dict["training_seconds"], None


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
