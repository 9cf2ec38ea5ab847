"""A small fixed part of the hunt, and what it is made of."""

import pytest

from lowland import SAM

from .generate import program
from .judge import LIMIT, judge
from .program import Program
from .shrink import smallest

CASES = range(32)


@pytest.mark.parametrize("audit", [True, False])
def test_no_counter_example(audit):
    verdicts = [judge(tried, audit) for case in CASES[audit::2] if (tried := program(0, case)) is not None]
    assert not [verdict for verdict in verdicts if verdict.bad]
    judged = [verdict for verdict in verdicts if verdict.way != "unfit"]
    exact = [verdict for verdict in judged if verdict.way.startswith("exact")]
    assert len(judged) > 5
    assert len(exact) > len(judged) / 3  # else nothing would be shown


def test_a_number_gives_the_same_program_each_time():
    assert program(3, 5) == program(3, 5)
    assert program(3, 5) != program(4, 5)


LAYER = ("t0 = net.lin(D['x'])", "t1 = t0.tanh()")


def test_exact_is_told_from_the_loop():
    assert judge(Program(LAYER, "t1.sum(1)"), True).way == "exact"
    mixed = judge(Program((*LAYER, "t2 = t1 - t1.mean(0)"), "t2.square().sum(1)"), False)
    assert mixed.way == "loop"
    assert mixed.error < LIMIT


def test_what_is_wrong_is_seen_and_made_small(monkeypatch):
    right = SAM.step

    def with_a_fault(optimizer, closure):
        loss = right(optimizer, closure)
        if hasattr(optimizer.model, "v"):
            optimizer.model.v.grad *= 1 + 1e-7
        return loss

    monkeypatch.setattr(SAM, "step", with_a_fault)
    wrong = Program((*LAYER, "t2 = t1 * net.v", "t3 = t2 + t1"), "t3.square().sum(1)")
    assert judge(wrong, False).way == "WRONG"
    small = smallest(wrong, lambda tried: judge(tried, False).way == "WRONG")
    assert len(small.lines) < len(wrong.lines)
    assert "net.v" in small.source
    assert "net.lin" not in small.source
    assert len(small.sizes) == 1


def test_buffers_in_another_state_are_wrong(monkeypatch):
    right = SAM.step

    def with_a_fault(optimizer, closure):
        loss = right(optimizer, closure)
        optimizer.model.count += 1
        return loss

    counting = Program((*LAYER, "net.count += 1"), "t1.square().sum(1)")
    assert not judge(counting, False).bad
    monkeypatch.setattr(SAM, "step", with_a_fault)
    assert judge(counting, False).way == "WRONG"


def test_an_exception_that_the_closure_does_not_raise_is_seen(monkeypatch):
    monkeypatch.setattr(SAM, "step", lambda self, closure: 1 / 0)
    assert judge(Program(LAYER, "t1.sum(1)"), True).way == "raised"


def test_a_kink_says_nothing():
    """The largest of two numbers that are equal: which of them gets the gradient hangs on the last digit."""
    kink = Program(
        ("t0 = net.lin(D['x'])", "t1 = torch.stack([t0 @ net.w, t0 @ (net.w * 3 / 3)])"), "t1.amax(0).sum(1)"
    )
    assert judge(kink, False).way in ("exact", "loop", "ill-conditioned")


def test_groups_that_cancel_say_nothing():
    """What is left of their gradients is rounding."""
    cancelled = Program(("t0 = (D['x'] - D['x'].mean(0)) * net.v",), "t0.sum(1)")
    assert judge(cancelled, False).way == "unfit"
