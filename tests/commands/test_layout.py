"""Tables: nothing that one types or reads as a verdict is ever broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowland.commands.layout import Column, layout, wrap

COLUMNS = [Column("claim"), Column("what it says", flows=True), Column("verdict"), Column("where")]
ROWS = [
    ["far-below-gd-edge", "There the edge lies far below 2/η: the median", "not reached", "/data/a folder/x.json"],
    ["flatter", "SAM ends with a smaller norm", "FALSE", ""],
]


@pytest.mark.parametrize("width", [None, 10, 40, 80, 200])
def test_whole_cells_stay_whole(width):
    lines = layout(COLUMNS, ROWS, width)
    for row in ROWS:
        for cell in (row[0], row[2], row[3]):
            assert any(cell in line for line in lines)
        for word in row[1].split():
            assert any(word in line.split() for line in lines)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_fit_the_terminal(width):
    assert max(map(len, layout(COLUMNS, ROWS, width))) <= width


def test_without_a_terminal_each_row_is_a_line():
    lines = layout(COLUMNS, [*ROWS, ["long", "word " * 200, "", ""]], None)
    assert len(lines) == 2 + 3
    assert [line.split()[0] for line in lines[2:]] == ["far-below-gd-edge", "flatter", "long"]


def test_what_does_not_fit_side_by_side_stands_one_below_the_other():
    assert layout(COLUMNS, ROWS, 40) == [
        "far-below-gd-edge",
        "  what it says  There the edge lies far",
        "                below 2/η: the median",
        "  verdict       not reached",
        "  where         /data/a folder/x.json",
        "",
        "flatter",
        "  what it says  SAM ends with a smaller",
        "                norm",
        "  verdict       FALSE",
    ]


def test_a_path_longer_than_the_terminal_begins_at_its_left_edge():
    path = "/home/somebody/a/long/way/to/the/data/mnist"
    assert layout([Column("dataset"), Column("where")], [["mnist", path]], 40) == ["mnist", "  where", path]
    assert layout([Column("dataset"), Column("where")], [["mnist", path]], 47)[-1] == "    " + path


def test_wide_letters_take_two_places():
    lines = layout([Column("name"), Column("x")], [["漢字", "1"], ["ab", "2"]], 80)
    assert [line.index(number) for line, number in zip(lines[2:], "12", strict=True)] == [4, 6]


def test_what_would_move_the_cursor_is_spelled_out():
    assert layout([Column("name")], [["a\x1b[2Jb\nc"]], None)[-1] == r"a\x1b[2Jb\nc"


def test_an_empty_table_is_its_head():
    assert layout([Column("a"), Column("b", flows=True)], [], 80) == ["a  b", "-  -"]


@given(st.lists(st.text("abc -/=é漢", max_size=30), max_size=6), st.integers(1, 30))
def test_wrapping_loses_nothing_and_breaks_no_word(texts, width):
    text = " ".join(texts)
    lines = wrap(text, width)
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or " " not in line for line in lines)


@pytest.mark.parametrize("width", [None, 40, 80, 200])
def test_paint_changes_no_width(width):
    painted = [
        Column("claim"),
        COLUMNS[1],
        Column("verdict", paint=lambda cell: f"<{cell}>" if cell else ""),
        COLUMNS[3],
    ]
    lines = layout(painted, ROWS, width)
    assert sum(line.count("<not reached>") + line.count("<FALSE>") for line in lines) == 2
    plain = [line.replace("<", "").replace(">", "") for line in lines]
    assert plain == layout(COLUMNS, ROWS, width)
