"""Losses that are none, losses that are not finite, and where the instruments are called from."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.curvature import Hessian, Monitor, along_line, average_sharpness, m_sharpness, sharpness, stability
from lowland.features import importance_weights


def small(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def data(n=60, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 6, generator=generator).to(dtype), torch.arange(n) % 3)]


def monitored(model, loss_fn, batches):
    return Monitor(torch.optim.SGD(model.parameters(), lr=0.1), model, loss_fn, batches).check()["hessian_norm"]


INSTRUMENTS = {
    "product": lambda model, loss_fn, batches: (Hessian(model, loss_fn, batches) @ torch.ones(83)).sum().item(),
    "eigenpairs": lambda model, loss_fn, batches: Hessian(model, loss_fn, batches).eigenpairs().values.item(),
    "stability": lambda model, loss_fn, batches: stability(model, loss_fn, batches, lr=0.1, rho=0.1).hessian_norm,
    "sharpness": lambda model, loss_fn, batches: sharpness(model, loss_fn, batches, 0.05).value,
    "m_sharpness": lambda model, loss_fn, batches: m_sharpness(model, loss_fn, batches, 0.05, m=20),
    "average_sharpness": lambda model, loss_fn, batches: average_sharpness(model, loss_fn, batches, 0.05).value,
    "along_line": lambda model, loss_fn, batches: along_line(model, model, loss_fn, batches, points=[0, 1]).loss[0],
    "Monitor": monitored,
}
DIFFERENTIATES = [name for name in INSTRUMENTS if name not in ("average_sharpness", "along_line")]


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_inside_inference_mode_they_give_the_same(name):
    """Also of a model and of batches that were made there."""
    expected = INSTRUMENTS[name](small(), F.cross_entropy, data())
    model = small()
    with torch.inference_mode():
        assert INSTRUMENTS[name](model, F.cross_entropy, data()) == expected


def test_importance_weights_inside_inference_mode():
    model = small()
    expected = importance_weights(model, data(), rho=0.1)
    with torch.inference_mode():  # its data, too
        found = importance_weights(model, data(), rho=0.1)
    assert torch.equal(found.phantom, expected.phantom)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_a_loss_that_is_no_tensor(name):
    said = "mean over the batch, a number, not a tuple" if name == "along_line" else "a 0-d tensor, not a tuple"
    with pytest.raises(TypeError, match=said):
        INSTRUMENTS[name](small(), lambda output, y: (F.cross_entropy(output, y), output), data())
    if name != "along_line":  # which measures error rates, too
        with pytest.raises(TypeError, match="a 0-d tensor, not a float: without"):
            INSTRUMENTS[name](small(), lambda output, y: F.cross_entropy(output, y).item(), data())


@pytest.mark.parametrize("name", DIFFERENTIATES)
def test_a_loss_without_a_gradient(name):
    with pytest.raises(ValueError, match="the loss has no gradient by the parameters that are measured"):
        INSTRUMENTS[name](small(), lambda output, y: (output.argmax(1) != y).float().mean(), data())


@pytest.mark.parametrize("added", [math.inf, math.nan])
@pytest.mark.parametrize("name", ["product", "eigenpairs", "stability"])
def test_nothing_is_certified_of_a_loss_that_is_not_finite(name, added):
    with pytest.raises(FloatingPointError, match=f"the loss is {added}"):
        INSTRUMENTS[name](small(), lambda output, y: F.cross_entropy(output, y) + added, data())


RISES = {
    "sharpness": lambda model, rho, dtype: sharpness(model, F.cross_entropy, data(dtype=dtype), rho, m=20),
    "m_sharpness": lambda model, rho, dtype: m_sharpness(model, F.cross_entropy, data(dtype=dtype), rho),
    "average_sharpness": lambda model, rho, dtype: average_sharpness(model, F.cross_entropy, data(dtype=dtype), rho),
}


@pytest.mark.parametrize("name", RISES)
@pytest.mark.parametrize(
    ("dtype", "lost", "seen"), [(torch.float32, 1e-7, 1e-2), (torch.float64, 1e-15, 1e-6), (torch.bfloat16, 1e-2, 0.5)]
)
@pytest.mark.filterwarnings("ignore:parameters of bfloat16 are too coarse")
def test_a_rise_that_is_rounding_is_said(name, dtype, lost, seen, recwarn):
    """At the larger radius it agrees with float64, and nothing is said."""
    model, double = small(dtype), small(dtype).double()
    with pytest.warns(UserWarning, match="take a larger rho") as said:
        RISES[name](model, lost, dtype)
    assert said[-1].filename == __file__
    recwarn.clear()
    found = float(RISES[name](model, seen, dtype))
    assert not [warning for warning in recwarn if "larger rho" in str(warning.message)]
    expected = float(RISES[name](double, seen, torch.float64))
    assert found == pytest.approx(expected, rel=0.15 if dtype == torch.bfloat16 else 0.1)
