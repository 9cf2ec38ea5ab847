"""A stack of runs measured together against `stability` of each alone, and against a Hessian written out in full."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.curvature import Stability, alignment, sam_edge, stability, stability_of_stack, vectorized
from lowland.models import Transformer, mlp, norm_cnn
from tests.curvature.test_hessian import dense

SHAPES = {"mlp": (7, 6), "cnn": (4, 3, 8, 8), "dropout": (7, 6)}


def characters(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)


def network(kind):
    if kind == "mlp":
        return mlp([6, 8, 5]), F.mse_loss
    if kind == "cnn":
        return norm_cnn([3, 4], 8, 5), F.cross_entropy
    if kind == "dropout":
        return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 5)), F.cross_entropy
    return Transformer(11, 6, layers=2, width=8, heads=2, key_size=3), characters


def batch(kind, dtype):
    if kind == "transformer":
        return torch.randint(11, (3, 6)), torch.randint(11, (3, 6))
    x = torch.randn(SHAPES[kind], dtype=dtype)
    return x, torch.randn(len(x), 5, dtype=dtype) if kind == "mlp" else torch.randint(5, (len(x),))


def stack(models):
    every = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([one[name].detach() for one in every]) for name in every[0]}


def setting(kind, runs, shared=True, dtype=torch.float64):
    """Networks, their loss, the batch of each, and what `stability_of_stack` takes for it."""
    torch.manual_seed(runs)
    built = [network(kind) for _ in range(runs)]
    models, loss_fn = [model.to(dtype) for model, _ in built], built[0][1]
    batches = [batch(kind, dtype)] * runs if shared else [batch(kind, dtype) for _ in range(runs)]
    x, y = batches[0] if shared else (torch.stack(parts) for parts in zip(*batches, strict=True))
    rates = {"lr": [0.1 * (i + 1) for i in range(runs)], "rho": [0.1 * i for i in range(runs)], "eps": 1e-5}
    return models, loss_fn, batches, (stack(models), x, y), {"shared": shared, **rates}


def one_by_one(models, loss_fn, batches, options, starts=None, tol=1e-3):
    rates = zip(options["lr"], options["rho"], starts or [None] * len(models), strict=True)
    return [
        stability(model, loss_fn, [of], lr=lr, rho=rho, eps=options["eps"], tol=tol, start=start)
        for model, of, (lr, rho, start) in zip(models, batches, rates, strict=True)
    ]


def assert_same(found, expected, rel=1e-8):
    assert isinstance(found, Stability), found
    assert (found.products, found.converged, found.reason) == (expected.products, expected.converged, "")
    for name in set(vars(expected)) - {"vector", "residual", "products", "converged", "reason"}:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=rel), name
    assert found.residual == pytest.approx(expected.residual, rel=rel, abs=rel * expected.hessian_norm)
    assert alignment(found.vector, expected.vector).item() == pytest.approx(1)
    assert found.vector.untyped_storage().nbytes() == expected.vector.untyped_storage().nbytes()


@pytest.mark.parametrize("runs", [1, 2, 5])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer", "dropout"])
def test_is_each_run_alone(kind, shared, runs):
    models, loss_fn, batches, arguments, options = setting(kind, runs, shared)
    before, state = copy.deepcopy(models[0].state_dict()), torch.get_rng_state()
    measured = stability_of_stack(models[0], loss_fn, *arguments, **options)
    for found, expected in zip(measured, one_by_one(models, loss_fn, batches, options), strict=True):
        assert_same(found, expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in models[0].state_dict().items())
    assert all(p.grad is None for p in models[0].parameters())


@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer"])
def test_in_single_precision(kind):
    models, loss_fn, batches, arguments, options = setting(kind, 4, dtype=torch.float32)
    measured = stability_of_stack(models[0], loss_fn, *arguments, **options)
    for found, expected in zip(measured, one_by_one(models, loss_fn, batches, options), strict=True):
        assert found.vector.dtype == torch.float32
        assert found.converged
        for name in ("loss", "gradient_norm", "edge"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-5)
        assert found.hessian_norm == pytest.approx(expected.hessian_norm, rel=2e-3)


@pytest.mark.parametrize("tol", [1e-2, 1e-6])
def test_warm_starts_over_two_checks_and_runs_that_end_at_different_times(tol):
    models, loss_fn, batches, (params, x, y), options = setting("mlp", 5, shared=False)
    first = stability_of_stack(models[0], loss_fn, params, x, y, tol=tol, **options)
    assert len({found.products for found in first}) > 1
    for model in models:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.01)
    starts = [found.vector for found in first]
    starts[2] = None  # a run that has just begun
    second = stability_of_stack(models[0], loss_fn, stack(models), x, y, tol=tol, starts=starts, **options)
    for found, expected in zip(second, one_by_one(models, loss_fn, batches, options, starts, tol), strict=True):
        assert_same(found, expected)


def test_the_graph_is_built_anew_when_products_made_in_vain_come_to_its_cost(monkeypatch):
    models, loss_fn, _, arguments, options = setting("mlp", 5, shared=False)
    built, asked = [], []
    differentiate, product = vectorized._Products._differentiate, vectorized._Products._product

    def counted(self, rows):
        built.append(list(rows))
        return differentiate(self, rows)

    def multiplied(self, vectors):
        asked.append(len(vectors))
        return product(self, vectors)

    monkeypatch.setattr(vectorized._Products, "_differentiate", counted)
    monkeypatch.setattr(vectorized._Products, "_product", multiplied)
    measured = stability_of_stack(models[0], loss_fn, *arguments, **options, tol=1e-6)
    needed = [found.products for found in measured]
    assert len(set(needed)) > 2
    assert built[0] == [0, 1, 2, 3, 4]
    assert len(built) > 1
    for rows in built[1:]:
        # Those that are left need more products than those that are not.
        assert min(needed[row] for row in rows) > max(needed[row] for row in range(5) if row not in rows)
    assert sum(asked) <= sum(needed) + sum(map(len, built))


@pytest.mark.parametrize("chunk", [1, 2, 5, 9])
def test_some_at_a_time(chunk):
    models, loss_fn, batches, arguments, options = setting("mlp", 5, shared=False)
    measured = stability_of_stack(models[0], loss_fn, *arguments, **options, chunk=chunk)
    for found, expected in zip(measured, one_by_one(models, loss_fn, batches, options), strict=True):
        assert_same(found, expected)


def test_where_one_run_keeps_a_core_busy_they_are_measured_one_by_one(monkeypatch):
    models, loss_fn, batches, arguments, options = setting("mlp", 3, shared=False)
    sizes = []
    measure = vectorized._measure
    monkeypatch.setattr(
        vectorized, "_measure", lambda of, runs, *rest: sizes.append(len(runs)) or measure(of, runs, *rest)
    )
    stability_of_stack(models[0], loss_fn, *arguments, **options)
    parameters = sum(p.numel() for p in models[0].parameters())
    monkeypatch.setattr(vectorized, "_BUSY", parameters * 7)
    stability_of_stack(models[0], loss_fn, *arguments, **options)
    assert sizes == [3, 3]
    monkeypatch.setattr(vectorized, "_BUSY", parameters * 7 - 1)
    measured = stability_of_stack(models[0], loss_fn, *arguments, **options)
    assert sizes == [3, 3, 1, 1, 1]
    for found, expected in zip(measured, one_by_one(models, loss_fn, batches, options), strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer"])
@pytest.mark.parametrize("bad", [[1], [0, 2, 4], [0, 1, 2, 3, 4]])
def test_diverged_runs_among_good_ones(kind, bad):
    models, loss_fn, batches, (params, x, y), options = setting(kind, 5)
    for run, value in zip(bad, [float("nan"), float("inf"), 1e200, float("nan"), float("nan")], strict=False):
        for stacked_ in params.values():
            stacked_[run] = value
    measured = stability_of_stack(models[0], loss_fn, params, x, y, **options)
    expected = one_by_one(models, loss_fn, batches, options)
    for run, found in enumerate(measured):
        if run in bad:
            assert isinstance(found, FloatingPointError)
        else:
            assert_same(found, expected[run])


def test_a_product_that_is_not_finite_is_that_runs_alone():
    models, _, batches, (params, x, y), options = setting("mlp", 3, shared=False)

    def loss_fn(out, y):  # where outputs are zero, |out|^1.5 has a gradient, and no second derivative
        return F.mse_loss(out, y) + out.abs().pow(1.5).mean()

    for stacked_ in params.values():
        stacked_[1] = 0
    measured = stability_of_stack(models[0], loss_fn, params, x, y, **options)
    expected = one_by_one(models, loss_fn, batches, options)
    assert "a product" in str(measured[1])
    assert_same(measured[0], expected[0])
    assert_same(measured[2], expected[2])


def test_against_the_hessian_in_full():
    models, loss_fn, batches, (params, x, y), options = setting("mlp", 3, shared=False)
    measured = stability_of_stack(models[0], loss_fn, params, x, y, tol=1e-7, **options)
    for run, (model, of, found) in enumerate(zip(models, batches, measured, strict=True)):
        values, vectors = torch.linalg.eigh(dense(model, loss_fn, *of))
        top = values.abs().argmax()
        lr, rho = options["lr"][run], options["rho"][run]

        def gradient(moved, of=of):
            parts = torch.autograd.grad(loss_fn(moved(of[0]), of[1]), list(moved.parameters()))
            return torch.cat([part.reshape(-1) for part in parts])

        g = gradient(model)
        nn.utils.vector_to_parameters(
            nn.utils.parameters_to_vector(model.parameters()).detach() + rho * g / (g.norm() + 1e-5),
            model.parameters(),
        )
        assert found.hessian_norm == pytest.approx(values[top].abs().item(), rel=1e-7)
        assert found.gradient_norm == pytest.approx(g.norm().item())
        assert found.edge == pytest.approx(sam_edge(g.norm().item(), lr, rho))
        assert found.gd_edge == 2 / lr
        assert found.gradient_alignment == pytest.approx(alignment(g, vectors[:, top]).item(), rel=1e-4)
        expected = alignment(gradient(model), vectors[:, top]).item()
        assert found.sam_gradient_alignment == pytest.approx(expected, rel=1e-4)


def test_frozen_parameters_a_penalty_in_the_loss_and_parameters_beside_the_model():
    models, _, batches, (params, x, y), options = setting("mlp", 3)
    for model in models:
        model.load_state_dict({**model.state_dict(), "1.weight": models[0].state_dict()["1.weight"]})
        model[1].weight.requires_grad_(False)
    del params["1.weight"]
    measured = stability_of_stack(
        models[0], lambda out, y: F.mse_loss(out, y) + sum(p.square().sum() for p in models[0].parameters()),
        params, x, y, **options,
    )  # fmt: skip
    for run, model in enumerate(models):
        rates = {name: options[name][run] for name in ("lr", "rho")}

        def loss_fn(out, y, model=model):
            return F.mse_loss(out, y) + sum(p.square().sum() for p in model.parameters())

        assert_same(measured[run], stability(model, loss_fn, [batches[run]], eps=1e-5, **rates))
    own = list(models[0].parameters())
    with pytest.raises(ValueError, match="doesn't ask the model for"):
        stability_of_stack(models[0], lambda out, y: out.mean() + own[1].sum(), params, x, y, **options)


def test_a_loss_that_is_linear_has_no_curvature():
    _, _, _, (_, x, y), options = setting("mlp", 2)
    linear = nn.Linear(6, 1).double()
    params = stack([linear, copy.deepcopy(linear)])
    measured = stability_of_stack(linear, lambda out, _: out.mean(), params, x, y, **options)
    assert [found.hessian_norm for found in measured] == [0, 0]


def test_without_runs():
    models, loss_fn, _, (params, x, y), _ = setting("mlp", 1)
    none = {name: stacked_[:0] for name, stacked_ in params.items()}
    assert stability_of_stack(models[0], loss_fn, none, x, y, shared=True, lr=[], rho=[]) == []


def test_bad_arguments():
    models, loss_fn, _, (params, x, y), options = setting("mlp", 2)

    def measure(params=params, **changes):
        stability_of_stack(models[0], loss_fn, params, x, y, **{**options, **changes})

    for changes, message in [
        ({"rho": [0.1]}, "1 radii"), ({"rho": [0.1, -1.0]}, "rho"), ({"lr": [0.1, 0.0]}, "lr must be above 0"),
        ({"starts": [None]}, "1 starts"), ({"chunk": 0}, "chunk"), ({"tol": -1.0}, "tol"),
        ({"params": {}}, "must name"), ({"params": {**params, "1.weight": params["1.bias"]}}, "shape"),
        ({"starts": [torch.zeros(101), None]}, "not zero"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            measure(**changes)
