"""One architecture through m-SAM: which way it goes, and how far from the definition it is."""

import math
import re
import time
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import lowland
from architectures.case import Batch, Case
from architectures.double import in_float64
from architectures.textbook import textbook

RHO = 0.1
LOOP = re.compile(r"m-SAM goes group by group, [^:]*: (.*?)(\. The result is the same\.)?$", re.DOTALL)


@dataclass(frozen=True)
class Found:
    """What became of one architecture at one m.

    Attributes:
        way: ``exact``, without a word; ``exact, with a warning``; ``loop``; ``refused``; ``raised``.
        why: what the optimizer said.
        error: relative, of the gradient; of two batches the larger one. None where there was no gradient.
        seconds: both batches and the definition.
    """

    way: str
    why: str
    error: float | None
    seconds: float


def measure(case: Case, m: int, size: int) -> Found:
    """Two batches of ``size`` examples in turn: what one optimizer learns from the first must hold for the second."""
    started = time.perf_counter()
    model, reference = built(case), built(case)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = lowland.SAM(torch.optim.SGD(params, lr=1.0), rho=RHO, model=model, m=m)
    errors = []
    with in_float64(model), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in (0, 1):
            batch = case.data(size, number)
            check_repeats(case, reference, batch)
            optimizer.zero_grad()
            try:
                optimizer.backward(lambda batch=batch: case.losses(model, batch))
            except Exception as stop:  # whatever it is, it is reported
                refused = isinstance(stop, ValueError) and case.refused is not None and case.refused in str(stop)
                said = f"{type(stop).__name__}: {str(stop).splitlines()[0]}"
                return Found("refused" if refused else "raised", said, None, time.perf_counter() - started)
            ours = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in params])
            errors.append(relative(ours, by_definition(case, reference, batch, m)))
    way, why = way_taken([str(warning.message) for warning in caught])
    return Found(way, why, max(errors, key=lambda error: (math.isnan(error), error)), time.perf_counter() - started)


def built(case: Case) -> nn.Module:
    """In training mode and float64, every parameter moved a little: what begins at zero would hide errors."""
    torch.manual_seed(0)
    model = case.build().double().train()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    return model


def check_repeats(case: Case, model: nn.Module, batch: Batch) -> None:
    """Raise RuntimeError if the losses differ from one evaluation to the next: some dropout wasn't set to 0."""
    with torch.no_grad():
        if not torch.equal(case.losses(model, batch), case.losses(model, batch)):
            raise RuntimeError(f"{case.name} draws random numbers: the table is for models without")


def by_definition(case: Case, model: nn.Module, batch: Batch, m: int) -> Tensor:
    """The gradient, flat."""
    params = [p for p in model.parameters() if p.requires_grad]
    return textbook(lambda group: case.losses(model, group), batch, params, m, RHO)


def relative(ours: Tensor, right: Tensor) -> float:
    """Error; NaN where one of them is, which no limit lets pass."""
    return float((ours - right).norm() / right.norm())


def way_taken(warned: list[str]) -> tuple[str, str]:
    """From the optimizer's warnings: the exact pass is the way about which it says nothing."""
    ours = list(dict.fromkeys(line for line in warned if line.startswith("m-SAM")))
    reasons = [found[1] for line in ours if (found := LOOP.match(line))]
    if reasons:
        return "loop", "; ".join(reasons)
    if ours:
        return "exact, with a warning", "; ".join(
            line.removeprefix("m-SAM: ").partition(" has no rule")[0] for line in ours
        )
    return "exact", ""
