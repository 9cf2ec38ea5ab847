"""Ctrl-C between any two lines of a step: the weights are w, bit for bit, at once, and the next step is right."""

import contextlib
import copy
import inspect
import os
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import lowland.optim
from lowland import SAM
from lowland.optim import presets

from .test_presets import network
from .training import batch, by_closure, by_passes, sgd, weights

#: Every one of them takes minutes: `STRIDE=1 pytest tests/optim/test_interrupts.py`.
STRIDE = int(os.environ.get("STRIDE", "31"))
FILES = (str(Path(lowland.optim.__file__).parent), contextlib.__file__)


def loss_fn(model):
    x, y = batch()
    return F.cross_entropy(model(x), y, reduction="none")


def passes(model, optimizer):
    by_passes(optimizer, lambda: loss_fn(model).mean())


def closure(model, optimizer):
    by_closure(optimizer, lambda: loss_fn(model).mean())


def examples(model, optimizer):
    optimizer.step(lambda: loss_fn(model))


class Interrupts:
    """Raises KeyboardInterrupt before the ``number``-th line that is run in the library."""

    def __init__(self, number):
        self.number, self.seen, self.where = number, 0, None

    def __call__(self, frame, event, argument):
        file = frame.f_code.co_filename
        # Between those lines Python hears nothing: tests/hostile/test_interrupts.py asks it.
        return self.line if file.startswith(FILES) and not file.endswith("grad_mode.py") else None

    def line(self, frame, event, argument):
        # Not where a generator yields: no signal arrives there, and an exception would run none of its handlers.
        if event == "line" or (event == "return" and not frame.f_code.co_flags & inspect.CO_GENERATOR):
            self.seen += 1
            if self.seen == self.number:
                self.where = f"{event} in {frame.f_code.co_qualname}, line {frame.f_lineno}"
                raise KeyboardInterrupt
        return self.line


def buffers(model):
    return [b.clone() for b in model.buffers()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


CASES = {
    "passes": (SAM, {}, passes),
    "closure": (SAM, {}, closure),
    "several ascents": (presets.MultiStepSAM, {}, passes),
    "both gradients": (presets.GSAM, {}, passes),
    "frozen while climbing": (presets.LSAM, {}, passes),
    "no ascent": (presets.MomentumSAM, {}, passes),
    "plain": (SAM, {"rho": 0.0}, passes),
    "chosen examples": (presets.ESAM, {}, examples),
}


def interrupted(start, way, before, after, interrupts):
    """What is wrong after the one of ``interrupts``; None if the step was over before."""
    model, optimizer = copy.deepcopy(start)
    wrong, old = [], sys.gettrace()
    try:
        sys.settrace(interrupts)
        way(model, optimizer)
        sys.settrace(old)
        if interrupts.where is None:
            return None
        # In the end of a generator that nobody waits for: Python itself lets nothing out of there.
        return [] if same(weights(model), weights(after)) else [f"{interrupts.where}: swallowed, and another step"]
    except KeyboardInterrupt:
        # The traceback holds on to every frame here.
        sys.settrace(old)
        if not torch.is_grad_enabled():
            wrong.append("gradients are switched off")
            torch.set_grad_enabled(True)
        if not any(same(weights(model), weights(w)) for w in (before, after)):
            wrong.append("the weights are neither those before the step nor those after")
        if not any(same(buffers(model), buffers(b)) for b in (before, after)):
            wrong.append("the buffers are neither those before the step nor those after")
        if not all(p.requires_grad for p in model.parameters()):
            wrong.append("parameters are frozen")
        if optimizer.under_way is not None:
            wrong.append(f"{optimizer.under_way} is under way")
        else:
            optimizer.state_dict()
    if not wrong:
        optimizer.zero_grad()
        again = copy.deepcopy((model, optimizer))
        way(model, optimizer)
        way(*again)
        if not same(weights(model), weights(again[0])) or not same(buffers(model), buffers(again[0])):
            wrong.append("the next step is another")
    return [f"{interrupts.where}: {what}" for what in wrong]


def begun(case, model):
    """A model and its optimizer after a step; how they step; the models before another step and after it."""
    build, settings, way = CASES[case]
    start = model, build(sgd(model), **{"rho": 0.3} | settings, model=model)
    way(*start)
    through = copy.deepcopy(start)
    way(*through)
    return start, way, copy.deepcopy(model), through[0]


@pytest.mark.parametrize("case", CASES)
def test_an_interrupt_between_any_two_lines(case):
    begin = begun(case, network())
    wrong, number = [], 1 + list(CASES).index(case)
    while (found := interrupted(*begin, Interrupts(number))) is not None:
        wrong += found
        number += STRIDE
    assert number > 100
    assert not wrong, "\n".join(wrong)
