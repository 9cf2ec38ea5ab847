"""Checks of many runs together against one by one: Hessian norm, edge and alignments, cold and warm.

    python benchmarks/vectorized_checks.py [--rounds 7]

A tiny network (10-32-2, 5 examples), 128 runs; long2024/digits (27,000 parameters, 1,797 examples), 4 and 12 runs.
For digits on a CPU the default is one by one; "all at once" says what that is better than.
"""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import describe_machine, in_turns, median_ratio
from lowland import SAM
from lowland.curvature import stability, stability_of_stack
from lowland.models import mlp
from lowland.papers import find


def trained(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], x: Tensor, y: Tensor, settings: dict) -> nn.Module:
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=settings["lr"]), rho=settings["rho"])

    def closure() -> Tensor:
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss

    for _ in range(20):
        optimizer.step(closure)
    return model


def compare(label: str, model: nn.Module, loss_fn: Any, x: Tensor, y: Tensor, runs: int, rounds: int, **rates: float):
    models = []
    for seed in range(runs):
        torch.manual_seed(seed)
        models.append(copy.deepcopy(model))
        for layer in models[-1]:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
        trained(models[-1], loss_fn, x, y, rates)
    params = {
        name: torch.stack([one.get_parameter(name).detach() for one in models]) for name, _ in model.named_parameters()
    }
    options = {"eps": 1e-5, "tol": 1e-3}
    lr, rho = [rates["lr"]] * runs, [rates["rho"]] * runs
    starts: list[Any] = [None] * runs

    def one_by_one() -> list[Any]:
        return [
            stability(one, loss_fn, [(x, y)], **rates, **options, start=start)
            for one, start in zip(models, starts, strict=True)
        ]

    def together(chunk: int | None) -> list[Any]:
        return stability_of_stack(
            model, loss_fn, params, x, y, shared=True, lr=lr, rho=rho, **options, starts=starts, chunk=chunk
        )

    for kind in ("cold", "warm"):
        ways = {"one by one": one_by_one, "together": lambda: together(None), "all at once": lambda: together(runs)}
        times = in_turns(ways, range(rounds), 1, x.device)
        found, expected = together(runs), one_by_one()
        off = max(abs(a.hessian_norm / b.hessian_norm - 1) for a, b in zip(found, expected, strict=True))
        alone = sorted(times["one by one"])[rounds // 2] / runs * 1e3
        ratios = ", ".join(f"{name} {1 / median_ratio(times, name, 'one by one'):.2f}x" for name in list(ways)[1:])
        print(f"{label}, {runs} runs, {kind}: one by one {alone:.2f} ms a run; {ratios}; norms differ by {off:.0e}")
        starts = [one.vector for one in expected]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(describe_machine())
    torch.manual_seed(0)
    x, y = torch.randn(5, 10), torch.randn(5, 2)
    compare("10-32-2", mlp([10, 32, 2]), F.mse_loss, x, y, 128, rounds, lr=0.1, rho=0.1)
    experiment = find("long2024/digits")
    task = experiment.prepare(experiment.configure("laptop", {})["sam"], torch.device("cpu"))
    for runs in (4, 12):
        compare("digits", task.model, task.loss_fn, *task.batch(0), runs, rounds, lr=0.3, rho=0.1)


if __name__ == "__main__":
    main()
