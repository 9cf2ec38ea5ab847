"""Timing: interleaved in one process, medians of several rounds."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def interleaved(
    ways: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 2, calls: int = 1
) -> dict[str, float]:
    """Median seconds of each way, taken in turns; ``calls`` calls are timed together and divided.

    Before each timing the way runs once untimed, after a pause: torch's worker threads spin for a while after
    their last task and would take a core from whoever comes next.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(-warmup, rounds):
        for name, way in ways.items():
            time.sleep(0.05)
            way()
            started = time.perf_counter()
            for _ in range(calls):
                way()
            if round_ >= 0:
                times[name].append((time.perf_counter() - started) / calls)
    return {name: statistics.median(values) for name, values in times.items()}


def describe_machine() -> str:
    """One line: processor, threads, versions."""
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"
