"""How fast ResNet-18 trains on images of 32×32: a step of SGD, a step of SAM, and how far both are from the peak.

    python benchmarks/epoch.py [--width 16] [--batch 64] [--norm batch|group] [--device cpu|cuda] [--amp]
                               [--channels-last] [--compile] [--rounds 5] [--steps 4] [--peak TFLOP/S]

Random images that lie on the device; cropping and flipping them, a batch at a time, is part of a step. SGD with
momentum; float32, or bfloat16 autocast with ``--amp``. Times are medians over the rounds, ratios of times in the same
round. FLOPs are those that torch counts in a forward and a backward pass, one for a product and one for a sum;
``--width 64 --batch 128`` is the paper's network.
"""

import argparse
import copy
import statistics
import time

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from common import describe_machine, in_turns, median_ratio
from counting import peak_flops
from lowland import SAM
from lowland.data import random_crop_flip
from lowland.models import preact_resnet

EPOCH = 50_000
GRADIENTS = "two gradients and the base step alone"
PASSES = {"SGD": 1, "SAM": 2, GRADIENTS: 2}


def sgd(params):
    return torch.optim.SGD(params, lr=0.01, momentum=0.9)


def build(side, model, evaluate):
    """The step of a side; ``evaluate(model, x)`` does a forward and a backward pass."""
    base = sgd(model.parameters())
    if side == "SAM":
        optimizer = SAM(base, rho=0.05, model=model)
        return lambda x: optimizer.step(lambda: evaluate(model, x))

    def step(x):
        for _ in range(PASSES[side]):
            base.zero_grad()
            evaluate(model, x)
        base.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--norm", choices=("batch", "group"), default="batch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true", help="the network, with torch.compile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="timed together")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device; measured if not given")
    arguments = parser.parse_args()
    device, dtype = torch.device(arguments.device), torch.bfloat16 if arguments.amp else torch.float32
    if device.type == "cuda":  # convolutions in float32 use it by default, and products must too to be their peak
        torch.set_float32_matmul_precision("high")
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format

    torch.manual_seed(0)
    model = preact_resnet(width=arguments.width, norm=arguments.norm).to(device, memory_format=layout)
    images = torch.rand(arguments.batch, 3, 32, 32, device=device)
    y = torch.randint(10, (arguments.batch,), device=device)
    generator = torch.Generator(device).manual_seed(0)

    def evaluate(model, x):
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.amp):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    def augmented():
        return random_crop_flip(images, generator=generator).to(memory_format=layout)

    with FlopCounterMode(display=False) as counter:
        evaluate(copy.deepcopy(model), augmented())
    flops = counter.get_total_flops() / arguments.batch

    def timed(side):
        network = copy.deepcopy(model)
        step = build(side, torch.compile(network) if arguments.compile else network, evaluate)
        return lambda: step(augmented())

    sides = {side: timed(side) for side in PASSES}
    started = time.perf_counter()
    in_turns(sides, range(1), 1, device)
    warm_up = time.perf_counter() - started
    times = in_turns(sides, range(arguments.rounds), arguments.steps, device)
    peak, source = (arguments.peak * 1e12, "given") if arguments.peak else peak_flops(device, dtype)

    options = ["channels last"] * arguments.channels_last + ["compiled"] * arguments.compile
    where = torch.cuda.get_device_name(device) + "; " if device.type == "cuda" else ""
    number = "bfloat16" if arguments.amp else "TF32" if device.type == "cuda" else "float32"
    print(where + describe_machine())
    print(
        f"ResNet-18, pre-activation, width {arguments.width}, {arguments.norm} norm, {arguments.batch} images a batch"
    )
    print(f"{', '.join([number, *options])}; {sum(p.numel() for p in model.parameters()):,} parameters")
    print(f"peak {peak / 1e12:.3g} TFLOP/s ({source}); warm-up {warm_up:.1f} s")
    for side, passes in PASSES.items():
        rate = arguments.batch * arguments.steps / statistics.median(times[side])
        print(
            f"  {side:40}{rate:9,.0f} images/s{EPOCH / rate:9.1f} s for {EPOCH:,}"
            f"{passes * flops / 1e9:8.3f} GFLOP an image{passes * flops * rate / peak:8.1%} of the peak"
        )
    print(f"SAM takes {median_ratio(times, 'SAM', GRADIENTS):.3f} of {GRADIENTS}, ", end="")
    print(f"{median_ratio(times, 'SAM', 'SGD'):.2f} of SGD")


if __name__ == "__main__":
    main()
