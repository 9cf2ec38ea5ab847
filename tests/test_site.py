"""The site: what its pages are made of, its links, and the built one in a real browser."""

import importlib
import re
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

from .report.page.browser import browser

ROOT = Path(__file__).parent.parent
SITE = ROOT / "site"


@pytest.fixture
def part(monkeypatch):
    """A module of docs/site by name."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")

    def load(name):
        before = set(sys.modules)
        module = importlib.import_module(name)
        loaded.extend(name for name in set(sys.modules) - before if not name.startswith("lowland"))
        return module

    loaded = []
    yield load
    for name in loaded:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == ROOT / "docs" / "site":
            del sys.modules[name]


def test_links_that_lead_nowhere_are_found(part, tmp_path):
    page = """<a href="other.html#there">well</a> <a href="other.html#gone">1</a> <a href="missing.html">2</a>
    <a href="https://elsewhere.org">well</a> <img src="https://elsewhere.org/a.png"> <a href="#gone">4</a>"""
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "other.html").write_text('<h1 id="there">There</h1><a href="page.html">well</a>')
    assert part("links").broken(tmp_path) == [
        "page.html: other.html#gone: the page has no such place",
        "page.html: missing.html: there is no such file",
        "page.html: #gone: the page has no such place",
        "page.html: https://elsewhere.org/a.png: is loaded from a network",
    ]


def test_every_page_that_a_page_links_to_is_in_the_site(part, tmp_path):
    part("gather").write(tmp_path)
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")}
    guides = {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")}
    assert guides | {"index.md", "CHANGELOG.md", "results/README.md"} <= pages
    front = (tmp_path / "index.md").read_text(encoding="utf-8")
    assert {guide for guide in guides if guide.removesuffix(".md") not in front} == set()  # each has a place


def test_a_link_to_what_is_no_page_is_refused(part, tmp_path, monkeypatch):
    gather = part("gather")
    monkeypatch.setattr(gather, "sources", lambda: [ROOT / "docs" / "faq.md"])
    with pytest.raises(SystemExit, match=r"docs/faq.md links to \S+, which is no page of the site"):
        gather.write(tmp_path)


def test_every_claim_of_every_experiment_stands_on_its_paper_page_once(part, tmp_path):
    from lowland.papers import experiments

    papers = part("papers")
    papers.write(tmp_path)
    found = papers.found()
    expected = {(name, claim.id) for name, experiment in experiments().items() for claim in experiment.claims}
    assert {(each.experiment.name, each.claim.id) for claims in found.values() for each in claims} == expected
    for paper, claims in found.items():
        page = (tmp_path / "papers" / f"{paper}.md").read_text(encoding="utf-8")
        above = page.partition("## The records")[0]
        for each in claims:
            assert above.count(f"(`{each.claim.id}`)") == sum(other.claim.id == each.claim.id for other in claims)
        reasons = any(each.claim.threshold and each.claim.why for each in claims)
        assert page.count("\n## ") == len({each.kind for each in claims}) + 1 + reasons
    overview = (tmp_path / "papers" / "index.md").read_text(encoding="utf-8")
    assert all(f"]({paper}.md)" in overview for paper in found)


def test_claims_lead_to_their_figures_and_the_contents_to_the_claims(part):
    papers = part("papers")
    for paper, claims in papers.found().items():
        page = papers.page(paper, claims)
        places = re.findall(r"^\(([\w.-]+)\)=$", page, re.MULTILINE)
        assert len(places) == len(set(places))
        assert {*re.findall(r"\[(?:\d+|figure|why)\]\(#([\w.-]+)\)", page)} <= {*places}
        counted = re.findall(r"\[(\d+)\]\(#[a-z]+-", page.partition("\n## ")[0])
        assert sum(map(int, counted)) == len(claims)
        recorded = [each for each in claims if each.summary]
        assert page.count("[figure](#") == len(recorded)  # every claim of a record has one


def test_a_sweep_decides_the_claims_of_its_own_grid_alone(part):
    [claims] = [claims for paper, claims in part("papers").found().items() if paper == "andriushchenko2022"]
    kinds = {each.claim.id: each.kind for each in claims if each.experiment.name == "andriushchenko2022/cifar10"}
    assert kinds["small-m"] == "fails"  # by m-desk, which is recorded
    assert kinds["n-sam-gains-little"] == "open"  # by figure-1


def test_of_several_records_the_largest_that_decides_counts(part):
    [claims] = [claims for paper, claims in part("papers").found().items() if paper == "long2024"]
    of_mnist = {each.claim.id: each for each in claims if each.experiment.name == "long2024/mnist"}
    assert of_mnist["gd-edge"].summary["scale"] != "laptop"  # which leaves it undecided
    assert of_mnist["gd-edge"].kind in ("holds", "fails")


def test_a_public_name_without_a_docstring_is_refused(part, tmp_path, monkeypatch):
    pytest.importorskip("sphinx", reason="sphinx is not installed: make docs")
    reference = part("reference")
    module = types.ModuleType("bare", "A module.")
    exec("def told():\n    '''What it does.'''\ndef bare(): ...\nclass Bare: ...", module.__dict__)
    module.__all__ = ["told", "bare", "Bare"]
    monkeypatch.setitem(sys.modules, "bare", module)
    monkeypatch.setattr(reference, "ROOMS", {"bare": ["bare"]})
    with pytest.raises(SystemExit, match=r"without a docstring: bare\.bare, bare\.Bare$"):
        reference.write(tmp_path)


def test_a_script_is_cut_into_cells(part, tmp_path):
    pytest.importorskip("nbclient", reason="nbclient is not installed: make docs")
    script = tmp_path / "script.py"
    script.write_text("# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n\nx\n")
    assert list(part("tutorials").cells(script)) == [("markdown", "# Title\n\nText."), ("code", "x = 1\n\nx")]


@pytest.mark.slow
def test_a_tutorial_finds_the_commands_of_its_environment(part, tmp_path, monkeypatch):
    pytest.importorskip("nbclient", reason="nbclient is not installed: make docs")
    tutorials = part("tutorials")
    script = tmp_path / "script.py"
    script.write_text("# %%\nimport shutil\nprint(shutil.which('lowland'))\n")
    monkeypatch.setattr(tutorials, "KEPT", tmp_path / "kept")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # as where the environment isn't activated
    [cell] = tutorials.executed(script).cells
    assert Path(cell.outputs[0].text.strip()).parent == Path(sys.executable).parent


@pytest.mark.slow
def test_every_page_of_the_built_site_renders(tmp_path):
    if find_spec("furo") is None:
        pytest.skip("the site's tools are not installed: make docs")
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built: make docs")
    pages = sorted(path for path in SITE.rglob("*.html") if "_modules" not in path.parts)
    with browser() as page:
        for width in (1400, 390):
            page.size(width)
            for path in pages:
                page.logs()
                page.driver.get(path.as_uri())
                errors, asked = page.logs()
                name = path.relative_to(SITE)
                assert not errors, f"{name}: {errors}"
                assert all(url.startswith(("file:", "data:", "about:", "chrome")) for url in asked), f"{name}: {asked}"
                assert page.run(
                    "return document.querySelector('h1') !== null || location.pathname.endsWith('search.html')"
                )
                broken = "return [...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src)"
                assert page.run(broken) == [], name
                # Of the page, whose innerWidth grows on a phone with what is too wide; and of the theme's own box.
                wide = "return [...document.querySelectorAll('html, .content')].map((box) => box.scrollWidth)"
                assert max(page.run(wide)) <= width, f"{name} at {width}"
                if width == 390 and path.parent.name == "papers" and path.stem != "index":
                    claims = "[...document.querySelectorAll('table.claims')]"
                    assert page.run(f"return {claims}.length") > 0, name
                    fits = "(table) => table.scrollWidth <= table.parentElement.clientWidth"
                    assert page.run(f"return {claims}.every({fits})"), f"{name}: a claim goes beyond the screen"
                page.wait(  # what goes on is faded there
                    "return [...document.querySelectorAll('.table-wrapper, .output')].every("
                    "(box) => box.scrollWidth <= box.clientWidth + 1 || box.matches('.more-right'))"
                )


@pytest.mark.slow
def test_the_built_site_is_searched_without_a_server():
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built: make docs")
    with browser() as page:
        page.size(1400)
        page.driver.get((SITE / "search.html").as_uri() + "?q=accumulation")
        there = "[...document.querySelectorAll('#search-results li a')]"
        page.wait(f"return {there}.some((a) => a.pathname.endsWith('CHANGELOG.html'))")
        found = page.run(f"return {there}.map((a) => a.pathname)")
        guide, changes = (
            next(place for place, path in enumerate(found) if path.endswith(end))
            for end in ("docs/training.html", "CHANGELOG.html")
        )
        assert guide < changes
