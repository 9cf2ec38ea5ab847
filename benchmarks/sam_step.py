"""A SAM step against its floor: the same two gradients with the barest perturb and restore around them.

    pip install -c constraints.txt '.[benchmarks]'
    python benchmarks/sam_step.py [--network toy mlp transformer resnet18] [--rounds 15] [--device cpu|cuda]

The floor is what one would write by hand for any device: norm, copies of the weights, scaled gradients, addition,
second gradient, copying back, the base optimizer's step; no checks, nothing restored after an exception, one device
and dtype. Ratios are of times in the same round, medians over the rounds; random data, SGD with momentum, float32.
Other libraries take part if they are installed: pytorch_optimizer, unifiedsam, sam-pytorch.
"""

import argparse
import copy
import importlib.util
import statistics

import torch
from torch import nn
from torch.nn import functional as F

from common import describe_machine, in_turns, median_ratio
from lowland import SAM
from lowland.models import Transformer, mlp
from lowland.optim import compiled_step

RHO = 0.05
GRADIENTS = "two gradients and the base step alone"


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(n, inputs, height, width)`` to ``(n, outputs, height / stride, width / stride)``."""
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def resnet18(width: int = 64, classes: int = 10) -> nn.Module:
    """For 32x32 images (He et al. 2016)."""
    blocks, inputs = [], width
    for stage in range(4):
        for block in range(2):
            outputs = width * 2**stage
            blocks.append(Residual(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    stem = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def toy():
    return mlp([10, 32, 32, 2]), torch.randn(32, 10), torch.randint(2, (32,))


def perceptron():
    return mlp([784, 1000, 1000, 10]), torch.randn(128, 784), torch.randint(10, (128,))


def transformer():
    model = Transformer(symbols=65, length=64, layers=6, width=128, heads=4, key_size=32)
    return model, torch.randint(65, (16, 64)), torch.randint(65, (16, 64))


def resnet():
    return resnet18(), torch.randn(16, 3, 32, 32), torch.randint(10, (16,))


NETWORKS = {"toy": (toy, 100), "mlp": (perceptron, 5), "transformer": (transformer, 1), "resnet18": (resnet, 1)}


def flat_loss(outputs, y):
    return F.cross_entropy(outputs.flatten(0, -2), y.flatten())


def loss_of(model, x, y):
    return flat_loss(model(x), y)


def sgd(params):
    return torch.optim.SGD(params, lr=0.01, momentum=0.9)


def floor(model, x, y):
    params, base = list(model.parameters()), sgd(model.parameters())

    def step():
        loss_of(model, x, y).backward()
        with torch.no_grad():
            gradients = [p.grad for p in params]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            kept = [p.clone() for p in params]
            torch._foreach_mul_(gradients, RHO / (norm + 1e-12))
            torch._foreach_add_(params, gradients)
        del gradients
        base.zero_grad()
        loss_of(model, x, y).backward()
        with torch.no_grad():
            torch._foreach_copy_(params, kept)
        base.step()
        base.zero_grad()

    return step


def passes(model, x, y):
    optimizer = SAM(sgd(model.parameters()), rho=RHO, model=model)

    def step():
        for evaluation in optimizer.passes():
            with evaluation:
                loss_of(model, x, y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def closure(model, x, y):
    optimizer = SAM(sgd(model.parameters()), rho=RHO, model=model)

    def evaluate():
        loss = loss_of(model, x, y)
        loss.backward()
        return loss

    return lambda: optimizer.step(evaluate)


def compiled(model, x, y):
    step = compiled_step(SAM(sgd(model.parameters()), rho=RHO, model=model), model, flat_loss)
    return lambda: step(x, y)


def plain(model, x, y):
    base = sgd(model.parameters())

    def step():
        for _ in range(2):
            base.zero_grad()
            loss_of(model, x, y).backward()
        base.step()

    return step


def two_steps(make):
    """A peer with ``first_step`` and ``second_step``."""

    def side(model, x, y):
        optimizer = make(model.parameters())

        def step():
            loss_of(model, x, y).backward()
            optimizer.first_step(zero_grad=True)
            loss_of(model, x, y).backward()
            optimizer.second_step(zero_grad=True)

        return step

    return side


def sam_pytorch(model, x, y):
    optimizer = importlib.import_module("sam").SAM(model.parameters(), sgd(model.parameters()), rho=RHO)

    def evaluate():
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        return loss

    return lambda: optimizer.step(evaluate)


def peers():
    options = {"lr": 0.01, "momentum": 0.9}

    def load(module):
        return importlib.import_module(module)

    def pytorch_optimizer(params):
        return load("pytorch_optimizer").SAM(params, torch.optim.SGD, rho=RHO, **options)

    def unifiedsam(params):
        return load("unifiedsam").unifiedSAM(params, torch.optim.SGD, RHO, 1.0, **options)

    known = {
        "pytorch_optimizer": ("pytorch_optimizer", two_steps(pytorch_optimizer)),
        "unifiedsam": ("unifiedsam", two_steps(unifiedsam)),
        "sam-pytorch": ("sam", sam_pytorch),
    }
    return {name: side for name, (module, side) in known.items() if importlib.util.find_spec(module)}


def compare(name: str, rounds: int, device: torch.device, compile_for: list[str]) -> None:
    make, calls = NETWORKS[name]
    torch.manual_seed(0)
    model, x, y = (part.to(device) for part in make())
    sides = {"floor": floor, GRADIENTS: plain, "lowland, passes()": passes, "lowland, step(closure)": closure}
    sides |= {"lowland, compiled_step": compiled} if name in compile_for else {}
    sides |= peers()
    models = {side: copy.deepcopy(model) for side in sides}
    steps = {side: build(models[side], x, y) for side, build in sides.items()}
    for step in steps.values():
        step()
    for side, trained in models.items():  # the same step, or the comparison means nothing
        if side != GRADIENTS:
            for p, q in zip(trained.parameters(), models["floor"].parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4, msg=lambda m, s=side: f"{s}: {m}")
    for step in steps.values():
        for _ in range(2):
            step()

    times = in_turns(steps, range(rounds), calls, device)
    print(f"\n{name}: {sum(p.numel() for p in model.parameters()):,} parameters")
    for side, values in times.items():
        ratio = median_ratio(times, side, "floor")
        print(f"  {side:40}{1e3 * statistics.median(values) / calls:10.3f} ms{ratio:8.3f} of the floor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--compile", nargs="*", choices=NETWORKS, default=["toy"], help="for which to compile the step")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    print(describe_machine())
    for name in arguments.network:
        compare(name, arguments.rounds, torch.device(arguments.device), arguments.compile)


if __name__ == "__main__":
    main()
