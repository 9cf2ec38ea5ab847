"""What `make models` is made of; the table itself takes minutes."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lowland import SAM

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def in_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
    for name in [name for name in sys.modules if name.partition(".")[0] == "architectures"]:
        del sys.modules[name]


@pytest.fixture
def bert(in_benchmarks):
    pytest.importorskip("transformers")
    from architectures import CASES

    return next(case for case in CASES if case.name == "BERT")


def test_an_architecture_that_is_right(bert):
    from architectures.measure import measure

    found = measure(bert, 2, 3)
    assert found.way == "exact"
    assert found.error < 1e-11


@pytest.mark.slow
def test_experts_as_one_batched_product(in_benchmarks):
    """Another of transformers' ways to compute them than its default."""
    pytest.importorskip("transformers")
    from architectures import CASES
    from architectures.measure import measure

    case = next(case for case in CASES if case.name == "Mixtral")

    def build():
        model = case.build()
        model.set_experts_implementation("batched_mm")
        return model

    found = measure(replace(case, build=build), 2, 3)
    assert found.way == "exact"
    assert found.error < 1e-11


def test_a_wrong_gradient_is_seen(bert, monkeypatch):
    from architectures.measure import measure

    right = SAM.backward

    def wrong(self, closure):
        loss = right(self, closure)
        first = next(p for p in self.model.parameters() if p.grad is not None)
        first.grad[3] *= 1.001
        return loss

    monkeypatch.setattr(SAM, "backward", wrong)
    assert 1e-6 < measure(bert, 2, 3).error < 1e-2


def test_ways_from_warnings(in_benchmarks):
    from architectures.measure import way_taken

    loop = "m-SAM goes group by group, two evaluations of the batch for each: x: it is so. The result is the same."
    assert way_taken([]) == ("exact", "")
    assert way_taken(["something of torch's"]) == ("exact", "")
    assert way_taken(["m-SAM: f of w goes by vmap"]) == ("exact, with a warning", "f of w goes by vmap")
    assert way_taken(["m-SAM: f of w goes by vmap", loop]) == ("loop", "x: it is so")


def test_every_architecture_has_a_row_of_its_own(in_benchmarks):
    pytest.importorskip("transformers")
    from architectures import CASES, REFUSED, page

    names = [case.name for case in (*CASES, *REFUSED)]
    assert len(set(names)) == len(names)
    assert len(CASES) >= 25
    body = page.PAGE.read_text(encoding="utf-8").split(page.BEGIN)[1].split(page.END)[0]
    assert [row.split(" | ")[0].removeprefix("| ") for row in body.splitlines() if row.startswith("| ")] == [
        "model", *(case.name for case in CASES), "model", *(case.name for case in REFUSED)
    ]  # fmt: skip
