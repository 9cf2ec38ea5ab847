"""Many runs as one compiled program against one at a time and eager: training steps a second and run.

    python benchmarks/grid.py [--rounds 7] [--only toy-512]

Toy: 10-32-2, batch 5 of 300 examples, shuffled by seed, 512 and 128 runs. Digits: the grid of long2024/digits, 36 runs
with an ascent and 12 without, full batch, with a check every 50 steps. Stacked images: the network of Springer et al.
2024, batch 100, 63 runs, on a GPU only. Both ways draw the batches that a run draws; a ratio of 200 says that the
stack trains 200 times as many runs a second. Compiling is timed apart, in processes of its own: with an empty cache,
and with the one that the first left behind. The floor is what the matrix products alone take at the rate that torch
reaches on them here.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

import lowland.training as training
from common import describe_machine, in_turns
from lowland.data import Shuffled
from lowland.models import mlp, strided_cnn
from lowland.optim import SAM
from lowland.papers.long2024.digits import EXPERIMENT as DIGITS
from lowland.training import Experiment, Snapshot, Task, ours
from lowland.training.vectorized import Runs, chunk_size
from lowland.training.vectorized.batches import VectorizedBatches
from lowland.training.vectorized.step import VectorizedStep


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Of the toy and the stacked images."""

    momentum: float = training.setting("of SGD", low=0)


_data: dict[Any, Any] = {}


def examples(n: int, shape: tuple[int, ...], device: torch.device) -> Any:
    """The same random examples for every run."""
    if (n, shape) not in _data:
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(n, *shape, generator=draw)
        _data[n, shape] = x.to(device), (x.flatten(1)[:, 0] > 0).long().to(device)
    return _data[n, shape]


def task(model: Any, settings: Any, data: Any, batch_size: int) -> Task:
    base = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum)
    draw = Shuffled(*data, batch_size, settings.seed)
    return Task(model, F.cross_entropy, SAM(base, rho=settings.rho), draw, check=None)  # type: ignore[arg-type]


def toy(settings: Any, device: torch.device) -> Task:
    return task(mlp([10, 32, 2]).to(device), settings, examples(300, (10,), device), 5)


def stacked_images(settings: Any, device: torch.device) -> Task:
    return task(strided_cnn(64, 32, 2).to(device), settings, examples(10_000, (3, 64, 32), device), 100)


def experiment(prepare: Callable[..., Task], momentum: float) -> Experiment:
    values = {"lr": 0.01, "rho": 0.05, "steps": 18_000, "check_every": 18_000, "seed": 0, "momentum": momentum}
    scales = {"paper": {name: ours(value) for name, value in values.items()}}
    return Experiment(
        prepare.__name__, "", "", (), Settings, scales, {"sam": {}}, {}, (), (), {}, prepare
    )  # fmt: skip


CASES: dict[str, tuple[Experiment, int, int]] = {  # experiment, runs, steps between two checks
    "toy-512": (experiment(toy, 0.0), 512, 0),
    "toy-128": (experiment(toy, 0.0), 128, 0),
    "digits": (DIGITS, 36, 50),
    "digits without ascent": (DIGITS, 12, 50),
    "stacked-images": (experiment(stacked_images, 0.9), 63, 0),
}


