"""What m = 1 costs one architecture."""

import time
import warnings
from collections.abc import Callable

import torch

from architectures.case import Case
from architectures.double import in_float64
from architectures.measure import RHO, built
from lowland import SAM


def cost(case: Case, size: int, rounds: int = 5) -> float:
    """CPU time of a step with m = 1 over that of plain SAM on the same batch; the least of ``rounds`` each."""
    model, batch = built(case), case.data(size, 1)
    base = torch.optim.SGD(model.parameters(), lr=0.0)
    plain = SAM(base, rho=RHO)

    def whole() -> torch.Tensor:
        loss = case.losses(model, batch).mean()
        loss.backward()
        return loss

    with in_float64(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="m-SAM")
        least = seconds(lambda: plain.step(whole), rounds)
        ours = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=RHO, model=model, m=1, audit=False)
        return seconds(lambda: ours.step(lambda: case.losses(model, batch)), rounds) / least


def seconds(step: Callable[[], object], rounds: int) -> float:
    """After a first step, the least CPU time of one."""
    step()
    found = []
    for _ in range(rounds):
        began = time.process_time()
        step()
        found.append(time.process_time() - began)
    return min(found)
