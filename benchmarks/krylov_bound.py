"""How few products could certify the Hessian's top eigenpair: a bound from below, beside what is used.

    LOWLAND_DATA=... python benchmarks/krylov_bound.py [--arm sam] [--steps 1000] [--points 16] [--starts 3]

A method that begins with one vector b and has made k products knows K = span(b, Hb, ..., Hᵏ⁻¹b) and its images. The
smallest ‖Hv − θv‖ over all unit v in K and all θ within tol · λ₁ of λ₁ is a singular value of a (k + 1) × k matrix of
Lanczos coefficients. Until it is tol · λ₁, no choice of v and θ can be a certificate, by whatever means it is found.

Beginnings: random vectors, and the vector nearest to the answer in the span of the five eigenvectors of the check
before, which no method can know. From known vectors a new eigenvalue is never seen. Therefore the third bound: products
until the largest Ritz value of a random start comes within a tolerance of λ₁, so that a λ₁ of which no known vector has
a part is not missed. The network is that of ``long2024/mnist`` at laptop scale. Needs the MNIST files.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from common import describe_machine
from eigenpairs import power_iteration
from lowland.curvature import Eigenpairs, Hessian, Objective
from lowland.curvature.lanczos import Operator, eigenpairs
from lowland.curvature.wanted import Wanted
from lowland.errors import LowlandError
from lowland.papers import find

TOL = 1e-3
KNOWN = 5  # eigenvectors of the check before
MOST = 40  # products
VALUES = 41  # of θ that are tried


def coefficients(product: Callable[[Tensor], Tensor], start: Tensor) -> Iterable[Tensor]:
    """After each product the matrix ``(k + 1, k)`` of H on the Krylov space, float64: HQ = Q' times it."""
    basis = [start / start.norm()]
    matrix = torch.zeros(MOST + 1, MOST, dtype=torch.float64)
    for k in range(MOST):
        image = product(basis[k])
        for _ in range(2):
            for row, vector in enumerate(basis):
                part = torch.dot(vector, image)
                matrix[row, k] += part.item()
                image = image - part * vector
        matrix[k + 1, k] = image.norm().item()
        basis.append(image / image.norm())
        yield matrix[: k + 2, : k + 1]


def seen(product: Callable[[Tensor], Tensor], start: Tensor, least: float) -> int:
    """Products until the largest Ritz value, the largest vᵀHv of any unit v in the space, is at least ``least``."""
    k = 0
    for k, matrix in enumerate(coefficients(product, start), 1):
        if torch.linalg.eigvalsh(matrix[:k])[-1].item() >= least:
            break
    return k


def fewest(product: Callable[[Tensor], Tensor], start: Tensor, top: float) -> int:
    """Products until some v and θ have a residual of at most TOL · top."""
    values = top * (1 + TOL * torch.linspace(-1, 1, VALUES, dtype=torch.float64))
    k = 0
    for k, matrix in enumerate(coefficients(product, start), 1):
        shifted = matrix - values[:, None, None] * torch.eye(k + 1, k, dtype=torch.float64)
        # Between two values it is smaller by half their distance at most.
        if torch.linalg.svdvals(shifted)[:, -1].min().item() <= TOL * top * (1 + 1 / (VALUES - 1)):
            break
    return k


def measured(
    objective: Objective, operator: Operator, before: Tensor, pairs: Eigenpairs, starts: int, draws: torch.Generator
) -> dict[str, list[int]]:
    """Products of each way, one entry for each random vector; of power iteration its error too, in thousandths."""
    n, product, top, vector = operator.n, operator.product, pairs.values[0].item(), pairs.vectors[0]
    nearest = (before @ vector) @ before
    nearest = nearest / nearest.norm()
    randoms = [torch.randn(n, generator=draws) for _ in range(starts)]
    randoms = [random / random.norm() for random in randoms]
    value, used, _ = power_iteration(lambda offset: objective.loss_and_gradient(offset)[1], n, 1e-2)
    return {
        "power iteration": [used],
        "its error, in thousandths": [round(1000 * abs(value / top - 1))],
        "the search, random start": [
            eigenpairs(operator, Wanted(tol=TOL, generator=torch.Generator().manual_seed(seed))).products
            for seed in range(starts)
        ],
        "the search, last eigenvector": [eigenpairs(operator, Wanted(tol=TOL, start=before[0])).products],
        "bound, random start": [fewest(product, random, top) for random in randoms],
        "bound, nearest known vector": [fewest(product, nearest, top)],
        "bound, λ₁ seen to 1e-3, random": [seen(product, random, (1 - TOL) * top) for random in randoms],
        "bound, λ₁ seen to 1e-2, random": [seen(product, random, (1 - 10 * TOL) * top) for random in randoms],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", default="sam", choices=("gd", "sam"), help="how it is trained")
    parser.add_argument("--steps", type=int, default=1000, help="training steps before the first point")
    parser.add_argument("--points", type=int, default=16, help="of training, at which it is measured")
    parser.add_argument("--apart", type=int, default=10, help="training steps from one point to the next")
    parser.add_argument("--starts", type=int, default=3, help="random vectors at each point")
    arguments = parser.parse_args()
    experiment = find("long2024/mnist")
    arm = experiment.configure("laptop", {})[arguments.arm]
    torch.manual_seed(0)
    task = experiment.prepare(arm, torch.device("cpu"))
    x, y = task.batch(0)

    def closure() -> Tensor:
        loss = task.loss_fn(task.model(x), y)
        loss.backward()
        return loss

    def train(steps: int) -> None:
        for _ in range(steps):
            task.optimizer.step(closure)

    counts: dict[str, list[int]] = {}
    draws = torch.Generator().manual_seed(0)
    train(arguments.steps)
    known = None
    for point in range(arguments.points + 1):
        hessian = Hessian(task.model, task.loss_fn, [(x, y)])
        with hessian.operator() as operator:
            before, pairs = known, eigenpairs(operator, Wanted(KNOWN, TOL / 10))
            known = pairs.vectors
            if before is not None:
                found = measured(hessian.objective, operator, before, pairs, arguments.starts, draws)
                for name, values in found.items():
                    counts.setdefault(name, []).extend(values)
                shares = " ".join(f"{value:.3f}" for value in (pairs.values / pairs.values[0]).tolist())
                means = " ".join(f"{statistics.mean(values):.1f}" for values in found.values())
                print(f"point {point}: λ₁ {pairs.values[0]:.2f}, over it {shares}; products {means}", flush=True)
        train(arguments.apart)
    print(describe_machine())
    print(f"MNIST, {len(x)} images, {len(known[0])} parameters, after {arguments.steps} steps of {arguments.arm}")
    print(f"{'products':34}{'mean':>7}{'fewest':>8}{'most':>6}")
    for name, values in counts.items():
        print(f"{name:34}{statistics.mean(values):7.1f}{min(values):8}{max(values):6}")


if __name__ == "__main__":
    try:
        main()
    except LowlandError as error:
        sys.exit(str(error))
