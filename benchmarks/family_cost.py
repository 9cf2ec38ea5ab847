"""What a step of each of the SAM family costs, as a ratio of the base optimizer's.

    python benchmarks/family_cost.py [--network mlp resnet18] [--rounds 7] [--device cpu|cuda] [--write]

SGD with momentum, float32, random data. Ratios are of times in the same round, medians over the rounds. A rule that
doesn't do the same at every step is timed over a whole period of 10 steps; LateSAM and EarlySAM climb in half of
these. ``--write`` puts the table into docs/family.md, with formulas and references.
"""

import argparse
import copy
import inspect
from pathlib import Path

import torch
from rich.progress import track
from torch import nn
from torch.nn import functional as F

from common import describe_machine, in_turns, median_ratio
from lowland.optim import presets
from lowland.optim.presets import PRESETS
from sam_step import resnet18, sgd

PERIOD = 10


def perceptron():
    layers = []
    for inputs in (784, 1000):
        layers += [nn.Linear(inputs, 1000), nn.BatchNorm1d(1000), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(1000, 10)), torch.randn(128, 784), torch.randint(10, (128,))


def narrow_resnet():
    return resnet18(width=16), torch.randn(32, 3, 32, 32), torch.randint(10, (32,))


NETWORKS = {"mlp": ("perceptron", perceptron), "resnet18": ("ResNet-18, width 16", narrow_resnet)}
PAGE = Path(__file__).parent.parent / "docs/family.md"


def plain(model, x, y):
    base = sgd(model.parameters())

    def step():
        F.cross_entropy(model(x), y).backward()
        base.step()
        base.zero_grad()

    return step


def of(name):
    """A step of the preset."""

    def build(model, x, y):
        extra = {"LateSAM": {"start": PERIOD // 2}, "EarlySAM": {"end": PERIOD // 2}}.get(name, {})
        radius = {"rho": 0.01} if "rho" in PRESETS[name].settings else {"sharpness": 1.0}
        optimizer = getattr(presets, name)(sgd(model.parameters()), model=model, **radius, **extra)

        def step():
            if extra and optimizer.steps == PERIOD:
                optimizer.param_groups[0]["sam_steps"] = 0
            if name == "ESAM":
                optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))
            else:
                for evaluation in optimizer.passes():
                    with evaluation:
                        F.cross_entropy(model(x), y).backward()
                optimizer.step()
            optimizer.zero_grad()

        return step

    return build


def measure(network, rounds, device):
    """Ratio of each preset's time to SGD's."""
    torch.manual_seed(0)
    model, x, y = (part.to(device) for part in NETWORKS[network][1]())
    sides = {"SGD": plain} | {name: of(name) for name in PRESETS}
    steps = {name: build(copy.deepcopy(model), x, y) for name, build in sides.items()}

    in_turns(steps, range(1), PERIOD, device)
    times = in_turns(steps, track(range(rounds), network), PERIOD, device)
    return {name: median_ratio(times, name, "SGD") for name in times}


def table(ratios):
    """Markdown."""
    networks = " | ".join(f"÷ SGD's step: {NETWORKS[network][0]}" for network in ratios)
    lines = [
        f"| preset | formula | gradients a step | memory | {networks} | paper |",
        "|---|---|---|---|" + "---|" * len(ratios) + "---|",
    ]
    for name, preset in PRESETS.items():
        empty = inspect.Parameter.empty
        settings = ", ".join(key if value is empty else f"{key}={value!r}" for key, value in preset.settings.items())
        cells = [f"`{name}({settings})`", preset.formula, preset.gradients, f"{preset.memory:g}"]
        cells += [f"{by[name]:.2f}" for by in ratios.values()]
        lines.append(f"| {' | '.join(cell.replace('|', '∣') for cell in [*cells, preset.paper])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    machine = describe_machine()
    ratios = {name: measure(name, arguments.rounds, torch.device(arguments.device)) for name in arguments.network}
    text = f"{table(ratios)}\n\nMeasured on: {machine}."
    print(text)
    if arguments.write:
        before, rest = PAGE.read_text(encoding="utf-8").split("<!-- table -->\n")
        after = rest.split("<!-- end of table -->\n")[1]
        PAGE.write_text(f"{before}<!-- table -->\n{text}\n<!-- end of table -->\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
