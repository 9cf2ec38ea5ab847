"""ρ and the number of steps: both stand in the base optimizer's parameter groups, and are saved with them."""

import math
from collections.abc import Callable, Iterable

from torch.optim import Optimizer

from lowland.checks import radius
from lowland.optim.options import MAXIMIZES

Rho = float | Callable[[int], float]
STEPS = "sam_steps"  # in every parameter group: what saves optimizers elsewhere carries groups, and often nothing else


class Radii:
    """The radius of each parameter group, fixed or by a schedule.

    Attributes:
        rho: of the parameter groups that bring none.
        schedule: gives it, by the number of steps; None where it is fixed.
        scheduled: the indices of the parameter groups that follow it.
    """

    def __init__(
        self, base: Optimizer, rho: float, schedule: Callable[[int], float] | None = None, scheduled: Iterable[int] = ()
    ):
        self.base, self.rho, self.schedule, self.scheduled = base, rho, schedule, list(scheduled)

    @classmethod
    def asked(cls, base: Optimizer, rho: Rho) -> "Radii":
        """As the argument of `lowland.SAM` says; ValueError for what is no radius."""
        return cls(base, radius(rho(0)), rho) if callable(rho) else cls(base, radius(rho))

    def complete(self) -> None:
        """Give each parameter group the number of steps and its radius: where a schedule says it, that of this step."""
        groups = self.base.param_groups
        steps = groups[0].setdefault(STEPS, 0)
        for index, group in enumerate(groups):
            if "rho" not in group:
                group["rho"] = self.rho
                self.scheduled.append(index)
            group.setdefault(STEPS, steps)
        if self.schedule is not None:
            self.rho = radius(self.schedule(steps))
            for index in self.scheduled:
                groups[index]["rho"] = self.rho
        for group in groups:
            if group.get("maximize"):
                raise ValueError(MAXIMIZES)
            if type(group["rho"]) is not float or not 0 <= group["rho"] < math.inf:
                group["rho"] = radius(group["rho"])

    @property
    def used_before(self) -> bool:
        """Whether the base optimizer was in another SAM, whose radius its parameter groups still have."""
        groups = self.base.param_groups
        return any(STEPS in group and radius(group["rho"]) != self.rho for group in groups)

    @property
    def stays(self) -> bool:
        """Whether ρ is 0 everywhere."""
        return all(group["rho"] == 0 for group in self.base.param_groups)

    @property
    def steps(self) -> int:
        """The number of steps made so far, which the parameter groups keep."""
        return self.base.param_groups[0][STEPS]

    def count(self) -> None:
        """Add one to the number of steps in each parameter group."""
        steps = self.steps + 1
        for group in self.base.param_groups:
            group[STEPS] = steps
