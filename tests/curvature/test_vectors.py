"""Norms of long vectors in float32 against float64: what is small beside the sum before it counts, too."""

import pytest
import torch

from lowland.curvature import alignment
from lowland.curvature.lanczos import Operator, random_direction
from lowland.curvature.quadrature import spectrum
from lowland.curvature.subspaces import with_residuals
from lowland.curvature.vectors import euclidean_norm

MANY = 10_000_000


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(1,), (4095,), (4096,), (3, 8192), (2, 2, 5000), (2, 100_000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_the_norm_of_each_row(shape, dtype):
    vectors = draw(*shape).to(dtype)
    found = euclidean_norm(vectors)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), torch.linalg.vector_norm(vectors.double(), dim=-1), rtol=3e-7, atol=0)


@pytest.mark.slow
def test_of_ten_million_entries():
    vector = draw(MANY)
    assert euclidean_norm(vector).item() == pytest.approx(vector.double().norm().item(), rel=1e-6)
    assert alignment(vector, 3 * vector).item() == pytest.approx(1, abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    unit = random_direction(MANY, generator, torch.float32, "cpu")
    assert unit.double().norm().item() == pytest.approx(1, abs=1e-6)
    values, _, residuals = with_residuals(vector[None], 2 * vector[None])  # 2 is the identity's eigenvalue
    assert values.item() == pytest.approx(2, rel=1e-6)
    assert residuals.item() < 1e-6


def test_moments_where_few_eigenvalues_are_large():
    n = 100_000
    values = torch.cat([torch.linspace(40, 50, 10), torch.linspace(-1e-3, 1e-3, n - 10)])
    found = spectrum(Operator(lambda v: values * v, n), samples=2, steps=3)
    assert found.moment(2).value == pytest.approx(values.double().square().mean().item(), rel=1e-5)
