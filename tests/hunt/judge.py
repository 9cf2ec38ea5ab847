"""Each step of a program against a loop by definition, which knows nothing of Lowland."""

import copy
import math
import re
import warnings
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lowland
from tests.optim import textbook

from .program import Program, seeded

RHO = 0.1
EPS = 1e-12  # beside a gradient's norm, as SAM has it
LIMIT = 1e-9
WAYS = ("exact", "exact, with a warning", "loop", "refused")


@dataclass(frozen=True)
class Verdict:
    """Of one program.

    Attributes:
        way: one of `WAYS`; ``WRONG``; ``raised``, an exception that isn't in the plain closure; ``unfit``, a program
            that has no gradient by definition; ``ill-conditioned``, one whose gradient changes with the weights' last
            digit by more than a thousandth of the error.
        step: the first in which that was seen.
        error: the largest relative error of a gradient.
        said: the optimizer's words.
        exact: in how many steps the two passes were taken.
    """

    way: str
    step: int
    error: float
    said: str
    exact: int = 0

    @property
    def bad(self) -> bool:
        return self.way in ("WRONG", "raised")


class Unfit(Exception):
    """A program that says nothing about the optimizer."""


def judge(program: Program, audit: bool) -> Verdict:
    """Train with it; everything is in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return _judge(program, audit)
    finally:
        torch.set_default_dtype(before)


def _judge(program: Program, audit: bool) -> Verdict:
    space = program.compiled()
    net, reference = seeded(space["Net"]()), seeded(space["Net"]())
    options = eval(f"dict({', '.join(program.options)})", {"lowland": lowland})
    said: list[str] = []
    worst, exact = 0.0, 0
    try:
        optimizer = lowland.SAM(
            torch.optim.SGD(net.parameters(), lr=0.05), rho=RHO, model=net, m=program.m, audit=audit, **options
        )
    except ValueError as error:
        return Verdict("unfit", 0, 0.0, str(error))
    for step, size in enumerate(program.sizes):
        ids = [10 * step + i for i in range(size)]
        batch = space["data"](ids, step)
        with torch.no_grad():
            reference.load_state_dict(copy.deepcopy(net.state_dict()))
        for each in (net, reference):
            space["between"](each, step)
        try:
            expected, buffers = expectation(program, space, reference, ids, step, options.get("l2", 0.0))
        except Exception as error:
            return Verdict("unfit", step, 0.0, f"{type(error).__name__}: {error}", exact)
        torch.manual_seed(step)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                optimizer.step(lambda batch=batch, step=step: space["losses"](net, batch, step))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if isinstance(error, ValueError) and type(error).__module__.startswith("lowland"):
                return Verdict("refused", step, worst, text, exact)
            return Verdict("raised", step, worst, text, exact)
        said += [str(w.message) for w in caught if "m-SAM" in str(w.message)]
        params = list(net.parameters())
        ours = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        error = apart(ours, expected)
        way = way_of(said)
        exact += way != "loop"
        worst = max(worst, error if math.isfinite(error) else math.inf)
        if not error <= LIMIT:
            if shaky(program, space, reference, ids, step, options.get("l2", 0.0), expected, error):
                return Verdict("ill-conditioned", step, worst, "changes with the last digit of the weights", exact)
            return Verdict("WRONG", step, error, f"{way}: {'; '.join(said)}", exact)
        if buffers is not None:
            for (name, ours_), right in zip(net.named_buffers(), buffers, strict=True):
                if not torch.allclose(ours_.double(), right.double(), rtol=1e-9, atol=1e-12):
                    return Verdict("WRONG", step, error, f"buffer {name}; {way}: {'; '.join(said)}", exact)
    return Verdict(way_of(said), len(program.sizes) - 1, worst, "; ".join(said), exact)


def way_of(said: list[str]) -> str:
    """From the warnings so far."""
    if any(line.startswith("m-SAM goes group by group") for line in said):
        return "loop"
    return "exact, with a warning" if said else "exact"


def expectation(program, space, net, ids, step, l2):
    """The gradient by definition, and the buffers after one evaluation at w; None where batch norm has its own rule."""
    state = [b.clone() for b in net.buffers()]
    batch = space["data"](ids, step)

    def losses() -> Tensor:
        with torch.no_grad():
            for b, value in zip(net.buffers(), state, strict=True):
                b.copy_(value)
        torch.manual_seed(step)
        return space["losses"](net, batch, step)

    normalized = [each for each in net.modules() if isinstance(each, nn.BatchNorm1d)]
    for each in normalized:
        each.forward = lambda x, each=each: by_group(each, x, program.m, len(ids))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = {name: tensor.clone() for name, tensor in batch.items()}
        value = losses()
        if not all(torch.equal(batch[name], tensor) for name, tensor in before.items()):
            raise Unfit("the closure writes to its batch: each evaluation is another function")
        if value.shape != (len(ids),) or not value.isfinite().all():
            raise Unfit("losses")
        buffers = None if normalized else [b.clone() for b in net.buffers()]
        return by_definition(losses, list(net.parameters()), len(ids), program.m, l2), buffers


def by_definition(losses, params, size, m, l2=0.0) -> list[Tensor]:
    """Σ_j (n_j/B) · gradient of group j's mean loss at w + ρ g_j/(‖g_j‖ + eps)."""
    total, largest = [torch.zeros_like(p) for p in params], 0.0
    groups = textbook.by_groups(
        lambda rows: losses()[rows].mean(), params, size, m, RHO, EPS, evaluate=partial(gradients, l2=l2)
    )
    for share, at_w, above in groups:
        norm = textbook.norm(at_w)
        if not math.isfinite(norm) or 0 < norm < 1e-5:
            raise Unfit("a group's gradient is too small, or not finite")
        total = [t + share * g for t, g in zip(total, above, strict=True)]
        largest = max(largest, textbook.norm(above))
    if 0 < textbook.norm(total) < 1e-5 * largest:
        raise Unfit("the groups' gradients cancel, but for rounding")
    return total


