"""Compiled functions run as they were written, and compiled again afterwards."""

import threading

import torch
import torch._dynamo
from torch._dynamo import eval_frame

from lowland.torch_tools import uncompiled


def stance():
    return eval_frame._stance.stance


def test_threads_that_overlap_leave_the_compiler_as_it_was():
    """The first that came in goes out first: what it found is what stays in the end."""
    entered, left, seen = threading.Event(), threading.Event(), []

    def other():
        with uncompiled():
            entered.set()
            left.wait(10)
            seen.append(stance())

    before = stance()
    thread = threading.Thread(target=other)
    with uncompiled():
        thread.start()
        assert entered.wait(10)
    left.set()
    thread.join()
    assert seen == ["force_eager"]
    assert stance() == before == "default"


def test_nested_and_after_an_exception():
    try:
        with uncompiled(), uncompiled():
            assert stance() == "force_eager"
            raise ValueError
    except ValueError:
        pass
    assert stance() == "default"


def test_an_outer_stance_comes_back():
    with torch.compiler.set_stance("eager_on_recompile"):
        with uncompiled():
            assert stance() == "force_eager"
        assert stance() == "eager_on_recompile"
