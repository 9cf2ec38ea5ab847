"""A full-batch SAM step on the MNIST laptop network, against JAX.

    pip install -c constraints.txt '.[benchmarks]'
    python benchmarks/full_batch_step.py [--rounds 15]

784-200-200-200-10, 1,000 images (random data), squared error, float32, plain gradient descent with
ρ g/(‖g‖ + 1e-5). The JAX side is the best of two: one jitted step, and ten of them in a `lax.scan`, both with
donated parameters. Beside them the floor: the matrix products alone, at the speed torch reaches on them.
"""

import argparse
import itertools
import sys

import numpy as np
import torch
from torch.nn import functional as F

from common import describe_machine, interleaved, jax_mlp_loss
from lowland import SAM
from lowland.models import mlp
from lowland.optim.functional import sam_gradient

WIDTHS, EXAMPLES, LR, RHO, EPS = [784, 200, 200, 200, 10], 1000, 0.3, 0.1, 1e-5
CALLS = 10


def eager(x, y):
    """`SAM.step` around SGD, as the experiments train."""
    model = mlp(WIDTHS)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=LR), rho=RHO, eps=EPS)

    def closure():
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    return (lambda: optimizer.step(closure)), lambda: list(model.parameters())


def compiled(x, y):
    """`sam_gradient` and the update, compiled as one function."""
    model = mlp(WIDTHS)
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params):
        return F.mse_loss(torch.func.functional_call(model, params, (x,)), y)

    @torch.compile(fullgraph=True, dynamic=False)
    def update(params):
        value, gradient = sam_gradient(loss, params, rho=RHO, eps=EPS)
        return value, {name: p - LR * gradient[name] for name, p in params.items()}

    def step():
        nonlocal params
        with torch.no_grad():
            value, params = update(params)
        return value

    return step, lambda: list(params.values())


def products_alone():
    """Every matrix product of the step and nothing else."""
    a = [torch.randn(EXAMPLES, width) for width in WIDTHS]
    w = [torch.randn(inputs, outputs) for inputs, outputs in itertools.pairwise(WIDTHS)]

    def step():
        for _ in range(2):
            for i, weight in enumerate(w):
                a[i] @ weight
                a[i].T @ a[i + 1]
                if i:
                    a[i + 1] @ weight.T

    return step


def in_jax(model, x, y):
    """(one jitted step, ten in a scan), each making CALLS steps a call; and the parameters they reach."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")
    start = [jnp.asarray(p.detach().numpy()) for p in model.parameters()]

    loss = jax_mlp_loss(jnp.asarray(x.numpy()), jnp.asarray(y.numpy()))

    def update(params):
        g = jax.grad(loss)(params)
        norm = jnp.sqrt(sum(jnp.vdot(a, a) for a in g))
        g = jax.grad(loss)([p + RHO * a / (norm + EPS) for p, a in zip(params, g, strict=True)])
        return [p - LR * a for p, a in zip(params, g, strict=True)]

    jitted = jax.jit(update, donate_argnums=0)
    scanned = jax.jit(
        lambda params: jax.lax.scan(lambda p, _: (update(p), None), params, None, length=CALLS)[0], donate_argnums=0
    )
    state = {"step": [jnp.copy(p) for p in start], "scan": [jnp.copy(p) for p in start]}

    def steps():
        for _ in range(CALLS):
            state["step"] = jitted(state["step"])
        jax.block_until_ready(state["step"])

    def scan():
        state["scan"] = jax.block_until_ready(scanned(state["scan"]))

    return steps, scan, lambda: state["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    x, y = torch.randn(EXAMPLES, 784), F.one_hot(torch.arange(EXAMPLES) % 10, 10).float()

    def repeated(step):
        def call():
            for _ in range(CALLS):
                step()

        return call

    sides = {}
    for name, make in (("lowland.SAM, eager", eager), ("lowland, compiled", compiled)):
        torch.manual_seed(1)
        sides[name] = make(x, y)
    torch.manual_seed(1)
    try:
        jax_step, jax_scan, jax_params = in_jax(mlp(WIDTHS), x, y)
    except ImportError:
        sys.exit("JAX is not installed: pip install -c constraints.txt '.[benchmarks]'")
    for step, _ in sides.values():
        repeated(step)()
    jax_step()
    for name, (_, params) in sides.items():  # the same trajectory, or the comparison means nothing
        for ours, theirs in zip(params(), jax_params(), strict=True):
            torch.testing.assert_close(ours.detach(), torch.from_numpy(np.array(theirs)), atol=1e-4, rtol=0, msg=name)
    ways = {name: repeated(step) for name, (step, _) in sides.items()}
    ways |= {
        "JAX, jitted step": jax_step,
        "JAX, scan of ten": jax_scan,
        "matrix products alone": repeated(products_alone()),
    }
    ms = {name: 1e3 * seconds / CALLS for name, seconds in interleaved(ways, rounds).items()}
    flops = 2 * EXAMPLES * 2 * sum(3 * i * o for i, o in itertools.pairwise(WIDTHS))
    flops -= 2 * EXAMPLES * 2 * WIDTHS[0] * WIDTHS[1]  # the first layer's input needs no gradient
    best = min(ms["JAX, jitted step"], ms["JAX, scan of ten"])
    print(describe_machine())
    for name, value in ms.items():
        print(f"{name:24}{value:8.2f} ms{value / best:8.2f} of JAX's best{flops / value / 1e6:8.0f} GFLOP/s")


if __name__ == "__main__":
    main()
