"""Accuracies within groups of a table that was made by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowland.features import (
    accuracy_by_group,
    adjusted_average_accuracy,
    group_balanced_accuracy,
    worst_group_accuracy,
)

# group: right of all
TABLE = {-3: (9, 10), 0: (1, 4), 7: (2, 2)}
GROUPS = [group for group, (_, n) in TABLE.items() for _ in range(n)]
RIGHT = [i < right for right, n in TABLE.values() for i in range(n)]
TARGETS = [i % 5 for i in range(len(RIGHT))]
PREDICTIONS = [y if right else y + 1 for y, right in zip(TARGETS, RIGHT, strict=True)]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda values: torch.tensor(values, dtype=torch.int16)])
def test_table(kind):
    order = np.random.default_rng(0).permutation(len(RIGHT))
    table = [kind([values[i] for i in order]) for values in (PREDICTIONS, TARGETS, GROUPS)]
    assert accuracy_by_group(*table) == {-3: 0.9, 0: 0.25, 7: 1.0}
    assert worst_group_accuracy(*table) == 0.25
    assert group_balanced_accuracy(*table) == pytest.approx((0.9 + 0.25 + 1) / 3)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=20))
def test_is_the_count(examples):
    right, group = zip(*examples, strict=True)
    found = accuracy_by_group(right, [True] * len(right), group)
    assert list(found) == sorted(set(group))
    for each in found:
        of_group = [r for r, g in examples if g == each]
        assert found[each] == pytest.approx(sum(of_group) / len(of_group))
    assert min(found.values()) <= sum(right) / len(right) <= max(found.values())
    assert worst_group_accuracy(right, [True] * len(right), group) == min(found.values())


@pytest.mark.parametrize("function", [accuracy_by_group, worst_group_accuracy, group_balanced_accuracy])
def test_refusals(function):
    with pytest.raises(ValueError, match="no examples of groups 1, 3 in"):
        function([0, 1], [0, 1], [0, 2], n_groups=4)
    with pytest.raises(ValueError, match="group 2 in the examples is none of the 2"):
        function([0, 1, 0], [0, 1, 0], [0, 2, 1], n_groups=2)
    with pytest.raises(ValueError, match=r"\(2, 2, 1\)"):
        function([0, 1], [0, 1], [0])
    with pytest.raises(ValueError, match=r"\(0, 0, 0\)"):
        function([], [], [])
    with pytest.raises(ValueError, match=r"predictions must be integers \(n,\), not float32 \(2, 2\)"):
        function(torch.zeros(2, 2), [0, 1], [0, 1])
    with pytest.raises(ValueError, match="groups must be integers"):
        function([0, 1], [0, 1], [0.0, 1.0])


def test_all_groups_that_there_must_be():
    assert accuracy_by_group([1, 1], [1, 0], [1, 0], n_groups=2) == {0: 0.0, 1: 1.0}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30),
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
)
def test_the_adjusted_average_is_that_of_examples_drawn_as_training_examples_are(examples, training):
    groups, right = [group for group, _ in examples], [right for _, right in examples]
    if missing := set(training) - set(groups):
        with pytest.raises(ValueError, match=f"group {min(missing)}"):
            adjusted_average_accuracy(right, [True] * len(right), groups, training)
        return
    by_group = accuracy_by_group(right, [True] * len(right), groups)
    expected = np.mean([by_group[group] for group in training])
    assert adjusted_average_accuracy(right, [True] * len(right), groups, training) == pytest.approx(expected)
    own = adjusted_average_accuracy(right, [True] * len(right), groups, groups)
    assert own == pytest.approx(np.mean(right))
    with pytest.raises(ValueError, match="not of none"):
        adjusted_average_accuracy(right, [True] * len(right), groups, [])
