"""Which changes of a file count: those that can change what a run records."""

from pathlib import Path

import pytest

from lowland.training.code import code_of, hashed, sources_of

from .own_file import TEXT

WITH_CLAIM = TEXT.replace("import Experiment,", "import Claim, Experiment, Verdict,").replace(
    "    build=build,", "    build=build, title='Clouds', claims=(Claim('one', 'text', 'ours', '< 9', judge),),"
)
JUDGE = "def judge(arms):\n    return Verdict(1.0, True)\n\n\n"


def code(text, beside=None):
    sources = {"mine.py": text.encode()} | {name: other.encode() for name, other in (beside or {}).items()}
    return code_of(sources, "mine.py")


@pytest.mark.parametrize(
    "changed",
    [
        TEXT + "\n# a comment\n",
        TEXT.replace("Logistic regression", "Regression"),
        TEXT.replace("    layers =", '    """What one run trains."""\n    layers ='),
        TEXT.replace("    build=build,", "    build=build, title='Clouds',"),
        TEXT.replace("width=3", "width=5"),  # which the configuration says
        TEXT.replace("(0.0, 0.1)", "(0.0, 0.1, 0.2)"),
        WITH_CLAIM.replace("MINE =", f"{JUDGE}MINE ="),
        TEXT + "\n\ndef unused():\n    return helper()\n\n\ndef helper():\n    return 1\n",
    ],
)
def test_what_changes_no_record_does_not_count(changed):
    compile(changed, "mine.py", "exec")
    assert changed != TEXT
    assert code(changed) == code(TEXT)
    assert hashed({"mine.py": changed.encode()}) != hashed({"mine.py": TEXT.encode()})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Dropout(0.2)", "Dropout(0.1)"),
        ("manual_seed(0)", "manual_seed(1)"),
        ("x.sum(1) > 0", "x.sum(1) > 1"),
        ("import torch\n", "import torch\ntorch.set_default_dtype(torch.float64)\n"),
        ("build=build,", "build=lambda settings: build(settings),"),
        (
            "training import Experiment, defaults, supervised",
            "training import Experiment, defaults, other as supervised",
        ),
    ],
)
def test_what_may_change_a_record_counts(old, new):
    assert old in TEXT
    assert code(TEXT.replace(old, new)) != code(TEXT)


def test_what_build_uses_counts_however_far_away():
    text = TEXT.replace("def build", "def width(settings):\n    return inner(settings)\n\n\n"
                        "def inner(settings):\n    return settings.width\n\n\ndef build").replace(
        "(4, settings.width)", "(4, width(settings))"
    )  # fmt: skip
    assert code(text) != code(text.replace("return settings.width", "return settings.width + 1"))


def test_functions_of_files_beside_count_whoever_uses_them():
    beside = {"net.py": "def unused():\n    return 1\n"}
    assert code(TEXT, beside) != code(TEXT, {"net.py": "def unused():\n    return 2\n"})
    assert code(TEXT, beside) == code(TEXT, {"net.py": "# a comment\ndef unused():\n    return 1\n"})


def test_a_file_that_can_not_be_parsed_counts_to_the_letter():
    assert code("x = (") == hashed({"mine.py": b"x = ("})


def test_files_beside_are_found_by_their_imports(tmp_path: Path):
    (tmp_path / "net.py").write_text("import deep\n")
    (tmp_path / "deep.py").write_text("")
    assert list(sources_of(tmp_path / "mine.py", b"import net\n")) == ["deep.py", "mine.py", "net.py"]
