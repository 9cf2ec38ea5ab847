"""Figures from made-up records: every file, whatever is missing in the records."""

import pytest

from lowland.report import draw
from lowland.training import Curve, Figure

FIGURES = (
    Figure("a", "A", "y", (Curve("one", "one"), Curve("two", "two", "--"))),
    Figure("b", "B", "y", (Curve("one", "one"),), log=False),
)


@pytest.mark.parametrize("arms", [("only",), ("first", "second", "third")])
def test_draws_every_figure_twice(tmp_path, arms):
    records = {arm: [{"step": t, "one": t / 10, "two": None if t == 3 else 2.0} for t in range(5)] for arm in arms}
    paths = draw(tmp_path / "figures", FIGURES, records, {arm: arm for arm in arms}, "title")
    assert paths == [tmp_path / "figures/a.png", tmp_path / "figures/b.png"]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_draws_the_same_bytes_twice(tmp_path):
    records = {"arm": [{"step": t, "one": t + 1.0, "two": 2.0} for t in range(5)]}
    for name in ("first", "second"):
        draw(tmp_path / name, FIGURES, records, {"arm": "arm"}, "title")
    for suffix in (".png", ".pdf"):
        first, second = ((tmp_path / name / f"a{suffix}").read_bytes() for name in ("first", "second"))
        assert first == second
