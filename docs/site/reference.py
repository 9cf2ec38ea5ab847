"""The reference: a page a room, of every public name, from its docstring.

Public is what ``__all__`` of a room lists; of a module without one, what it defines itself without an underscore. A
name without a docstring fails the build.
"""

import importlib
import inspect
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar

#: Page → the modules on it. The order is that of the navigation; what several export stands on the first one's page.
ROOMS = {
    "optim": ["lowland.optim"],
    "presets": ["lowland.optim.presets"],
    "rules": ["lowland.optim.ascent", "lowland.optim.descent", "lowland.optim.scope", "lowland.optim.schedule"],
    "functional": ["lowland.optim.functional"],
    "curvature": ["lowland.curvature"],
    "features": ["lowland.features"],
    "data": ["lowland.data"],
    "models": ["lowland.models"],
    "training": ["lowland.training"],
    "experiments": ["lowland.experiments"],
    "papers": ["lowland.papers"],
    "report": ["lowland.report"],
    "adapters": ["lowland.adapters.lightning", "lowland.adapters.huggingface", "lowland.adapters.accelerate"],
    "compat": ["lowland.compat"],
    "errors": ["lowland.errors"],
}
_TITLES = {"rules": "Ascent, descent, scope, schedule", "errors": "Errors", "adapters": "Adapters"}


def names_of(module: ModuleType) -> list[str]:
    """The public names of a module, submodules left out."""
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = [
            name
            for name, found in vars(module).items()
            if not name.startswith("_")
            and getattr(found, "__module__", None) == module.__name__
            and not isinstance(found, TypeVar | ParamSpec)
        ]
    return [name for name in listed if not isinstance(getattr(module, name), ModuleType)]


@cache
def public() -> dict[str, str]:
    """Of each public thing, the name where it is defined → the name under which the site has it."""
    found = {}
    for module in (importlib.import_module(name) for names in ROOMS.values() for name in names):
        for name in names_of(module):
            thing = getattr(module, name)
            shown = f"{module.__name__}.{name}"
            if inspect.isclass(thing) or inspect.isroutine(thing):
                found.setdefault(f"{thing.__module__}.{thing.__qualname__}", shown)
    return {defined: shown for defined, shown in found.items() if defined != shown}


def write(work: Path) -> None:
    """Write ``reference/ROOM.rst`` and their index.

    Raises:
        SystemExit: if a public name has no docstring.
    """
    (work / "reference").mkdir()
    rows, undocumented = [], []
    elsewhere: dict[int, str] = {}
    for page, modules in ROOMS.items():
        loaded = [importlib.import_module(name) for name in modules]
        undocumented += [module.__name__ for module in loaded if not module.__doc__]
        undocumented += [f"{m.__name__}.{name}" for m in loaded for name in names_of(m) if not documented(m, name)]
        title = _TITLES.get(page, modules[0])
        parts = [
            _heading(title, "="),
            ".. highlight:: python\n",
            *(_module(module, len(loaded) > 1, elsewhere) for module in loaded),
        ]
        (work / "reference" / f"{page}.rst").write_text("\n".join(parts), encoding="utf-8")
        rows.append(f"* :doc:`{title} <{page}>`: {_first_line(loaded[0]) if len(loaded) == 1 else _all(loaded)}")
    if undocumented:
        raise SystemExit("public names without a docstring: " + ", ".join(undocumented))
    text = [
        _heading("Reference", "="),
        "Every public name, from its docstring. ``[source]`` beside a name shows the code. What people use most stands",
        "in `lowland` itself, too: ``lowland.SAM``, ``lowland.MSam``, ``lowland.presets``, ``lowland.Hessian`` and",
        "``lowland.Monitor``.\n",
        *rows,
        "* :doc:`The command line <commands>`\n",
        ".. toctree::\n   :hidden:\n",
        *(f"   {page}" for page in ROOMS),
        "   commands",
    ]
    (work / "reference" / "index.rst").write_text("\n".join(text) + "\n", encoding="utf-8")


def documented(module: ModuleType, name: str) -> bool:
    """Whether a name has a docstring; a value has one in the comment ``#:`` above it."""
    thing = getattr(module, name)
    if inspect.isclass(thing):
        return bool(vars(thing).get("__doc__")) and not vars(thing)["__doc__"].startswith(f"{name}(")
    return bool(inspect.getdoc(thing)) if inspect.isroutine(thing) else _comment(module, name) is not None


def _comment(module: ModuleType, name: str) -> str | None:
    """The comment above a value, in the module that defines it."""
    from sphinx.pycode import ModuleAnalyzer

    for where in [module, *_imported_from(module, name)]:
        found = ModuleAnalyzer.for_module(where.__name__).find_attr_docs().get(("", name))
        if found:
            return " ".join(found)
    return None


def _imported_from(module: ModuleType, name: str) -> list[ModuleType]:
    """The modules of the same room that define a value of that name."""
    thing = getattr(module, name)
    inside = [each for each in vars(module).values() if isinstance(each, ModuleType)]
    return [each for each in inside if each is not module and getattr(each, name, None) is thing]


def _module(module: ModuleType, several: bool, elsewhere: dict[int, str]) -> str:
    """The part of a page that documents a module; what another page has already is named with a link."""
    lines = [_heading(module.__name__, "-")] if several else []
    lines += [f".. automodule:: {module.__name__}\n   :no-members:\n", f".. currentmodule:: {module.__name__}\n"]
    for name in names_of(module):
        thing = getattr(module, name)
        made = inspect.isclass(thing) or inspect.isroutine(thing)
        if not several:
            lines.append(_heading(name, "-"))
        if made and id(thing) in elsewhere:
            lines.append(f"``{module.__name__}.{name}`` is `{elsewhere[id(thing)]}`.\n")
        elif inspect.isclass(thing):
            bases = "   :show-inheritance:\n" if issubclass(thing, BaseException) else ""
            lines.append(f".. autoclass:: {name}\n   :members:\n{bases}")
        elif inspect.isroutine(thing):
            lines.append(f".. autofunction:: {name}\n")
        else:
            lines += [f".. py:data:: {name}\n", f"   {_comment(module, name)}\n"]
        if made:
            elsewhere.setdefault(id(thing), f"{module.__name__}.{name}")
    return "\n".join(lines)


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def _first_line(module: ModuleType) -> str:
    return (inspect.getdoc(module) or "").splitlines()[0]


def _all(modules: list[ModuleType]) -> str:
    return ", ".join(f"`{module.__name__}`" for module in modules)
