"""On a CUDA device: the same numbers as on the CPU, and no waiting for the device in a SAM step."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland import SAM
from lowland.curvature import Hessian, stability

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def setting(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 3)).double()
    x, y = torch.randn(16, 6, dtype=torch.float64), torch.arange(16) % 3
    return model.to(device), x.to(device), y.to(device)


def train(device, steps=5):
    model, x, y = setting(device)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = SAM(base, rho=0.3, model=model)

    def closure():
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return model, optimizer, closure


def test_trains_as_on_the_cpu():
    ours, expected = (train(device)[0].state_dict() for device in ("cuda", "cpu"))
    for name, value in ours.items():
        assert torch.allclose(value.cpu(), expected[name], atol=1e-10), name


def test_a_step_does_not_wait_for_the_device():
    _, optimizer, closure = train("cuda", steps=1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step(closure)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("bad", [0.0, float("inf"), float("nan")])
def test_a_gradient_that_is_zero_or_not_finite(bad):
    w = nn.Parameter(torch.tensor([1.0, 2.0], device="cuda"))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)
    for evaluation in optimizer.passes():
        with evaluation:
            assert w.tolist() == [1.0, 2.0]
            (w * bad).sum().backward()


def test_measures_as_on_the_cpu():
    results = []
    for device in ("cuda", "cpu"):
        model, x, y = setting(device)
        pairs = Hessian(model, F.cross_entropy, [(x[:7], y[:7]), (x[7:], y[7:])]).eigenpairs(k=2, tol=1e-8)
        check = stability(model, F.cross_entropy, [(x, y)], lr=0.1, rho=0.1, tol=1e-8)
        results.append([*pairs.values.tolist(), check.hessian_norm, check.edge, check.sam_gradient_alignment])
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_runs_and_resumes_on_the_device(lowland, tmp_path):
    run = ("run", "long2024/digits", "--scale", "smoke", "--device", "cuda", "--out")
    assert lowland(*run, "a").code == 0
    assert lowland(*run, "b").code == 0
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()
