"""The page as a file: whole, and the same in any installation."""

import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import lowland
from lowland.report.page import write_page

from . import made

PACKAGE = Path(lowland.__file__).parent
PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_every_template_is_part_of_the_package():
    patterns = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]["lowland"]
    templates = [path for path in (PACKAGE / "report/page/templates").rglob("*") if path.is_file()]
    assert len(templates) > 10
    for path in templates:
        name = path.relative_to(PACKAGE).as_posix()
        assert any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns), name


def test_a_page_is_written_atomically_and_asks_for_nothing(tmp_path):
    run = made.run(tmp_path / "run", made.arms())
    page = tmp_path / "deep/page.html"
    (source,) = write_page([run], page)
    assert source.finished
    text = page.read_text(encoding="utf-8")
    own = text.replace(text[text.index("/**\n* plotly.js") : text.index('"use strict";\n//')], "")
    assert "http:" not in own.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in own
    assert not list(tmp_path.rglob("*.part"))


def test_what_stands_in_a_directory_is_escaped(tmp_path):
    evil = "</script><script>alert(1)</script>"
    page = tmp_path / "page.html"
    experiment = replace(made.EXPERIMENT, claims=())
    write_page([made.run(tmp_path / "run", {evil: made.outcome()}, experiment=experiment)], page)
    text = page.read_text(encoding="utf-8")
    assert evil not in text
    assert "\\u003c/script\\u003e" in text
