"""The snippets of the documents run as they stand."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def snippets(document):
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


def test_readme(capsys):
    torch.manual_seed(0)
    scope = {}
    for snippet in snippets("README.md"):
        exec(snippet, scope)
    assert scope["loss"].item() < 2.4
    assert "Hessian norm" in capsys.readouterr().out


@pytest.mark.parametrize("document", sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
def test_documents(document, recwarn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope = {}
    for snippet in snippets(document):
        exec(snippet, scope)
    assert not [str(warning.message) for warning in recwarn if issubclass(warning.category, UserWarning)]


def test_links_between_documents_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("results/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_nothing_names_a_place_of_one_machine():
    documents = [
        *ROOT.glob("*.md"),
        *ROOT.glob("results/**/*.*"),
        *ROOT.glob("src/**/*.py"),
        *ROOT.glob("benchmarks/**/*.py"),
        *ROOT.glob("examples/*.*"),
        *ROOT.glob("docs/**/*.*"),
        *ROOT.glob("tools/*.py"),
    ]
    for path in documents:
        if path.suffix in (".md", ".py", ".json"):
            assert not re.search(r"/(?:home|root|work|tmp)/", path.read_text(encoding="utf-8")), path


def test_the_changelog_says_nothing_twice():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sentences = re.split(r"(?<=[.;:])\s", " ".join(text.replace("\n- ", " ").split()))
    long = [sentence for sentence in sentences if len(sentence) > 25]
    assert len(long) > 100
    assert not {sentence for sentence in long if long.count(sentence) > 1}
    # Nor do lines of two versions of an entry stand together, which a merge by union makes of one that changed.
    beginnings = [" ".join(line.split()[:5]) for line in text.splitlines() if len(line.split()) > 9]
    assert not {beginning for beginning in beginnings if beginnings.count(beginning) > 1}


def test_every_preset_has_its_row():
    from lowland.optim.presets import PRESETS

    page = (ROOT / "docs/family.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(PRESETS)
    for row, (name, preset) in zip(rows, PRESETS.items(), strict=True):
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert cells[0].startswith(f"`{name}(")
        assert cells[1:4] == [preset.formula.replace("|", "∣"), preset.gradients, f"{preset.memory:g}"]
        assert all(float(cell) > 1 for cell in cells[4:-1])
        assert cells[-1] == preset.paper


def test_every_experiment_of_the_page_has_its_row_and_its_cost():
    from lowland.papers import experiments

    page = (ROOT / "docs/andriushchenko2022.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| .*? \| (.*) \|$", page.partition("```")[0], re.MULTILINE))
    expected = {
        name.removeprefix("andriushchenko2022/"): f"{experiment.cost['laptop']} | {experiment.cost['paper']}"
        for name, experiment in experiments().items()
        if name.startswith("andriushchenko2022/")
    }
    assert rows == expected
