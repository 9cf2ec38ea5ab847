"""Sphinx's settings; `build.py` calls it."""

import sys
from importlib import resources
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import lowland
import names

project = "Lowland"
author = copyright = "The Lowland authors"
version = release = lowland.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
root_doc = "index"
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "monokai"

myst_heading_anchors = 4
myst_links_external_new_tab = False

default_role = "maybe"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False
# Types of other libraries, and words in their place, lead nowhere without a network.
nitpick_ignore_regex = [(r"py:.*", r".*")]

html_theme = "furo"
html_title = f"Lowland {release}"
html_static_path = ["static"]
html_css_files = ["lowland.css"]
html_search_scorer = str(Path(__file__).with_name("scorer.js"))
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


_FADING = "const findAll = (selector) => [...document.querySelectorAll(selector)];\n" + (
    resources.files("lowland.report.page") / "templates/js/scrolled.js"
).read_text(encoding="utf-8")


# On a phone a claim's row is a card: each cell says of which column it is.
_CLAIMS = """
for (const table of findAll("table.docutils")) {
  const columns = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
  if (columns[0] !== "claim") continue;
  table.classList.add("claims");
  for (const row of table.querySelectorAll("tbody tr"))
    [...row.cells].forEach((cell, column) => { cell.dataset.column = columns[column]; });
}
"""

# A figure alone on its screen, where a phone can enlarge it.
_FIGURES = """
for (const image of findAll("article img:not(a img)")) {
  const link = document.createElement("a");
  link.href = image.src;
  image.replaceWith(link);
  link.append(image);
}
"""


def setup(app: Any) -> None:
    """Hook in what docstrings name in single backticks, and what pages do by themselves."""
    names.setup(app)
    app.add_js_file(None, body=_FADING + _CLAIMS + _FIGURES, type="module")  # a module runs when the page is there
