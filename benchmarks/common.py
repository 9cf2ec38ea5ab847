"""Timing: interleaved in one process, medians of several rounds."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from lowland.training.environment import environment


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


def in_turns(
    steps: Mapping[str, Callable[[], Any]],
    rounds: Iterable[int],
    calls: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds by ``clock`` of ``calls`` calls of each step in each round, for ratios within a round.

    Before each timing the step runs once untimed; who comes first changes from round to round.
    """

    def timed(step: Callable[[], Any]) -> float:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = clock()
        for _ in range(calls):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - started

    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for round_ in rounds:
        for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
            times[name].append(timed(steps[name]))
    return times


def median_ratio(times: Mapping[str, list[float]], name: str, to: str) -> float:
    """Of the times of two steps in the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def describe_machine() -> str:
    """One line: processor, threads, versions."""
    ran_on = environment(torch.device("cpu"))
    return "{device}, {threads} threads, torch {torch}, Python {python}".format(**ran_on)


def jax_mlp_loss(images: Any, targets: Any) -> Callable[[Any], Any]:
    """In JAX: parameters in torch's order and layout -> squared error of a fully connected ReLU network."""
    import jax
    import jax.numpy as jnp

    def loss(params: Any) -> Any:
        a = images
        for i in range(0, len(params), 2):
            a = a @ params[i].T + params[i + 1]
            a = jax.nn.relu(a) if i + 2 < len(params) else a
        return jnp.mean((a - targets) ** 2)

    return loss