def arms(name: str) -> list[Any]:
    made, count, _ = CASES[name]
    base = made.configure("paper", {})["sam"]
    if made is DIGITS:
        rhos = (0.0,) if "without" in name else (0.05, 0.1, 0.3)
        return [replace(base, lr=lr, rho=rho, seed=seed) for lr in (0.1, 0.3, 1.0) for rho in rhos for seed in range(4)]
    seeds = 3 if count == 63 else 4
    rates = [(0.01 * 1.01**i, 0.01 * (1 + i % 7)) for i in range(count // seeds)]
    return [replace(base, lr=lr, rho=rho, seed=seed) for lr, rho in rates for seed in range(seeds)]


class Alone:
    """One run, as the training loop has it."""

    def __init__(self, made: Experiment, settings: Any, device: torch.device, every: int):
        torch.manual_seed(settings.seed)
        self.task, self.every, self.step = made.prepare(settings, device), every, 0

    def __call__(self) -> None:
        """One step, and the check before it if there is one."""
        x, y = self.task.batch(self.step)
        if self.every and self.step % self.every == 0:
            self.task.check(self.step, (x, y))

        def closure() -> torch.Tensor:
            loss = self.task.loss_fn(self.task.model(x), y)
            loss.backward()
            return loss

        self.task.optimizer.step(closure)
        self.step += 1


class Together:
    """A stack, as the training loop of stacks has it."""

    def __init__(self, made: Experiment, settings: list[Any], device: torch.device, every: int, compiled: bool = True):
        self.runs = Runs.prepare(made, settings, device)
        self.batches, self.every, self.step, self.compiled = VectorizedBatches(self.runs.tasks), every, 0, compiled

    def __call__(self) -> None:
        """One step, and the check before it if there is one."""
        x, y, picked, shared = self.batches(self.step)
        if self.every and self.step % self.every == 0:
            checks: list[Any] = [task.check for task in self.runs.tasks]
            first = self.runs.tasks[0]
            type(checks[0]).together(
                checks, Snapshot(first.model, first.loss_fn, self.runs.params, x, y, True, self.step)
            )
        rows = len(x) if picked is None else picked.shape[1]
        VectorizedStep.of(self.runs, rows, compiled=self.compiled)(self.runs, x, y, picked, shared)
        self.step += 1


def compile_seconds(name: str, chunk: int, cache: str) -> float:
    """Of the first step, less one that follows, in a process of its own."""
    code = f"import grid; grid.first_step({name!r}, {chunk})"
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def first_step(name: str, chunk: int) -> None:
    made, _, _ = CASES[name]
    stack = Together(made, arms(name)[:chunk], DEVICE, 0)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        stack()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    print(times[0] - times[-1])


def floor(name: str) -> tuple[float, float]:
    """Multiplications and additions of a run's step, in GFLOP, and the rate that torch's products reach, in GFLOP/s."""
    from torch.utils.flop_counter import FlopCounterMode

    made, _, _ = CASES[name]
    one = Together(made, arms(name)[:1], DEVICE, 0, compiled=False)
    with FlopCounterMode(display=False) as counter:
        one()
    x, _ = VectorizedBatches(one.runs.tasks).together(0)[:2]
    rows = x.shape[-2] if x.dim() <= 3 else 4096
    width = 100 if made is DIGITS else 1024
    a, b = torch.randn(4, rows, width, device=DEVICE), torch.randn(4, width, width, device=DEVICE)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        torch.bmm(a, b)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return counter.get_total_flops() / 1e9, 2 * 4 * rows * width**2 / best / 1e9


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=[*CASES], action="append")
    chosen = parser.parse_args()
    print(describe_machine())
    print(f"{'':24}{'runs':>5}{'stack':>7}{'alone ms':>10}{'stack ms':>10}{'ratio':>8}{'cold s':>8}{'cached s':>9}")
    for name in chosen.only or CASES:
        made, count, every = CASES[name]
        if name == "stacked-images" and DEVICE.type != "cuda":
            print(f"{name:24}needs a GPU")
            continue
        settings = arms(name)
        chunk = chunk_size(Runs.prepare(made, settings[:1], DEVICE), DEVICE)
        chunk = -(-count // -(-count // chunk))
        alone, stack = Alone(made, settings[0], DEVICE, every), Together(made, settings[:chunk], DEVICE, every)
        for step in (alone, stack):
            step()
        calls = every or (200 if count > 63 else 10)
        times = in_turns({"alone": alone, "stack": stack}, range(chosen.rounds), calls, DEVICE)
        each = [a * chunk / b for a, b in zip(times["alone"], times["stack"], strict=True)]
        with tempfile.TemporaryDirectory() as cache:
            compiling = [compile_seconds(name, chunk, cache) for _ in range(2)]
        medians = {way: statistics.median(seconds) / calls * 1e3 for way, seconds in times.items()}
        print(
            f"{name:24}{count:5}{chunk:7}{medians['alone']:10.3f}{medians['stack']:10.3f}"
            f"{statistics.median(each):8.1f}{compiling[0]:8.1f}{compiling[1]:9.1f}"
        )
        if made is DIGITS or DEVICE.type == "cuda":
            work, rate = floor(name)
            least = work / rate * 1e3
            print(f"{'':24}floor: {work:.3f} GFLOP a step, {least:.2f} ms at {rate:.0f} GFLOP/s")
            print(f"{'':24}a ratio of {medians['alone'] / least:.1f} would leave nothing but those products")


if __name__ == "__main__":
    main()
