"""Norms and inner products of tensors so long that torch's own sums in float32 are off, on a CPU."""

import pytest
import torch

from lowland.optim import SAM, functional
from lowland.optim.m_sam.gradients import _lengths
from lowland.optim.sharding import global_dot, global_norm
from lowland.torch_tools import LONG, in_parts

ENTRIES = 20 * LONG + 3
CLOSE = 2e-5


@pytest.fixture(scope="module")
def long():
    return torch.randn(ENTRIES, generator=torch.Generator().manual_seed(0))


def test_torch_itself_is_off(long):
    exact = float(long.double().norm())
    assert abs(float(torch.linalg.vector_norm(long)) / exact - 1) > 10 * CLOSE  # else the parts may go


def test_norms(long):
    exact = float(long.double().norm())
    for found in (global_norm([long], [long], [long]), functional.global_norm({"w": long}), _lengths(long[None])[0]):
        assert float(found) == pytest.approx(exact, rel=CLOSE)


def test_inner_products(long):
    other = long.abs()
    exact = float(long.double() @ other.double())
    scale = float(long.double().norm()) ** 2
    assert float(global_dot([long], [long], [long], [other])) == pytest.approx(exact, abs=CLOSE * scale)
    assert float(global_dot([long], [long], [long], [long])) == pytest.approx(scale, rel=2 * CLOSE)


def test_sam_climbs_by_rho(long):
    w = torch.zeros(1000, ENTRIES // 1000, requires_grad=True)
    gradient = long[: w.numel()].view_as(w)
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)
    lengths = []

    def closure():
        lengths.append(float(w.detach().double().norm()))
        w.grad = gradient.clone()
        return (w.detach() * gradient).sum()

    optimizer.step(closure)
    assert lengths == [0, pytest.approx(0.5, rel=CLOSE)]


def test_what_is_short_stays_one_piece():
    whole = torch.zeros(4, LONG // 4)
    assert in_parts(whole)[0] is whole
    assert sum(part.numel() for part in in_parts(torch.zeros(ENTRIES))) == ENTRIES
