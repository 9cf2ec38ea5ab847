"""Why v_hard/v_easy of `springer2024/toy-separate` falls with SAM: each part of it alone, at the same loss, against m.

    python benchmarks/toy_ratio.py [--seeds 20]

Prints tables of v_hard/v_easy and of the hard feature's share of the margin (half the distance of the classes' mean
outputs) for gradient descent, and their differences from it with 95 % intervals, paired by seed: after the same number
of epochs, and where the training loss first is 0.01. Points, weights and batches are those of the desk run. It takes
some ten minutes of one core.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from operator import attrgetter

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lowland.data.batches import seeded
from lowland.papers.springer2024.data import Points, draw_points, together
from lowland.papers.springer2024.toy_networks import Networks, SeparateWeights
from lowland.training.statistics import Estimate

EPOCHS = sorted({0, 0.25, 0.5, 1, 1.5, *range(2, 15), *range(15, 301, 15)})  # of 60 steps with η = 0.01
LOSS = 0.01


@dataclass(frozen=True)
class Way:
    """What of the phantom parameters a step takes; ``only`` is the sub-network (0 easy) that keeps its perturbation."""

    name: str
    rho: float = 0.1
    weights: bool = False
    scaling: bool = False
    features: bool = False
    last_only: bool = False
    same_sum: bool = False  # of the importance weights of a batch, before and after the perturbation
    only: int | None = None
    epochs: tuple[float, float] = (0, math.inf)  # in which it isn't gradient descent


GD = Way("gradient descent", rho=0)
SAM = Way("SAM", weights=True, scaling=True, features=True)
LSAM = replace(SAM, name="LSAM", last_only=True)
WEIGHTS = Way("weights alone", weights=True)
SAME_SUM = Way("weights alone, same sum", weights=True, same_sum=True)
SCALING = Way("scaling alone", scaling=True)
FEATURES = Way("features alone", features=True)
EASY, HARD = (replace(FEATURES, name=f"features of {n}", only=k) for k, n in enumerate(("easy", "hard")))
EARLY = replace(FEATURES, name="features, epochs 0-15", epochs=(0, 15))
LATE = replace(FEATURES, name="features, after 15", epochs=(15, math.inf))


class Masks:
    """What each of the ways takes, as columns."""

    def __init__(self, ways: list[Way]):
        def column(wanted: Callable[[Way], bool]) -> Tensor:
            return torch.tensor([[wanted(way) for way in ways]])

        self.ways = ways
        self.weights, self.scaling, self.same_sum, self.last_only = (
            column(attrgetter(name))[..., None] for name in ("weights", "scaling", "same_sum", "last_only")
        )
        parts = [column(lambda way, k=k: way.features and way.only in (None, k)) for k in (0, 1)]
        self.features = torch.stack(parts, 2)[..., None]

    def networks(self, lr: float, epoch: float) -> Networks:
        """With the radii of that epoch."""
        rho = [way.rho if way.epochs[0] <= epoch < way.epochs[1] else 0.0 for way in self.ways]
        given, no = torch.tensor([rho], dtype=torch.float32), torch.tensor([[False]])
        return Networks(torch.full_like(given, lr), given, self.last_only[..., 0], no, no, no)


def step(masks: Masks, networks: Networks, w: SeparateWeights, x: Tensor, y: Tensor) -> SeparateWeights:
    """The weights after a step on a batch; x (s, n, 2), y (s, n)."""
    h = w.hidden(x)
    d = w.pulls(h, y)
    there = w.perturbed(w.gradient(d, h, x), networks.rho, networks.last_only)
    pulled = there.pulls(there.hidden(x), y)
    scale = d.abs().sum(2, keepdim=True) / pulled.abs().sum(2, keepdim=True)
    pulled = torch.where(masks.same_sum, pulled * scale, pulled)
    d = torch.where(masks.weights, pulled, d)
    v = torch.where(masks.scaling, there.v, w.v)
    pairs = zip(w.tensors[:3], there.tensors[:3], strict=True)
    seen = [torch.where(masks.features, after, before) for before, after in pairs]
    at = SeparateWeights(*seen, v)
    return w.plus(at.gradient(d, at.hidden(x), x), -networks.lr)


def grouped(masks: Masks, networks: Networks, w: SeparateWeights, x: Tensor, y: Tensor, m: int) -> SeparateWeights:
    """The same with a perturbation for each m points of the batch: the mean of the groups' steps."""
    s, n = y.shape
    each = SeparateWeights(*(t.repeat_interleave(n // m, 0) for t in w.tensors))
    after = step(masks, networks, each, x.reshape(-1, m, 2), y.reshape(-1, m))
    return SeparateWeights(*(t.view(s, n // m, *t.shape[1:]).mean(1) for t in after.tensors))


def look(w: SeparateWeights, points: Points) -> dict[str, Tensor]:
    """Training loss, v_hard/v_easy, and the hard feature's share of the margin, (s, k) each."""
    parts = w.features(w.hidden(points.x)) * w.v[:, :, None]
    y = points.hard[:, None, :, None]
    means = [(parts * (y * sign > 0)).sum(2) / (y * sign > 0).sum(2) for sign in (1, -1)]
    margin = (means[0] - means[1]) / 2
    return {
        "loss": softplus(-y[..., 0] * parts.sum(-1)).mean(2),
        "ratio": w.v[..., 1].abs() / w.v[..., 0].abs(),
        "share": margin[..., 1] / margin.sum(-1),
    }


def begun(
    seeds: int, ways: int, correlation: float = 1.0, x_easy: float = 0, v: float = 0
) -> tuple[Points, SeparateWeights]:
    """The training points of each seed, and the weights as drawn, as often as there are ways; ``v`` if it isn't 0."""
    points = together([draw_points(300, 3, 0, correlation, seed, 0) for seed in range(seeds)])
    points = points.to(torch.device("cpu"), torch.float32)
    if x_easy:
        points.x[..., 0] = points.x[..., 0].sign() * x_easy
    drawn = [SeparateWeights.initial(seed, 20).tensors for seed in range(seeds)]
    w = SeparateWeights(*(torch.cat(each).repeat_interleave(ways, 1) for each in zip(*drawn, strict=True)))
    return points, replace(w, v=torch.full_like(w.v, v)) if v else w


def batches(points: Points, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Those of one epoch after another, in the desk run's order."""
    seeds = len(points.x)
    rows = torch.arange(seeds)[:, None]
    for epoch in count():
        orders = torch.stack([torch.randperm(300, generator=seeded(seed, epoch)) for seed in range(seeds)])
        x, y = points.x[rows, orders], points.hard[rows, orders]
        yield from zip(x.split(batch, 1), y.split(batch, 1), strict=True)


def by_itself(seeds: int) -> None:
    """Print the loss of gradient descent after 15 epochs where one of the two sub-networks is there alone."""
    masks = Masks([GD])
    for k, name in enumerate(("easy", "hard")):
        points, w = begun(seeds, 1)
        kept = torch.tensor([k == 0, k == 1])
        w = SeparateWeights(*(t * kept[:, None] for t in w.tensors[:3]), w.v * kept)  # zeros stay zeros
        for _, (x, y) in zip(range(15 * 60), batches(points, 5), strict=False):
            w = step(masks, masks.networks(0.01, 0), w, x, y)
        print(f"loss after 15 epochs, the {name} feature alone: {look(w, points)['loss'].mean():.3f}")


def subnetworks(seeds: int) -> None:
    """Print the mean of ‖g_j‖²/v_j² at the start, where g_j is the gradient of a sub-network on batches of a size."""
    points, w = begun(seeds, 1)
    for batch in (300, 30, 5, 1):
        each = SeparateWeights(*(t.repeat_interleave(300 // batch, 0) for t in w.tensors))
        x, y = points.x.reshape(-1, batch, 2), points.hard.reshape(-1, batch)
        h = each.hidden(x)
        g = each.gradient(each.pulls(h, y), h, x)
        squares = sum(part.square().flatten(3).sum(3) for part in g.tensors[:3]) / each.v**2
        easy, hard = squares.mean((0, 1)).tolist()
        print(f"squared gradient of a sub-network at the start, batch {batch}: easy {easy:.3f}, hard {hard:.3f}")


def run(
    title: str, ways: list[Way], seeds: int, *, batch: int = 5, lr: float = 0.01, m: int = 0, correlation: float = 1.0,
    x_easy: float = 0, v: float = 0,
) -> None:  # fmt: skip
    """Train for lr · steps = 180, as the desk run does, and print a table; ``x_easy`` is |x_easy| of all points."""
    points, w = begun(seeds, len(ways), correlation, x_easy, v)
    masks, drawn, done, track = Masks(ways), batches(points, batch), 0, []
    for wanted in EPOCHS:
        while done < round(wanted * 0.6 / lr):
            x, y = next(drawn)
            w = grouped(masks, masks.networks(lr, done * lr / 0.6), w, x, y, m or batch)
            done += 1
        track.append(look(w, points))
    curves = {key: torch.stack([each[key] for each in track]).double() for key in track[0]}
    print(f"\n{title}: batch {batch}, η {lr:g}, m {m or batch}")
    for key, name in (("ratio", "v_hard/v_easy"), ("share", "share of the margin")):
        ends, same = curves[key][-1], at_loss(curves["loss"], curves[key])
        at = "not all get to" if same[:, 0].isnan().any() else f"{same[:, 0].mean():.4f} at"
        print(f"{name}: {ends[:, 0].mean():.4f} at the end, {at} a loss of {LOSS:g}; less that:")
        for k, way in enumerate(ways[1:], 1):
            end, level = (estimate(each[:, k] - each[:, 0]) for each in (ends, same))
            print(f"  {way.name:25s} ρ {way.rho:<5g} at the end {end}   at the same loss {level}", flush=True)


def at_loss(losses: Tensor, values: Tensor) -> Tensor:
    """The values where the losses first are `LOSS`, linear in log loss between checks; nan where they never are."""
    below = losses <= LOSS
    i = below.double().argmax(0).clamp(min=1)[None]
    (before, after), (low, high) = (
        [t.gather(0, i - 1)[0], t.gather(0, i)[0]] for t in (losses.log(), values)
    )  # fmt: skip
    share = (math.log(LOSS) - before) / (after - before)
    return torch.where(below.any(0), low + share * (high - low), math.nan)


def estimate(d: Tensor) -> str:
    """Mean and 95 % t-interval."""
    if not torch.isfinite(d).all():
        return "not all get there".ljust(29)
    found = Estimate(d.mean().item(), (d.std() / math.sqrt(len(d))).item(), len(d))
    low, high = found.interval or (math.nan, math.nan)
    return f"{found.mean:+.4f} ({low:+.4f} to {high:+.4f})"


def main() -> None:
    """All tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    subnetworks(seeds)
    by_itself(seeds)
    larger = [replace(LSAM, rho=rho) for rho in (0.3, 0.5, 0.85, 1.0)]
    alone = [WEIGHTS, SCALING, FEATURES, EASY, HARD]
    run("As in the desk run", [GD, SAM, LSAM, *alone, SAME_SUM, EARLY, LATE, *larger], seeds)
    for m in (1, 5, 30):
        run("Groups", [GD, SAM, LSAM, FEATURES], seeds, batch=30, lr=0.05, m=m)
    run("Full batch", [GD, SAM, LSAM, *alone, replace(SAM, rho=0.3)], seeds, batch=300, lr=0.1)
    run("Full batch, |x_easy| 0.55", [GD, WEIGHTS, SAME_SUM], seeds, batch=300, lr=0.1, x_easy=0.55)
    for correlation in (0.98, 0.9):
        run(f"Correlation {correlation}", [GD, SAM, LSAM, FEATURES], seeds, correlation=correlation)
    for v in (0.3, 2):
        run(f"Both v = {v:g} at the start", [GD, SAM], seeds, v=v)


if __name__ == "__main__":
    main()
