"""What is printed of claims: ours beside the paper's, the three verdicts, and the commands that decide the rest."""

import pytest

from lowland.commands import printing
from lowland.commands.claims import print_claims
from lowland.wording import verdict_of


def claim(name, passed, **more):
    return {
        "id": name, "text": f"What {name} says", "source": "page 1", "measured": -0.01234567,
        "threshold": "interval < 0", "passed": passed, "reason": "over 5 seeds", "reference": None,
        "decided_by": None, **more,
    }  # fmt: skip


CLAIMS = [
    claim("first", True, reference={"value": -0.0085, "where": "figure 1, read by eye"}),
    claim("second", False, reference={"value": "ERM 5.15, SAM 4.3", "where": "figure 1"}),
    claim("third", None, decided_by={"scale": "desk", "command": "lowland run a/b --scale desk"}),
    claim("fourth", None, decided_by={"scale": "desk", "command": "lowland run a/b --scale desk"}),
    claim("changed", None, decided_by={"scale": "desk", "command": "lowland run c/d --scale desk", "changed": True}),
    claim("fifth", None, decided_by={"scale": "desk", "command": "lowland sweep a/b --grid m --scale desk"}),
]


def test_the_papers_value_stands_beside_ours(capsys, monkeypatch):
    monkeypatch.setattr(printing, "_width", lambda: None)
    print_claims(CLAIMS, {"desk": "74 minutes, 2 cores (measured)"})
    lines = capsys.readouterr().out.splitlines()
    assert "in the paper" in lines[0]
    assert "-0.01235" in lines[2]
    assert "-0.0085 (figure 1, read by eye)" in lines[2]
    assert [word in line for word, line in zip(("holds", "fails", "undecided"), lines[2:5], strict=True)] == [True] * 3
    assert "ERM 5.15, SAM 4.3 (figure 1)" in lines[3]


def test_each_deciding_command_is_printed_once_and_whole(capsys, monkeypatch):
    monkeypatch.setattr(printing, "_width", lambda: 40)
    print_claims(CLAIMS, {"desk": "74 minutes, 2 cores (measured)"})
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("  lowland run a/b --scale desk") == 1
    assert "  lowland sweep a/b --grid m --scale desk" in lines
    words = " ".join(lines)
    assert "third, fourth: decided at desk scale (74 minutes, 2 cores (measured)):" in words
    assert "fifth: decided at desk scale:" in words
    own = "with the settings of its own, which were changed here"
    assert f"changed: decided at desk scale ({own}, 74 minutes, 2 cores (measured)):" in words


def test_without_references_there_is_no_column(capsys, monkeypatch):
    monkeypatch.setattr(printing, "_width", lambda: None)
    print_claims(CLAIMS[3:], {})
    assert "in the paper" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [None, 40, 80])
def test_over_a_grid(capsys, monkeypatch, width):
    monkeypatch.setattr(printing, "_width", lambda: width)
    at, over = {"settings": {"rho": 0.1}, "text": "rho = 0.1 (selected)"}, "holds at 1 of 2 points, fails at rho = 2"
    more = {"at": at, "over_grid": over, "interval_95": [-0.02, 0.01]}
    print_claims([{**each, **more} for each in CLAIMS], {})
    text = " ".join(capsys.readouterr().out.split())
    assert all(word in text for word in ("holds", "fails", "undecided", "-0.01235", "-0.0085"))
    if width is None:
        assert (
            "-0.01235 (-0.02 to 0.01) -0.0085 (figure 1, read by eye) interval < 0 holds rho = 0.1 (selected)" in text
        )
    if width != 80:  # where it is wrapped within its column
        assert over in text


def test_what_has_no_threshold_is_reported():
    assert verdict_of(claim("one", None, threshold=None)) == "reported"


def test_verdicts_are_coloured_where_the_terminal_can(monkeypatch):
    column = printing.verdicts()
    assert column.paint("holds") == "holds"  # no terminal
    monkeypatch.setattr(printing.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert [column.paint(word) for word in ("holds", "fails", "undecided", "reported")] == [
        "\x1b[32mholds\x1b[0m", "\x1b[31mfails\x1b[0m", "\x1b[33mundecided\x1b[0m", "reported",
    ]  # fmt: skip
    monkeypatch.setenv("NO_COLOR", "1")
    assert column.paint("holds") == "holds"