def gradients(loss_fn, params: list[Tensor], l2: float) -> list[Tensor]:
    """Zero where the loss doesn't depend on a parameter."""
    found = textbook.by_backward(loss_fn, params)
    if all(g is None for g in found):
        raise Unfit("no parameter has a gradient, which SAM refuses for every m")
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]
    return [g + l2 * p.detach() if p.requires_grad else g for p, g in zip(params, found, strict=True)]


def by_group(bn: nn.BatchNorm1d, x: Tensor, m: int, size: int) -> Tensor:
    """Batch norm of each group by itself, examples first."""
    rows = m * (len(x) // size)
    return torch.cat([F.batch_norm(part, None, None, bn.weight, bn.bias, True) for part in x.split(rows)])


def apart(ours: list[Tensor], right: list[Tensor]) -> float:
    """Relative error of the whole gradient."""
    a, b = (torch.cat([g.flatten() for g in each]) for each in (ours, right))
    return float((a - b).norm() / (b.norm() if b.norm() > 0 else 1))


def shaky(program, space, net, ids, step, l2, expected, error) -> bool:
    """Whether the definition itself moves as much if weights change in their last digits: at kinks, say."""
    kept = [p.detach().clone() for p in net.parameters()]
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p, value in zip(net.parameters(), kept, strict=True):
                p.copy_(value * (1 + 1e-14 * torch.randn(p.shape, generator=generator)))
        try:
            other, _ = expectation(program, space, net, ids, step, l2)
        except Exception:
            return True
        if apart(other, expected) > 1e-3 * error:
            return True
    return False


def reason(verdict: Verdict) -> str:
    """In few words, the same for like reasons: numbers, names and lines left out."""
    text = verdict.said.partition("evaluations of the batch for each: ")[2] if verdict.way == "loop" else verdict.said
    return re.sub(r"\d+|\(program\.py\S*\)", "#", text)[:90]
