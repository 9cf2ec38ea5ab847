"""The checks of a stack's runs, made together, against each check called by itself."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lowland.curvature import alignment
from lowland.models import mlp
from lowland.papers import find
from lowland.papers.long2024.check import EdgeCheck, HeldOut
from lowland.training import Snapshot


@pytest.fixture(scope="module")
def settings():
    """Four runs of a sweep."""
    base = find("long2024/digits").configure("laptop", {})["sam"]
    return [replace(base, lr=lr, rho=rho) for lr in (0.1, 0.3) for rho in (0.0, 0.2)]


def networks(count):
    torch.manual_seed(0)
    return [mlp([6, 8, 3]).double() for _ in range(count)]


def batches(count, step, shared):
    generator = torch.Generator().manual_seed(step)
    draw = lambda width: torch.randn(7, width, generator=generator, dtype=torch.float64)  # noqa: E731
    return [(draw(6), draw(3))] * count if shared else [(draw(6), draw(3)) for _ in range(count)]


def stack_of(models, of, shared, step):
    names = [name for name, _ in models[0].named_parameters()]
    params = {name: torch.stack([model.get_parameter(name).detach() for model in models]) for name in names}
    x, y = of[0] if shared else (torch.stack(parts) for parts in zip(*of, strict=True))
    return Snapshot(models[0], F.mse_loss, params, x, y, shared, step)


def train(models):
    with torch.no_grad():
        for model in models:
            for p in model.parameters():
                p.mul_(1.02)


def assert_same_record(record, expected):
    assert record.keys() == expected.keys()
    assert {name: type(value) for name, value in record.items()} == {n: type(v) for n, v in expected.items()}
    for name in set(expected) - {"residual"}:
        assert record[name] == pytest.approx(expected[name], rel=1e-8), name
    assert record["residual"] == pytest.approx(expected["residual"], abs=1e-8 * expected["hessian_norm"])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("alike", [True, False])
def test_together_is_each_by_itself_over_several_checks(settings, shared, alike):
    if not alike:
        settings = [replace(one, eps=10.0 ** -(3 + run % 2), tol=10.0 ** -(2 + run // 3)) for run, one in
                    enumerate(settings)]  # fmt: skip
    models = networks(len(settings))
    alone = [EdgeCheck(model, F.mse_loss, one) for model, one in zip(models, settings, strict=True)]
    together = [EdgeCheck(model, F.mse_loss, one) for model, one in zip(models, settings, strict=True)]
    for step in (0, 5, 10):
        of = batches(len(models), step, shared)
        expected = [check(step, batch) for check, batch in zip(alone, of, strict=True)]
        records = EdgeCheck.together(together, stack_of(models, of, shared, step))
        for record, one in zip(records, expected, strict=True):
            assert_same_record(record, one)
        for check, other in zip(together, alone, strict=True):
            assert alignment(check.state_dict()["vector"], other.state_dict()["vector"]).item() == pytest.approx(1)
        train(models)


@pytest.mark.parametrize("hidden", [False, True])
def test_whether_the_gradient_is_that_of_the_loss_is_looked_at_once(settings, hidden, recwarn):
    """One gradient and two losses less at every later check, also of a run that was stopped; the verdict stays."""
    (model,), (first, second) = networks(1), batches(2, 0, False)
    loss_fn = (lambda out, y: F.mse_loss(out, y) + out[:, 0].detach().square().mean()) if hidden else F.mse_loss
    evaluations = []
    model.register_forward_hook(lambda *_: evaluations.append(torch.is_grad_enabled()))

    def made(check, batch):
        evaluations.clear()
        return check(0, batch), len(evaluations)

    check, anew = (EdgeCheck(model, loss_fn, settings[1]) for _ in range(2))
    made(check, first)
    resumed, old = (EdgeCheck(model, loss_fn, settings[1]) for _ in range(2))
    resumed.load_state_dict(check.state_dict())
    old.load_state_dict({"vector": check.vector})  # as they were saved before
    anew.vector = check.vector
    (expected, all_of_them), (told, as_many) = made(anew, second), made(old, second)
    assert (told, as_many) == (expected, all_of_them)
    for later in (check, resumed):
        record, fewer = made(later, second)
        assert record == expected
        assert record["converged"] is not hidden
        assert all_of_them - fewer == (5 if hidden else 3)  # with a second opinion where the slopes disagree
    assert any("isn't that of the loss" in str(one.message) for one in recwarn) is hidden


def test_a_run_that_diverged_keeps_its_start_and_leaves_the_others_alone(settings):
    models = networks(len(settings))
    checks = [EdgeCheck(model, F.mse_loss, one) for model, one in zip(models, settings, strict=True)]
    of = batches(len(models), 0, True)
    EdgeCheck.together(checks, stack_of(models, of, True, 0))
    before = [check.vector for check in checks]
    alone = []
    for model, one, vector in zip(models, settings, before, strict=True):
        alone.append(EdgeCheck(model, F.mse_loss, one))
        alone[-1].load_state_dict({"vector": vector})
    with torch.no_grad():
        models[1][1].weight.fill_(float("nan"))
    records = EdgeCheck.together(checks, stack_of(models, of, True, 5))
    assert isinstance(records[1], FloatingPointError)
    assert str(records[1]) == "the loss is nan"
    assert checks[1].vector is before[1]
    for run in (0, 2, 3):
        assert_same_record(records[run], alone[run](5, of[run]))
        assert checks[run].vector is not before[run]


def four_eigenvalues(settings):
    return [replace(one, eigenvalues=4) if run % 2 else one for run, one in enumerate(settings)]


def test_several_eigenvalues_are_the_hessians_largest(settings):
    (model,) = networks(1)
    (batch,) = batches(1, 0, True)
    record = EdgeCheck(model, F.mse_loss, replace(settings[1], eigenvalues=4, tol=1e-6))(0, batch)
    params = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in params.values()]

    def loss(flat):
        pieces = dict(zip(params, flat.split(sizes), strict=True))
        shaped = {name: piece.view_as(params[name]) for name, piece in pieces.items()}
        return F.mse_loss(torch.func.functional_call(model, shaped, batch[0]), batch[1])

    exact = torch.linalg.eigvalsh(torch.func.hessian(loss)(torch.cat([p.flatten() for p in params.values()])))
    largest = exact[exact.abs().argsort(descending=True)][:4]
    assert record["eigenvalues"] == pytest.approx(largest.tolist(), rel=1e-6)
    assert record["hessian_norm"] == abs(record["eigenvalues"][0])
    assert "eigenvalues" not in EdgeCheck(model, F.mse_loss, settings[1])(0, batch)


@pytest.mark.parametrize("shared", [True, False])
def test_together_some_look_for_several_eigenvalues_and_all_are_tested_at_the_end(settings, shared):
    settings = [replace(one, steps=5) for one in four_eigenvalues(settings)]
    models, start = networks(len(settings)), networks(len(settings))
    draw = torch.Generator().manual_seed(9)
    held_out = HeldOut(
        torch.randn(9, 6, generator=draw, dtype=torch.float64), torch.zeros(9, 3, dtype=torch.float64),
        torch.randint(3, (9,), generator=draw),
    )  # fmt: skip
    alone = [EdgeCheck(model, F.mse_loss, one, held_out) for model, one in zip(models, settings, strict=True)]
    together = [EdgeCheck(model, F.mse_loss, one, held_out) for model, one in zip(start, settings, strict=True)]
    for step in (0, 5):
        of = batches(len(models), step, shared)
        expected = [check(step, batch) for check, batch in zip(alone, of, strict=True)]
        records = EdgeCheck.together(together, stack_of(models, of, shared, step))
        assert ["eigenvalues" in record for record in records] == [False, True] * 2
        assert all(("test_error" in record) is (step == 5) for record in records)
        for record, one in zip(records, expected, strict=True):
            assert_same_record(record, one)
        train(models)


def test_a_run_that_looks_for_several_eigenvalues_may_diverge(settings):
    settings = four_eigenvalues(settings)
    models = networks(len(settings))
    checks = [EdgeCheck(model, F.mse_loss, one) for model, one in zip(networks(4), settings, strict=True)]
    with torch.no_grad():
        models[1][1].weight.fill_(float("nan"))
    records = EdgeCheck.together(checks, stack_of(models, batches(4, 0, True), True, 0))
    assert [isinstance(record, FloatingPointError) for record in records] == [False, True, False, False]
