"""The pure functions: under vmap, jvp and compile, and where the gradient is zero or not finite."""

import pytest
import torch

from lowland.optim.functional import perturbation, sam_gradient


def loss_fn(params, scale=1.0):
    return scale * ((params["a"] ** 4).sum() / 4 + (params["a"].sum() * params["b"]).cos().sum())


def params():
    return {"a": torch.tensor([1.0, -2.0], dtype=torch.float64), "b": torch.tensor(0.3, dtype=torch.float64)}


def test_vmap_over_rho_equals_one_at_a_time():
    rhos = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)
    values, gradients = torch.vmap(lambda rho: sam_gradient(loss_fn, params(), rho=rho))(rhos)
    for i, rho in enumerate(rhos.tolist()):
        value, gradient = sam_gradient(loss_fn, params(), rho=rho)
        assert torch.allclose(values[i], value)
        assert torch.allclose(gradients["a"][i], gradient["a"])


def test_jvp_is_the_derivative_of_the_whole_map():
    tangent = {
        "a": torch.tensor([0.4, 0.1], dtype=torch.float64),
        "b": torch.tensor(-1.0, dtype=torch.float64),
    }

    def gradient(p):
        return sam_gradient(loss_fn, p, rho=0.2)[1]

    _, derivative = torch.func.jvp(gradient, (params(),), (tangent,))
    h = 1e-6
    plus, minus = ({k: params()[k] + sign * h * tangent[k] for k in tangent} for sign in (1, -1))
    difference = (gradient(plus)["a"] - gradient(minus)["a"]) / (2 * h)
    assert torch.allclose(derivative["a"], difference, rtol=1e-6)


def test_traces_without_a_break():
    compiled = torch.compile(lambda p, s: sam_gradient(loss_fn, p, s, rho=0.2), backend="eager", fullgraph=True)
    value, gradient = compiled(params(), 2.0)
    expected = sam_gradient(loss_fn, params(), 2.0, rho=0.2)
    assert torch.allclose(value, expected[0])
    assert torch.allclose(gradient["b"], expected[1]["b"])


@pytest.mark.parametrize("bad", [0.0, float("inf"), float("-inf"), float("nan")])
def test_nothing_to_climb_along_gives_a_zero_perturbation(bad):
    step = perturbation([torch.tensor([bad, 0.0]), torch.zeros(3)], rho=0.5)
    assert [tensor.tolist() for tensor in step] == [[0.0, 0.0], [0.0, 0.0, 0.0]]


def test_the_derivative_at_a_zero_gradient_is_finite():
    origin = torch.zeros(2, dtype=torch.float64)
    _, derivative = torch.func.jvp(
        lambda w: sam_gradient(lambda p: (p**2).sum(), w, rho=0.1)[1], (origin,), (torch.ones_like(origin),)
    )
    assert derivative.isfinite().all()


@pytest.mark.parametrize("rho", [-1.0, float("nan"), float("inf")])
def test_bad_rho(rho):
    with pytest.raises(ValueError, match="rho"):
        sam_gradient(loss_fn, params(), rho=rho)


def test_half_precision_gradients_have_a_norm():
    (step,) = perturbation([torch.full((4,), 3000.0, dtype=torch.float16)], rho=0.1)
    assert step.dtype == torch.float16
    assert step.tolist() == pytest.approx([0.05] * 4, rel=1e-3)
