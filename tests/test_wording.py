"""Numbers with their noun, and lists cut short."""

from lowland.wording import counted, few


def test_one_has_no_s():
    assert [counted(number, "seed") for number in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


def test_long_lists_name_three():
    assert few([]) == ""
    assert few(["a", "b", "c", "d"]) == "a, b, c, d"
    assert few([f"sam-{k}" for k in range(10)]) == "sam-0, sam-1, sam-2 and 7 more"
