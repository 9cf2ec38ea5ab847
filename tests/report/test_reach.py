"""How far axes reach."""

import pytest

from lowland.report.reach import span
from lowland.training import Level


def far(value, **how):
    return Level(value, "paper", **how)


@pytest.mark.parametrize(
    ("own", "around", "levels", "log", "expected"),
    [
        ([1, 2], [], [], False, (1, 2)),
        ([1, 2], [0.5, 2.5], [], False, (0.5, 2.5)),
        ([1, 2], [-50, 2.5], [], False, (0.5, 2.5)),  # half of the curves' height further, and no more
        ([1, 2], [], [far(2.9)], False, (1, 2.9)),
        ([1, 2], [], [far(9)], False, (1, 2)),
        ([1, 2], [], [far(9, within=True)], False, (1, 9)),
        ([1, 2], [0.9], [far(2.9)], False, (0.9, 2.9)),
        ([3], [-7, 13], [far(90)], False, (-7, 13)),
        ([3], [], [far(90)], False, (3, 90)),  # one value has no height to go by
        ([1, 10], [0.01, 20], [far(200), far(30000)], True, (10**-0.5, 200)),
        ([], [], [far(1)], False, (1, 1)),
    ],
)
def test_the_range_of_an_axis(own, around, levels, log, expected):
    assert span(own, around, levels, log) == pytest.approx(expected)


def test_nothing_has_no_range():
    assert span([], [], [], False) is None
