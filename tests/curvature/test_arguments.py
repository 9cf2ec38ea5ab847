"""Arguments that make no sense end in one line, most before anything is measured."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lowland
from lowland.curvature import (
    Hessian,
    Monitor,
    alignment,
    along_line,
    average_sharpness,
    m_sharpness,
    sam_edge,
    sharpness,
    stability,
    stability_of_stack,
)  # fmt: skip
from lowland.features import extract, importance_weights
from lowland.optim import schedule

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
SIZE = sum(p.numel() for p in MODEL.parameters())
X, Y = torch.randn(6, 3), torch.arange(6) % 2
BATCHES = [(X, Y)]
STACKED = {name: torch.stack([p.detach()] * 2) for name, p in MODEL.named_parameters()}
BASE = torch.optim.SGD(MODEL.parameters(), lr=0.1)
NAN = float("nan")


def calls(model=MODEL, loss_fn=F.cross_entropy, batches=BATCHES):
    """The instruments with arguments that make sense, which others replace."""
    given = {"model": model, "loss_fn": loss_fn, "batches": batches}
    return {
        "eigenpairs": (lambda **kw: Hessian(model, loss_fn, batches).eigenpairs(**kw), {}),
        "Hessian": (lambda **kw: Hessian(**kw).eigenpairs(), given),
        "stability": (stability, given | {"lr": 0.1, "rho": 0.1}),
        "sharpness": (sharpness, given | {"rho": 0.1}),
        "m_sharpness": (m_sharpness, given | {"rho": 0.1}),
        "average_sharpness": (average_sharpness, given | {"rho": 0.1, "draws": 2}),
        "stack": (
            stability_of_stack,
            {"model": model, "loss_fn": loss_fn, "params": STACKED, "x": X, "y": Y, "shared": True}
            | {"lr": [0.1] * 2, "rho": [0.1] * 2},
        ),
        "Monitor": (Monitor, given | {"optimizer": BASE}),
        "along_line": (
            along_line,
            {"model_a": model, "model_b": MODEL, "loss_fn": loss_fn, "batches": batches, "points": [0]},
        ),
        "extract": (extract, {"model": model, "batches": batches}),
        "importance_weights": (importance_weights, {"model": model, "batches": batches, "rho": 0.1}),
    }


WRONG = [
    *(("eigenpairs", "k", value) for value in (0, SIZE + 1, 1.5, True, "a")),
    *(("eigenpairs", "tol", value) for value in (-1, NAN, "a", None, torch.tensor(1e-3))),
    *(("eigenpairs", "start", value) for value in (torch.ones(5), torch.ones(SIZE, 2), torch.ones(2 * SIZE), [1.0], 3)),
    *(("eigenpairs", "max_products", value) for value in (0, 8.5, True)),
    *(("eigenpairs", "max_basis", value) for value in (1, 8.5, "a")),
    ("eigenpairs", "generator", 3),
    *(("stability", "start", value) for value in (torch.ones(5), [1.0])),
    *(("stability", "lr", value) for value in (0, -1, "a", NAN, None, torch.ones(2))),
    *(("stability", "rho", value) for value in (-1, "a", NAN, torch.tensor(-0.1), torch.ones(3))),
    *((name, "eps", value) for name in ("stability", "sharpness", "m_sharpness", "stack") for value in (-1, NAN, "a")),
    *(("stability", name, value) for name, value in (("tol", "a"), ("k", 1.5))),
    *(("sharpness", name, 1.5) for name in ("m", "steps", "restarts", "seed")),
    *(("sharpness", "step_size", value) for value in (0, 1.1, "a", NAN)),
    *(("sharpness", "rho", value) for value in (torch.tensor(-0.1), torch.ones(3), None)),
    *(("average_sharpness", name, 1.5) for name in ("draws", "seed")),
    *(("average_sharpness", "rho", value) for value in (torch.ones(3), "a")),
    *(("Monitor", "tol", value) for value in (0, 1, -1, "a", None, NAN)),
    *(("Monitor", "max_overhead", value) for value in (0, 2, "a", NAN, True)),
    *(("stack", "chunk", value) for value in (0, 1.5, "a")),
    *(("stack", name, value) for name in ("lr", "rho") for value in (0.1, ["a", 0.1], [-1, 0.1], "ab")),
    *(("stack", "starts", value) for value in ([None, torch.ones(5)], [3, None])),
    *(("stack", name, value) for name, value in (("tol", "a"), ("params", 5))),
    *(("along_line", "points", value) for value in (5, None, ["a"])),
    *((name, "model", value) for name in ("Hessian", "stability", "sharpness", "m_sharpness", "average_sharpness",
      "stack", "Monitor", "extract", "importance_weights") for value in (lambda x: x, 4, None)),
    *(("along_line", name, 4) for name in ("model_a", "model_b")),
    *((name, what, 5) for name in ("Hessian", "Monitor", "sharpness") for what in ("loss_fn", "batches", "weight")),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_one_line_that_says_it(number):
    kind, name, value = WRONG[number]
    seen = []

    def loss_fn(out, y):
        seen.append(1)
        return F.cross_entropy(out, y)

    call, right = calls(loss_fn=loss_fn)[kind]
    with pytest.raises((ValueError, TypeError)) as raised:
        call(**right | {name: value})
    words, where = str(raised.value), Path(str(raised.traceback[-1].path))
    assert "\n" not in words
    assert (where.parent.parent.name == "lowland") or where.parent.name == "lowland", where  # not from inside of torch
    for inside in ("not supported between", "object has no attribute", "is not iterable", "not callable", "has no len"):
        assert inside not in words
    if kind not in ("eigenpairs", "stack") and name != "k":  # after one gradient, or the check of another run
        assert not seen


def test_what_makes_sense_is_taken():
    for call, right in calls().values():
        call(**right)
    one = stability(MODEL, F.cross_entropy, BATCHES, lr=torch.tensor(0.1), rho=torch.tensor([0.1]))
    assert type(one.edge) is float
    assert type(one.gd_edge) is float
    assert one.edge == pytest.approx(stability(MODEL, F.cross_entropy, BATCHES, lr=0.1, rho=0.1).edge)
    several = stability_of_stack(
        MODEL, F.cross_entropy, STACKED, X, Y, shared=True, lr=torch.tensor([0.1, 0.1]), rho=np.full(2, 0.1, np.float32)
    )
    assert several[0].edge == pytest.approx(one.edge)
    assert sharpness(MODEL, F.cross_entropy, BATCHES, torch.tensor(0.1), eps=0).value > 0
    sharpness(MODEL, F.cross_entropy, BATCHES, 0.1, np.int64(2), restarts=np.int64(2), seed=np.int64(3))
    average_sharpness(MODEL, F.cross_entropy, BATCHES, 0.1, draws=np.int64(2), seed=np.int64(3))
    Hessian(MODEL, F.cross_entropy, BATCHES).eigenpairs(np.int64(2), max_basis=np.int64(8), max_products=np.int64(90))
    assert sam_edge(0.5, np.float32(0.1), 0) == pytest.approx(20)


def test_products_edges_and_alignments():
    hessian = Hessian(MODEL, F.cross_entropy, BATCHES)
    for vector in ([1.0] * SIZE, 3, None):
        with pytest.raises(TypeError, match="needs a tensor v"):
            _ = hessian @ vector
    for arguments in (("a", 0.1, 0.1), (1, 0.1, None), (1, None, 0.1), (NAN, 0.1, 0.1)):
        with pytest.raises(ValueError, match="must be a number"):
            sam_edge(*arguments)
    with pytest.raises(ValueError, match="not of 3 and 4 entries"):
        alignment(torch.ones(3), torch.ones(4))
    for pair in ((3, 4), (torch.ones(3, dtype=torch.long),) * 2):
        with pytest.raises(TypeError, match="floating-point"):
            alignment(*pair)


def test_a_state_of_something_else():
    watch = Monitor(BASE, MODEL, F.cross_entropy, BATCHES)
    watch.step()
    right = watch.state_dict()
    wrong = [{}, None, 5, [], {"steps": 1}, MODEL.state_dict(), BASE.state_dict()]
    wrong += [right | {name: "a"} for name in right]
    wrong += [right | {name: None} for name in right if name != "vector"]
    optional = ("records", "cut_off", "vector")
    wrong += [{key: right[key] for key in right if key != name} for name in right if name not in optional]
    watch = Monitor(BASE, MODEL, F.cross_entropy, BATCHES)
    for state in wrong:
        with pytest.raises(ValueError, match="not the state of a monitor"):
            watch.load_state_dict(state)
        assert (watch.steps, watch.records) == (0, [])
    watch.load_state_dict({key: right[key] for key in right if key not in ("records", "cut_off")})
    watch.load_state_dict(right)
    assert watch.steps == 1
    assert len(watch.records) == 1


@pytest.mark.parametrize("rho", [-0.1, NAN, float("inf"), "a", None])
def test_schedules(rho):
    for make in (schedule.every, schedule.since, schedule.until):
        with pytest.raises(ValueError, match="rho"):
            make(2, rho)
    for radii in ((rho, 0.01), (0.1, rho)):
        with pytest.raises(ValueError, match="rho"):
            schedule.along_lr(BASE, *radii, 0.1, 0.01)
    for rates in (("a", 0.01), (0.1, "a"), (NAN, 0.01), (0.1, 0.1)):
        with pytest.raises(ValueError, match=r"lr|learning rate"):
            schedule.along_lr(BASE, 0.1, 0.01, *rates)
    with pytest.raises(TypeError, match="must be an optimizer"):
        schedule.along_lr(3, 0.1, 0.01, 0.1, 0.01)
    assert lowland.SAM(BASE, rho=schedule.every(2, torch.tensor(0.1))).param_groups[0]["rho"] == pytest.approx(0.1)


def test_every_instrument_is_here():
    names = {"eigenpairs", *lowland.curvature.__all__} & {name for name in calls() if name != "stack"}
    assert names >= {"Hessian", "Monitor", "along_line", "average_sharpness", "m_sharpness", "sharpness", "stability"}
    assert inspect.isfunction(stability_of_stack)
