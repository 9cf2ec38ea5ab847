"""Ctrl-C at any moment of a step at which Python hears it: the weights are w, bit for bit; the next step is right."""

import _thread
import dis
import functools
import signal
import sys

import pytest
import torch
from torch import nn

from tests.optim.test_interrupts import CASES, FILES, begun, interrupted

from .children import whole

# Python looks for signals where functions begin, after calls, and where loops go back.
HEARING = {
    "CALL", "CALL_KW", "CALL_FUNCTION_EX", "BEFORE_WITH", "FOR_ITER", "SEND", "JUMP_BACKWARD", "WITH_EXCEPT_START",
}  # fmt: skip


@functools.cache
def hearing(code):
    """Where in ``code`` Python is about to look."""
    return {instruction.offset for instruction in dis.get_instructions(code) if instruction.opname in HEARING}


class Signal(int):
    """A signal that comes when it is looked at, and nothing else is done then that would hear it at once."""

    comes = property(_thread.interrupt_main)


class Signals:
    """Ctrl-C before the ``number``-th moment at which the library hears one."""

    def __init__(self, number):
        self.number, self.seen, self.where = number, 0, None
        self.signal = Signal(signal.SIGINT)

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(FILES):
            return None
        frame.f_trace_opcodes = True
        return self.opcode

    def opcode(self, frame, event, argument):
        if event == "opcode" and frame.f_lasti in hearing(frame.f_code):
            self.seen += 1
            if self.seen == self.number:
                self.where = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
                self.signal.comes  # noqa: B018
        return self.opcode


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def python_hears():
    """Of Ctrl-C, and what it can't raise is passed over: a destructor's."""
    handler, hook = signal.signal(signal.SIGINT, signal.default_int_handler), sys.unraisablehook
    sys.unraisablehook = lambda _: None
    yield
    sys.unraisablehook = hook
    signal.signal(signal.SIGINT, handler)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stride", [61, *whole(1)])
@pytest.mark.parametrize("case", CASES)
def test_an_interrupt_at_any_moment(case, stride, python_hears, draw, count):
    begin = begun(case, network())
    wrong, number, cases = [], draw.randint(1, stride), 0
    while (found := interrupted(*begin, Signals(number))) is not None:
        wrong += found
        number += stride
        cases += 1
    count("interrupts of a step", cases)
    assert cases >= 150 // stride  # of 150 moments, wherever the first one is drawn
    assert not wrong, "\n".join(wrong)
