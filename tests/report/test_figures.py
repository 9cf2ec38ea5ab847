"""Figures from made-up records: every file, whatever is missing in the records."""

import pytest

from lowland.report import draw, run
from lowland.report.coincidence import without_equals
from lowland.report.curves import panel_of
from lowland.training import Curve, Figure
from lowland.training.figures import EDGE_OF_STABILITY

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


def test_a_single_curve_is_one_panel_with_a_line_for_each_arm(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(run, "draw_figure", lambda directory, name, heading, panels: drawn.append(panels))
    records = {"sam": [{"step": t, "one": t + 1.0, "two": 2.0} for t in range(3)]}
    records["gd"] = [{"step": t, "one": t + 2.0, "two": None} for t in range(3)]
    labels = {"sam": "sam: ρ = 0.1", "gd": "gd: ρ = 0"}
    notes = {"gd": "diverged at step 9"}
    assert draw(tmp_path, FIGURES, records, labels, "title", against="gd", notes=notes) == []
    several, (single,) = drawn
    assert [(panel.title, panel.labels, panel.note) for panel in several] == [
        ("sam: ρ = 0.1", ["one", "two"], ""), ("gd: ρ = 0", ["one"], "diverged at step 9")
    ]  # fmt: skip
    assert single.labels == ["sam: ρ = 0.1", "gd: ρ = 0"]
    assert single.against == ["gd: ρ = 0"]
    assert single.note == "gd diverged at step 9"
    assert single.bounds == (0, 1)


def test_an_arm_that_did_not_reach_its_edge_says_so():
    records = [{"step": t, "hessian_norm": t / 10, "edge": 2.0, "gd_edge": 2.0} for t in (1, 5, 10)]
    there = [*records, {**records[0], "hessian_norm": 1.9}]

    def note(*runs):
        return panel_of(EDGE_OF_STABILITY[0], dict(enumerate(runs)), "gd").note

    assert note(records) == note(records, records) == "hasn't reached its edge (0.5 of it at most)"
    assert note(there, records) == "1 of 2 haven't reached their edge (0.5 of it at most)"
    assert note(there) == note([{**each, "edge": None} for each in records]) == ""


def test_without_sam_the_edge_is_that_of_gradient_descent():
    records = [{"step": t, "hessian_norm": t / 10, "edge": 2.0, "gd_edge": 2.0} for t in (1, 5, 10)]
    cleared, said = without_equals(panel_of(EDGE_OF_STABILITY[0], {0: records}, "gd"))
    assert (cleared.labels, said) == (["Hessian norm", "2/η"], "SAM edge = 2/η")
