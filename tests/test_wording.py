"""Numbers with their noun, and lists cut short."""

from lowland.wording import counted, few, worsened_of


def test_one_has_no_s():
    assert [counted(number, "seed") for number in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


def test_long_lists_name_three():
    assert few([]) == ""
    assert few(["a", "b", "c", "d"]) == "a, b, c, d"
    assert few([f"sam-{k}" for k in range(10)]) == "sam-0, sam-1, sam-2 and 7 more"


def test_what_got_worse_is_named_with_both_losses():
    entry = {"column": "train_loss", "first": 2.30259, "last": 1e6}
    assert worsened_of({"worsened": {"sam": entry}}).endswith("before the first step: sam (2.303, then 1e+06)")
    assert "sam-2 (2.303, then 1e+06) and 3 more" in worsened_of({"worsened": {f"sam-{k}": entry for k in range(6)}})
    assert worsened_of({}) == ""
