"""What a docstring has in single backticks: a link where the site documents it, else as it stands.

A name that begins with ``lowland.`` and that nothing has is a broken link, and fails the build.
"""

import importlib
import re
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.domains.python import PyXRefRole
from sphinx.util import inspect, logging

from lowland.assigning import Absent
from reference import public

log = logging.getLogger(__name__)
_ROLE = PyXRefRole(innernodeclass=nodes.literal)


def setup(app: Any) -> None:
    """Register the role and the search for what it doesn't find."""
    app.add_role("maybe", _maybe)
    app.connect("missing-reference", _elsewhere)
    app.connect("autodoc-process-docstring", _bars)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skipped)
    app.connect("html-collect-pages", _sources, priority=1)  # before viewcode's own


def _maybe(name: str, rawtext: str, text: str, *rest: Any, **options: Any) -> Any:
    return _ROLE("py:obj", f":py:obj:{rawtext}", text, *rest, **options)


def _bars(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """``|cos|`` is an absolute value, and no substitution of reStructuredText's."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [re.sub(r"\|(?=[^|]*\|)|(?<=\S)\|", r"\\|", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def _signature(app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: Any) -> Any:
    """Of a class that is made in another way than others, the arguments of its ``__init__``."""
    if what == "class" and signature and signature.startswith("(*arguments"):
        found = inspect.signature(thing.__init__, bound_method=True)
        return inspect.stringify_signature(found, unqualified_typehints=True), returns
    return None


def _skipped(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Attributes that are there only to say what to write in their place."""
    return True if isinstance(thing, Absent) else None


def _sources(app: Any) -> list[Any]:
    """Forget modules without source, of which there are no pages: the list of sources would link to them."""
    modules = getattr(app.env, "_viewcode_modules", {})
    for name in [name for name, entry in modules.items() if not entry]:
        del modules[name]
    return []


def exists(name: str) -> bool:
    """Whether ``name``, ``lowland.a.b.C.d``, is a module or something that one has."""
    parts = name.removesuffix("()").split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            fields = getattr(found, "__dataclass_fields__", {}) if not isinstance(found, ModuleType) else {}
            if not hasattr(found, part) and part not in fields:
                return False
            found = getattr(found, part, None)
        return True
    return False


def _elsewhere(app: Any, env: Any, node: Any, contents: Any) -> Any:
    """The place of a name that is documented under another than the one it was called by; else its text alone."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target:
        return None
    shown = public().get(target)
    if shown is not None:
        domain = env.get_domain("py")
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", shown, node, contents)
    if node["reftype"] == "obj":
        if target.startswith("lowland.") and not exists(target):
            log.warning("a docstring names %s, which nothing has", target, location=node)
        return contents
    return None
