"""SAM goes around any optimizer: SGD, fused AdamW, Adafactor, or one of your own.

Run it: python examples/base_optimizers.py
"""

import torch
from torch.nn import functional as F

from common import batches, network, report
from lowland import SAM


class Lion(torch.optim.Optimizer):
    """The sign of two momentums (Chen et al. 2023, arXiv 2302.06675). It knows nothing of SAM."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for p in [p for p in group["params"] if p.grad is not None]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                p.sub_(momentum.lerp(p.grad, 1 - group["betas"][0]).sign_(), alpha=group["lr"])
                momentum.lerp_(p.grad, 1 - group["betas"][1])


BASES = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "fused AdamW": lambda params: torch.optim.AdamW(params, lr=3e-3, fused=True),
    "Adafactor": lambda params: torch.optim.Adafactor(params, lr=3e-2),
    "Lion": lambda params: Lion(params, lr=1e-3),
}

for name, base in BASES.items():
    model = network()
    optimizer = SAM(base(model.parameters()), rho=0.05)
    report("before", model)
    for epoch in range(10):
        for x, y in batches(epoch):
            for evaluation in optimizer.passes():
                with evaluation:
                    F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    report(f"after, {name}", model)
