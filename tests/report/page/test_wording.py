"""Counts and lists in words."""

from lowland.report.page.wording import counted, some


def test_counts():
    assert [counted(number, "claim") for number in (0, 1, 2, 1234)] == [
        "0 claims",
        "1 claim",
        "2 claims",
        "1,234 claims",
    ]


def test_long_lists_are_cut():
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some([str(number) for number in range(10)]) == "0, 1, 2 and 7 more"
