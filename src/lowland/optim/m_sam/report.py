"""What a step did, and how: losses and gradient norms of the groups, and a table of ways and costs."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.optim.m_sam.gradients import Built, Factors, Piece
from lowland.optim.m_sam.groups import Groups


@dataclass(frozen=True)
class Last:
    """The groups of the last batch, each of shape (groups,), on the device.

    Attributes:
        losses: mean over each group, at w.
        perturbed_losses: at the group's own w + e.
        gradient_norms: of the group's mean loss (with ``l2``, of its sum with the term) at w, over the parameters that
            climb; float64.
        perturbed_gradient_norms: the same at the group's own w + e; None unless ``SAM(..., perturbed_norms=True)``.
    """

    losses: Tensor
    perturbed_losses: Tensor
    gradient_norms: Tensor
    perturbed_gradient_norms: Tensor | None = None


def last(parts: list[Last]) -> Last:
    """The groups of all parts of a batch together."""
    at_moved = [part.perturbed_gradient_norms for part in parts]
    return Last(
        torch.cat([part.losses for part in parts]),
        torch.cat([part.perturbed_losses for part in parts]),
        torch.cat([part.gradient_norms for part in parts]),
        torch.cat([norms for norms in at_moved if norms is not None]) if at_moved[0] is not None else None,
    )


def means(losses: Tensor, groups: Groups) -> Tensor:
    """The mean of each group's ``losses``, which are ``(examples,)``."""
    return groups.sums(losses.detach()) / groups.sizes.to(losses)


@dataclass(frozen=True)
class Row:
    """How the groups' gradients of one parameter are held.

    Attributes:
        name: of the parameter.
        way: ``"pairwise"``, as products that are never written out, or ``"built"``, one tensor for each group.
        flops: operations that plain SAM doesn't have, those it has and this doesn't subtracted; memory traffic left
            out. None where the rule doesn't say.
        bytes: held between the passes.
    """

    name: str
    way: str
    flops: int | None
    bytes: int


def rows(pieces: dict[Tensor, Piece], names: dict[Tensor, str], groups: Groups) -> list[Row]:
    """A row for each parameter, in the model's order."""
    found = []
    for p, name in names.items():
        piece = pieces.get(p)
        if isinstance(piece, Factors):
            flops = int(piece.cost(groups, memory=False) - piece.built_cost(groups, memory=False))
            found.append(Row(name, "pairwise", flops, piece.held))
        elif isinstance(piece, Built):
            count = piece.stack.numel()
            found.append(Row(name, "built", 4 * count, count * piece.stack.element_size()))
    return found


@dataclass(frozen=True)
class Report:
    """What a step did.

    Attributes:
        loss: mean over the batch, at w.
        last: see `Last`.
        rows: how the groups' gradients were held, of the first part of the batch.
        parts: the groups of each part.
    """

    loss: Tensor
    last: Last
    rows: list[Row]
    parts: list[Groups]

    def table(self, foot: str) -> str:
        """The rows, to read, above ``foot``."""
        groups, count = self.parts[0], sum(part.count for part in self.parts)
        head = f"m-SAM of {groups.whole} examples in {count} groups of {groups.m}"
        if len(self.parts) > 1:
            head += f", in {len(self.parts)} parts for memory; the first, of {groups.count} groups:"
        return table(self.rows, head, foot)


def table(found: Iterable[Row], head: str, foot: str) -> str:
    """Rows as a table to read, with sums, between ``head`` and ``foot``."""
    lines = [("parameter", "way", "MFLOPs more", "MB")]
    lines += [(r.name, r.way, "" if r.flops is None else f"{r.flops / 1e6:.2f}", f"{r.bytes / 1e6:.2f}") for r in found]
    total = sum(r.flops or 0 for r in found), sum(r.bytes for r in found)
    lines.append(("together", "", f"{total[0] / 1e6:.2f}", f"{total[1] / 1e6:.2f}"))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    body = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in lines]
    return "\n".join(line for line in (head, *body, foot) if line)
