"""The Hessian's top eigenpair on a trained MNIST network: ours, the usual power iteration, ARPACK, a warm start.

    LOWLAND_DATA=... python benchmarks/eigenpairs.py [--arm gd] [--steps 1000] [--rounds 7]

The usual way: power iteration on central finite differences of the gradient, stopped when the estimate changes
by less than 1e-3 of itself; it reports no bound. Needs the MNIST files, and SciPy; the same in JAX is timed too
where JAX is installed.
"""

import argparse
import sys
from collections.abc import Callable

import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from common import describe_machine, interleaved, jax_mlp_loss
from lowland.curvature import Hessian
from lowland.errors import LowlandError
from lowland.papers import find


def power_iteration(
    gradient: Callable[[Tensor], Tensor], n: int, h: float, tol: float = 1e-3
) -> tuple[float, int, Tensor]:
    """Eigenvalue, number of products, and vector."""
    v = torch.randn(n, generator=torch.Generator().manual_seed(1))
    v /= v.norm()
    value, products = float("inf"), 0
    while True:
        product = (gradient(h * v) - gradient(-h * v)) / (2 * h)
        products += 1
        before, value = value, torch.dot(v, product).item()
        v = product / product.norm()
        if abs(value - before) <= tol * abs(value):
            return value, products, v


def jax_power_iteration(
    model: torch.nn.Module, x: Tensor, y: Tensor, h: float
) -> Callable[[], tuple[float, int]] | None:
    """The same in JAX, jitted; None where JAX is missing."""
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return None
    params = [jnp.asarray(p.detach().numpy()) for p in model.parameters()]

    gradient = jax.grad(jax_mlp_loss(jnp.asarray(x.flatten(1).numpy()), jnp.asarray(y.numpy())))

    @jax.jit
    def product(v):
        plus = gradient([p + h * d for p, d in zip(params, v, strict=True)])
        minus = gradient([p - h * d for p, d in zip(params, v, strict=True)])
        product = [(a - b) / (2 * h) for a, b in zip(plus, minus, strict=True)]
        value = sum(jnp.vdot(a, b) for a, b in zip(v, product, strict=True))
        norm = jnp.sqrt(sum(jnp.vdot(a, a) for a in product))
        return value, [a / norm for a in product]

    def iterate():
        keys = jax.random.split(jax.random.key(1), len(params))
        v = [jax.random.normal(k, p.shape) for k, p in zip(keys, params, strict=True)]
        norm = jnp.sqrt(sum(jnp.vdot(a, a) for a in v))
        v = [a / norm for a in v]
        value, products = float("inf"), 0
        while True:
            new, v = product(v)
            products += 1
            before, value = value, float(new)
            if abs(value - before) <= 1e-3 * abs(value):
                return value, products

    return iterate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="training steps before the comparison")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--arm", default="gd", choices=("gd", "sam"), help="how it was trained")
    parser.add_argument("--set", action="append", default=[], help="as in lowland run: width=1000, say")
    arguments = parser.parse_args()
    experiment = find("long2024/mnist")
    arm = experiment.configure("laptop", dict(text.split("=") for text in arguments.set))[arguments.arm]
    torch.manual_seed(0)
    task = experiment.prepare(arm, torch.device("cpu"))
    x, y = task.batch(0)

    def train(steps: int) -> None:
        def closure() -> Tensor:
            loss = task.loss_fn(task.model(x), y)
            loss.backward()
            return loss

        for _ in range(steps):
            task.optimizer.step(closure)

    train(arguments.steps - arm.check_every)
    hessian = Hessian(task.model, task.loss_fn, [(x, y)])
    earlier = hessian.eigenpairs().vectors[0]
    train(arm.check_every)
    n = hessian.shape[0]
    top = Hessian(task.model.double(), task.loss_fn, [(x.double(), y.double())]).eigenpairs(k=5, tol=1e-8).values
    exact = top[0].item()
    task.model.float()
    hessian = Hessian(task.model, task.loss_fn, [(x, y)])
    gradient = lambda offset: hessian.objective.loss_and_gradient(offset)[1]  # noqa: E731
    h = 1e-2

    products = 0

    def count(v):
        nonlocal products
        products += 1
        return (hessian @ torch.from_numpy(v).float().view(-1)).numpy()

    arpack = eigsh(LinearOperator((n, n), matvec=count, dtype="float32"), k=1, tol=1e-3, return_eigenvectors=False)
    ours, warm = hessian.eigenpairs(tol=1e-3), hessian.eigenpairs(tol=1e-3, start=earlier)
    usual = power_iteration(gradient, n, h)
    ways: dict[str, Callable[[], object]] = {
        "power iteration, differences": lambda: power_iteration(gradient, n, h),
        "lowland, cold": lambda: hessian.eigenpairs(tol=1e-3),
        "lowland, warm": lambda: hessian.eigenpairs(tol=1e-3, start=earlier),
    }
    in_jax = jax_power_iteration(task.model, x, y, h)
    if in_jax is not None:
        ways["the same power iteration in JAX"] = in_jax
    seconds = interleaved(ways, arguments.rounds)
    print(describe_machine())
    print(f"MNIST, {len(x)} images, {n} parameters, {arguments.steps} steps of {arguments.arm}")
    print(f"five largest eigenvalues (float64, to 1e-8): {', '.join(f'{value:.4f}' for value in top.tolist())}")
    rows = [
        ("power iteration, differences", usual[1], usual[0], None),
        ("ARPACK (products only)", products, arpack[0].item(), None),
        ("lowland, cold", ours.products, ours.values.item(), ours.residuals.item()),
        ("lowland, warm", warm.products, warm.values.item(), warm.residuals.item()),
    ]
    if in_jax is not None:
        value, count_ = in_jax()
        rows.insert(1, ("the same power iteration in JAX", count_, value, None))
    base = seconds["power iteration, differences"]
    print(f"{'':34}{'products':>9}{'seconds':>9}{'ratio':>7}{'error':>10}{'bound':>10}")
    for name, used, value, residual in rows:
        time_ = f"{seconds[name]:9.3f}{seconds[name] / base:7.2f}" if name in seconds else " " * 16
        bound = f"{residual / abs(exact):10.1e}" if residual is not None else f"{'none':>10}"
        print(f"{name:34}{used:9d}{time_}{abs(value / exact - 1):10.1e}{bound}")


if __name__ == "__main__":
    try:
        main()
    except LowlandError as error:
        sys.exit(str(error))
