"""What a check of the Hessian norm costs, and of what: a ResNet-18 on 256 images the size of CIFAR-10's.

    python benchmarks/check_cost.py [--width 16] [--images 256] [--steps 30] [--rounds 5] [--threads 1]

Seconds of processor time, over all threads, and what doesn't depend on the machine: forward passes by the type of their
result, and Hessian products. The images are random, and learned by heart for ``--steps`` steps of SGD. The first check
is from a cold start. Before each of the others the weights move on by a step, and it starts from what the one before
found: by itself, as `lowland.curvature.stability`, and as a check of a run, which knows what the first one found of the
gradient.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common import describe_machine
from lowland.curvature import Hessian, Objective
from lowland.curvature.processes import Product
from lowland.curvature.stability import stability_of
from lowland.models import preact_resnet


def seconds(call: Callable[[], Any]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def kept(stack: ExitStack, hessian: Hessian, made: list[Product]) -> None:
    """Differentiate once, and keep the graph."""
    made.append(stack.enter_context(hessian.products()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = preact_resnet((2, 2, 2, 2), arguments.width)
    x, y = torch.randn(arguments.images, 3, 32, 32), torch.randint(10, (arguments.images,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    for _ in range(arguments.steps):
        train()
    passes: Counter[str] = Counter()
    model.register_forward_hook(lambda module, given, out: passes.update([str(out.dtype).removeprefix("torch.")]))

    def check(name: str, start: Tensor | None, known: str | None) -> tuple[Tensor, str]:
        """One check, with a line about it; its vector, and what it found of the gradient."""
        passes.clear()
        hessian = Hessian.of(Objective(model, F.cross_entropy, [(x, y)]), known)
        started = time.process_time()
        measured = stability_of(hessian, lr=0.05, rho=0.05, start=start)
        taken.setdefault(name, []).append(time.process_time() - started)
        counted = f"{measured.products} products, passes {dict(sorted(passes.items()))}"
        print(f"{name}: {counted}{', not certified: ' * bool(measured.reason)}{measured.reason}", flush=True)
        return measured.vector, hessian.cut_off()

    taken: dict[str, list[float]] = {}
    start = known = None
    parts: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> None:
        parts.setdefault(name, []).append(seconds(call))

    for _ in range(arguments.rounds):
        if known is None:
            start, known = check("check, cold", None, None)
        else:
            check("check, warm, by itself", start, None)
            start, _ = check("check, warm, of a run", start, known)
        train()
        hessian = Hessian(model, F.cross_entropy, [(x, y)])
        objective, n = hessian.objective, hessian.shape[0]
        timed("gradient", objective.loss_and_gradient)
        timed("gradient in float64", objective.in_double().loss_and_gradient)
        timed("gradient against losses, once", hessian.cut_off)
        with ExitStack() as stack:
            vector = torch.randn(n, generator=torch.Generator().manual_seed(0))
            made: list[Product] = []
            timed("gradient with its graph", partial(kept, stack, hessian, made))
            made[0](vector)  # the first is checked
            timed("product", partial(made[0], vector))
    gradient = statistics.median(parts["gradient"])
    print(describe_machine())
    print(f"ResNet-18 of width {arguments.width}, {n} parameters, {arguments.images} images")
    print(f"{'':32}{'seconds':>9}{'gradients':>11}")
    for name, times in [*parts.items(), *taken.items()]:
        print(f"{name:32}{statistics.median(times):9.2f}{statistics.median(times) / gradient:11.2f}")


if __name__ == "__main__":
    main()
