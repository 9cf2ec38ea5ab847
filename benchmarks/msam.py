"""Exact m-SAM against plain SAM on the same batch.

    python benchmarks/msam.py [--network perceptron transformer resnet] [--m 1 2 4 16 64] [--rounds 9] [--loop]
        [--device cpu|cuda] [--width 16] [--images 64] [--threads 1]

Ratios are of times in the same round, medians over the rounds; random data, SGD with momentum, float32. With
``--loop`` the loop over groups takes part, which is slow. ``--plan`` prints how each layer's gradients are held. On a
GPU the peak of allocated memory is shown, too, for each way in the first round.
"""

import argparse
import statistics

import torch
from torch import nn
from torch.nn import functional as F

from common import describe_machine, in_turns, median_ratio
from lowland import SAM
from lowland.models import Transformer, mlp, preact_resnet
from lowland.optim import grouped


def perceptron(arguments):
    return mlp([784, 1000, 1000, 10]), torch.randn(128, 784), torch.randint(10, (128,))


def transformer(arguments):
    """That of long2024/shakespeare, 16 windows of 64 characters."""
    model = Transformer(symbols=128, length=64, layers=6, width=128, heads=8, key_size=32)
    return model, torch.randint(128, (16, 64)), torch.randint(128, (16, 64))


def resnet(arguments):
    """ResNet-18 with group norm."""
    n = arguments.images
    model = preact_resnet(width=arguments.width, norm="group")
    return model, torch.randn(n, 3, 32, 32), torch.randint(10, (n,))


NETWORKS = {"perceptron": perceptron, "transformer": transformer, "resnet": resnet}


def losses(model, x, y):
    """One for each example, the mean over its positions."""
    found = F.cross_entropy(model(x).movedim(-1, 1), y, reduction="none")
    return found.flatten(1).mean(1) if found.ndim > 1 else found


def optimizer_of(model: nn.Module, m: int | None) -> SAM:
    return SAM(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), rho=0.05, model=model, m=m)


def plain(model, x, y):
    optimizer = optimizer_of(model, None)

    def closure():
        loss = losses(model, x, y).mean()
        loss.backward()
        return loss

    return lambda: optimizer.step(closure)


def loop(model, x, y, m):
    optimizer = optimizer_of(model, m)

    def step():
        optimizer.zero_grad()
        grouped.backward(optimizer, lambda: losses(model, x, y))
        optimizer.step()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--m", nargs="+", type=int, default=[1, 2, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    print(describe_machine())
    for name in arguments.network:
        measure(name, arguments, device)


def measure(name, arguments, device):
    def made():
        torch.manual_seed(0)
        return (t.to(device) for t in NETWORKS[name](arguments))

    steps, optimizers = {"plain SAM": plain(*made())}, {}
    for m in arguments.m:
        model, x, y = made()
        if m < len(x):
            optimizers[m] = optimizer_of(model, m)
            steps[f"m = {m}"] = lambda o=optimizers[m], n=model, x=x, y=y: o.step(lambda: losses(n, x, y))
            if arguments.loop:
                steps[f"loop, m = {m}"] = loop(*made(), m)
    peaks = {}
    for way, step in steps.items():
        step()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            peaks[way] = torch.cuda.max_memory_allocated()
    times = in_turns(steps, range(arguments.rounds), 1, device)
    print(f"\n{name}: plain SAM {statistics.median(times['plain SAM']) * 1e3:.1f} ms a step")
    for way in list(steps)[1:]:
        memory = f"  peak {peaks[way] / peaks['plain SAM']:.2f} of its memory" if peaks else ""
        print(f"  {way:14} {median_ratio(times, way, 'plain SAM'):6.2f} of plain SAM's time{memory}")
    if arguments.plan:
        for optimizer in optimizers.values():
            optimizer.plan()


if __name__ == "__main__":
    main()
