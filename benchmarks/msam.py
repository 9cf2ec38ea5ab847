"""Exact m-SAM against plain SAM on the same batch, and what bounds it.

    python benchmarks/msam.py [--network perceptron transformer resnet encoder convnext mobilenet] [--m 1 2 4]
        [--rounds 7] [--write] [--loop] [--plan] [--device cpu|cuda] [--width 16] [--images 64] [--threads 1]

Random data, SGD with momentum, float32 (products in TF32 on CUDA, where convolutions are by default). Two tables in
Markdown. In the first, absolute numbers are those of plain SAM's step; the others are relative to them:

- time: ratios of times in the same round, medians over the rounds; on a CPU processor time. Without the audit.
- operations: FLOPs of matrix products and convolutions, counted while a step runs. For a perceptron of layers of P, Q,
  R weights plain SAM's are 2B (4P + 6Q + 6R) and m-SAM's at m = 1 2B (3P + 5Q + 5R): the first pass has no weight
  gradients.
- bytes: of the tensors that each operation reads and writes, views left out.
- peak memory: in a step, with weights and momentum. On a CPU bytes of tensors that live at once (`counting.Counts`);
  on CUDA what the allocator had given out.
- over the floor: the step's own time over its floor, the time that the operations take at the rate of a large matrix
  product in this process, or the bytes at that of copying a large tensor, whichever is longer. No program that does
  these operations one after the other from memory is faster; one that finds its operands in a cache, or fuses
  operations, may be faster than the bytes allow, and the ratio is then below one.

The second table has what batches of an unusual kind take at m = 1, relative to plain SAM's step on the same batch: the
first one, with the audit; one of another size than all before; the next of a size that was there before.

With ``--write`` the rows take the place of those of the same networks in docs/benchmarks.md. With ``--loop`` the loop
over groups takes part, which is slow. ``--plan`` prints how each layer's gradients are held.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common import describe_machine, in_turns, median_ratio
from counting import Counts, count, peak_bandwidth, peak_flops
from lowland import SAM
from lowland.optim.sam import backward_by_definition
from networks import NETWORKS, losses

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
HEADS = {
    "m-SAM": ("network", "m", "time", "operations", "bytes", "peak memory", "over the floor"),
    "first steps of m-SAM": ("network, m = 1", "first batch", "another size", "a size seen before"),
}


def optimizer_of(model: nn.Module, m: int | None, audit: bool = False) -> SAM:
    base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return SAM(base, rho=0.05, model=model) if m is None else SAM(base, rho=0.05, model=model, m=m, audit=audit)


def closure_of(optimizer: SAM, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    def closure():
        found = losses(model, x, y)
        if optimizer.m is None:
            found = found.mean()
            found.backward()
        return found

    return closure


def step(optimizer: SAM, closure: Callable[[], Tensor]) -> None:
    optimizer.step(closure)
    if optimizer.m is not None and optimizer.last is None:
        raise SystemExit("the exact pass was not taken")


def one(model, x, y, m):
    optimizer = optimizer_of(model, m)

    def call():
        step(optimizer, closure_of(optimizer, model, x, y))

    call.plan = optimizer.plan if m is not None else None
    return call


def loop(model, x, y, m):
    optimizer = optimizer_of(model, m)

    def call():
        optimizer.zero_grad()
        backward_by_definition(optimizer, lambda: losses(model, x, y))
        optimizer.step()

    return call


PLAIN = "plain SAM"


def ways_of(name, arguments, examples):
    """Name → what makes the step, and its m."""
    found = {PLAIN: (one, None)}
    for m in arguments.m or NETWORKS[name][2]:
        if m < examples:
            found[str(m)] = one, m
            if arguments.loop:
                found[f"{m}, loop"] = loop, m
    return found


def counted(make: Callable[[], Callable[[], None]], device: torch.device) -> Counts:
    """Of one step like those that are timed, after a first."""
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    call = make()
    call()
    found = count(call)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        call()
        found = replace(found, peak=torch.cuda.max_memory_allocated() - before)
    return found


def clock_of(device: torch.device) -> Callable[[], float]:
    return time.process_time if device.type == "cpu" else time.perf_counter


def measure(name, arguments, device, rates):
    """The rows of a network."""

    def make(build, m):
        torch.manual_seed(0)
        return build(*(t.to(device) for t in NETWORKS[name][0](arguments)), m)

    ways = ways_of(name, arguments, len(NETWORKS[name][0](arguments)[1]))
    counts = {way: counted(lambda chosen=chosen: make(*chosen), device) for way, chosen in ways.items()}
    steps = {way: make(*chosen) for way, chosen in ways.items()}
    times = in_turns(steps, range(arguments.rounds), 1, device, clock_of(device))

    whole, rows = counts[PLAIN], []
    for way, its in counts.items():
        seconds = statistics.median(times[way])
        floors = {"operations": its.flops / rates[0], "bytes": its.moved / rates[1]}
        bound = max(floors, key=floors.get)
        if way == PLAIN:
            values = f"{seconds * 1e3:.1f} ms | {its.flops / 1e9:.3g} GFLOP | {its.moved / 1e9:.3g} GB"
            values += f" | {its.peak / 1e6:.3g} MB"
        else:
            ratios = its.flops / whole.flops, its.moved / whole.moved, its.peak / whole.peak
            values = " | ".join(f"{ratio:.2f}" for ratio in (median_ratio(times, way, PLAIN), *ratios))
        rows.append(f"| {NETWORKS[name][1]} | {way} | {values} | {seconds / floors[bound]:.2f} ({bound}) |")
    if arguments.plan:
        print(*(call.plan() for call in steps.values() if getattr(call, "plan", None)), sep="\n")
    return rows


def first_steps(name, arguments, device):
    """The row of a network: the quotient of the least times of three new optimizers."""
    ours, plain = {"first": [], "new": [], "known": []}, {"whole": [], "part": []}
    clock = clock_of(device)
    for _ in range(3):
        model, x, y = (t.to(device) for t in NETWORKS[name][0](arguments))
        part = len(x) * 3 // 4
        exact, usual = optimizer_of(model, 1, audit=True), optimizer_of(model, None)
        for optimizer, size, into in (
            (usual, len(x), []),
            (usual, len(x), plain["whole"]),
            (usual, part, plain["part"]),
            (exact, len(x), ours["first"]),
            (exact, len(x), []),
            (exact, part, ours["new"]),
            (exact, len(x), ours["known"]),
        ):
            started = clock()
            step(optimizer, closure_of(optimizer, model, x[:size], y[:size]))
            into.append(clock() - started)
    values = [
        min(ours[way]) / min(plain[size]) for way, size in (("first", "whole"), ("new", "part"), ("known", "whole"))
    ]
    return f"| {NETWORKS[name][1]} | " + " | ".join(f"{value:.1f}" for value in values) + " |"


def head_of(title: str) -> str:
    return f"| {' | '.join(HEADS[title])} |\n|{'---|' * len(HEADS[title])}"


def write(title: str, name: str, rows: list[str]) -> None:
    """Into the table of this title in the document, in place of the rows of the same network."""
    head, rest = PAGE.read_text(encoding="utf-8").split(f"<!-- {title} -->\n")
    table, rest = rest.split(f"<!-- end of {title} -->")
    kept = {other: [] for other in NETWORKS}
    for row in table.splitlines():
        for other, (_, words, _) in NETWORKS.items():
            if row.startswith(f"| {words} |"):
                kept[other].append(row)
    kept[name] = rows
    lines = "\n".join([head_of(title), *(row for those in kept.values() for row in those)])
    page = f"{head}<!-- {title} -->\n{lines}\n<!-- end of {title} -->{rest}"
    PAGE.write_text(page, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--m", nargs="+", type=int, help="by default those of the table")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="put the rows into docs/benchmarks.md")
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
    clock = clock_of(device)
    (flops, product), (bandwidth, copy) = peak_flops(device, torch.float32, clock), peak_bandwidth(device, clock)
    print(f"{flops / 1e12:.3g} TFLOP/s ({product}), {bandwidth / 1e9:.3g} GB/s ({copy})")
    for name in arguments.network:
        found = {
            "m-SAM": measure(name, arguments, device, (flops, bandwidth)),
            "first steps of m-SAM": [first_steps(name, arguments, device)],
        }
        for title, rows in found.items():
            print(head_of(title), *rows, sep="\n", flush=True)
            if arguments.write:
                write(title, name, rows)


if __name__ == "__main__":
    main()
