"""Exact m-SAM against plain SAM on the same batch, and what bounds it.

    python benchmarks/msam.py [--network perceptron transformer resnet] [--m 1 2 4 16 64] [--rounds 9] [--loop]
        [--plan] [--device cpu|cuda] [--width 16] [--images 64] [--threads 1]

Random data, SGD with momentum, float32 (products in TF32 on CUDA, where convolutions are by default). Of plain SAM's
step absolute numbers are printed, of the others what they are relative to those:

- time: ratios of times in the same round, medians over the rounds.
- FLOPs: of matrix products and convolutions, counted while a step runs. For a perceptron of layers of P, Q, R weights
  plain SAM's are 2B (4P + 6Q + 6R) and m-SAM's at m = 1 2B (3P + 5Q + 5R): the first pass has no weight gradients.
- bytes: of the tensors that each operation reads and writes, views left out.
- peak: of memory in a step, with weights and momentum. On a CPU bytes of tensors that live at once (`counting.Counts`);
  on CUDA what the allocator had given out.
- floor: the time that the FLOPs take at the rate of a large matrix product in this process, or the bytes at that of
  copying a large tensor, whichever is longer; the last column is the step's own time over it, and which it was. No
  program that does these operations one after the other from memory is faster; one that finds its operands in a cache,
  or fuses operations, may be faster than the bytes allow, and the ratio is then below one.

With ``--loop`` the loop over groups takes part, which is slow. ``--plan`` prints how each layer's gradients are held.
"""

import argparse
import statistics
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from common import describe_machine, in_turns, median_ratio
from counting import count, peak_bandwidth, peak_flops
from lowland import SAM
from lowland.models import Transformer, mlp, preact_resnet
from lowland.optim.sam import backward_by_definition


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


def plain(model, x, y, m):
    optimizer = optimizer_of(model, None)

    def closure():
        loss = losses(model, x, y).mean()
        loss.backward()
        return loss

    return lambda: optimizer.step(closure)


def exact(model, x, y, m):
    optimizer = optimizer_of(model, m)

    def step():
        optimizer.step(lambda: losses(model, x, y))

    step.plan = optimizer.plan
    return step


def loop(model, x, y, m):
    optimizer = optimizer_of(model, m)

    def step():
        optimizer.zero_grad()
        backward_by_definition(optimizer, lambda: losses(model, x, y))
        optimizer.step()

    return step


PLAIN = "plain SAM"


def ways_of(arguments, examples):
    """Name → what makes the step, and its m."""
    found = {PLAIN: (plain, None)}
    for m in arguments.m:
        if m < examples:
            found[f"m = {m}"] = exact, m
            if arguments.loop:
                found[f"loop, m = {m}"] = loop, m
    return found


def counted(make, device):
    """Of one step like those that are timed, after a first."""
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    step = make()
    step()
    found = count(step)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        found = replace(found, peak=torch.cuda.max_memory_allocated() - before)
    return found


def measure(name, arguments, device, rates):
    def make(build, m):
        torch.manual_seed(0)
        return build(*(t.to(device) for t in NETWORKS[name](arguments)), m)

    ways = ways_of(arguments, len(NETWORKS[name](arguments)[1]))
    counts = {way: counted(lambda chosen=chosen: make(*chosen), device) for way, chosen in ways.items()}
    steps = {way: make(*chosen) for way, chosen in ways.items()}
    times = in_turns(steps, range(arguments.rounds), 1, device)

    print(f"\n{name:16}{'time':>10}{'GFLOP':>10}{'GB':>10}{'peak MB':>10}{'over the floor':>18}")
    whole = counts[PLAIN]
    for way, its in counts.items():
        seconds = statistics.median(times[way])
        floors = {"FLOPs": its.flops / rates[0], "bytes": its.moved / rates[1]}
        bound = max(floors, key=floors.get)
        if way == PLAIN:
            values = f"{seconds * 1e3:7.1f} ms{its.flops / 1e9:10.3f}{its.moved / 1e9:10.3f}{its.peak / 1e6:10.1f}"
        else:
            ratios = its.flops / whole.flops, its.moved / whole.moved, its.peak / whole.peak
            values = "".join(f"{ratio:10.2f}" for ratio in (median_ratio(times, way, PLAIN), *ratios))
        print(f"{way:16}{values}{seconds / floors[bound]:10.2f} ({bound})")
    if arguments.plan:
        for step in steps.values():
            if hasattr(step, "plan"):
                step.plan()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--m", nargs="+", type=int, default=[1, 2, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=16, help="of the ResNet")
    parser.add_argument("--images", type=int, default=64, help="in the ResNet's batch")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if device.type == "cuda":  # convolutions in float32 use it by default
        torch.set_float32_matmul_precision("high")
        print(torch.cuda.get_device_name(device))
    print(describe_machine())
    (flops, product), (bandwidth, copy) = peak_flops(device, torch.float32), peak_bandwidth(device)
    print(f"{flops / 1e12:.3g} TFLOP/s ({product}), {bandwidth / 1e9:.3g} GB/s ({copy})")
    for name in arguments.network:
        measure(name, arguments, device, (flops, bandwidth))


if __name__ == "__main__":
    main()
