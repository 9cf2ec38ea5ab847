"""What an experiment's code is: its file, and the files beside it that it imports, but for what changes no result."""

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType

from lowland.values import Foreign

_OURS = "lowland"  # its version stands in the summary
_HARMLESS = (_OURS, "dataclasses")  # to import them does nothing else
# What an `Experiment` is given that says how it is trained. Settings, arms and grids stand in the configuration, value
# by value; titles, claims, figures and tables are made from the records.
_TRAINS = ("build", "prepare", "together")
# Those that `dataclasses.replace` may be given for an experiment, and that a data class of the user's is not likely to
# have: what is left out by mistake would go unnoticed, what counts in vain is only refused.
_TOLD = ("title", "claims", "figures", "sweep_figures", "more_grids")


def sources_of(path: Path, content: bytes) -> dict[str, bytes]:
    """File → its source: the file, and those below its folder that it imports, directly or not.

    What is installed elsewhere doesn't count, nor does what is imported by a name that is made up at run time.

    Args:
        path: of the file.
        content: its source.
    """
    folder, found, left = path.parent, dict[str, bytes](), [(path, content)]
    while left:
        file, source = left.pop()
        if not file.is_relative_to(folder):
            continue
        name = file.relative_to(folder).as_posix()
        if name not in found:
            found[name] = source
            left += [(other, other.read_bytes()) for other in _imported(file, source, folder)]
    return dict(sorted(found.items()))


def hashed(sources: Mapping[str, bytes]) -> dict[str, str]:
    """File → SHA-256 of its source, to the letter."""
    return {name: hashlib.sha256(source).hexdigest() for name, source in sources.items()}


def code_of(sources: Mapping[str, bytes], main: str) -> dict[str, str]:
    """File → SHA-256 of that part of its source which can change what a run records.

    Comments, layout and docstrings don't count. Of what an `Experiment` is given only the function that builds its
    tasks does: the configuration has its settings, and titles, claims, tables and figures are made of the records. So a
    function or claim that ``main`` defines, and what it imports from here, count only if something uses them that does.

    Args:
        sources: as `sources_of` gives them.
        main: the file that defines the experiments.
    """
    return hashed({name: _training_part(source, name == main) for name, source in sources.items()})


def code_of_function(function: Foreign) -> dict[str, str]:
    """The same of a function that was made in a notebook: its name → SHA-256 of its compiled code.

    With it count the functions and classes of its own module that it names, however far away; data don't.
    """
    found, left = set[str](), [(getattr(function, "__name__", "build"), function)]
    done = set[str]()
    while left:
        name, one = left.pop()
        if name in done:
            continue
        done.add(name)
        for code in _codes(one):
            found.add(f"{name} {code.co_code.hex()} {_plain(code)} {code.co_names}")
            scope = getattr(one, "__globals__", None) or vars(sys.modules[one.__module__])
            left += [(each, scope[each]) for each in code.co_names if _is_own(scope.get(each), function)]
    name = getattr(function, "__name__", "build")
    return {name: hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()}


def _is_own(value: Foreign, function: Foreign) -> bool:
    return isinstance(value, FunctionType | type) and value.__module__ == function.__module__


def _codes(value: Foreign) -> Iterator[CodeType]:
    """The code of a function, or of a class's methods, and of what is defined inside."""
    if isinstance(value, type):
        for member in vars(value).values():
            if isinstance(member, FunctionType):
                yield from _codes(member)
    else:
        left = [value.__code__] if isinstance(value, FunctionType) else []
        while left:
            code = left.pop()
            yield code
            left += [each for each in code.co_consts if isinstance(each, CodeType)]


def _plain(code: CodeType) -> list[str]:
    """The constants, but for code; those of a set in order, which else changes from process to process."""
    constants = [each for each in code.co_consts if not isinstance(each, CodeType)]
    return [repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each) for each in constants]


def _training_part(source: bytes, is_main: bool) -> bytes:
    try:
        tree: ast.Module = _Stripped().visit(ast.parse(source))
        if is_main:
            tree.body = _in_use(tree.body)
        return ast.unparse(tree).encode()
    except (SyntaxError, ValueError, RecursionError):
        return source  # whoever executes it says what is wrong


def _in_use(body: list[ast.stmt]) -> list[ast.stmt]:
    """``body`` without definitions that no other statement in use names."""
    names = [{node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} for statement in body]
    left = list(zip(body, names, strict=True))
    while True:
        kept = []
        for statement, own in left:
            others = set[str]().union(*(used for other, used in left if other is not statement))
            trimmed = _trimmed(statement, others)
            if trimmed is not None:
                kept.append((trimmed, own))
        if [statement for statement, _ in kept] == [statement for statement, _ in left]:
            return [statement for statement, _ in kept]
        left = kept


def _trimmed(statement: ast.stmt, used: set[str]) -> ast.stmt | None:
    """A statement without what it defines in vain; None if that is all. What may do something else besides stays."""
    match statement:
        case ast.FunctionDef(name=name, decorator_list=[]) | ast.ClassDef(name=name, bases=[], decorator_list=[]):
            return statement if name in used else None
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="Claim"))):
            return statement if name in used else None
        case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] in _HARMLESS:
            kept = [alias for alias in names if alias.name == "*" or (alias.asname or alias.name) in used]
            if len(kept) == len(names):
                return statement
            return ast.ImportFrom(module=module, names=kept, level=statement.level) if kept else None
    return statement


class _Stripped(ast.NodeTransformer):
    """Takes out what changes no record."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None  # a docstring, or a comment that is a string
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "Experiment":
            node.keywords = [each for each in node.keywords if each.arg is None or each.arg in _TRAINS]
        elif called == "replace":
            node.keywords = [each for each in node.keywords if each.arg not in _TOLD]
        elif called == "setting":
            node.args, node.keywords = [], []  # what it is, in words, and its range
        return self.generic_visit(node)


def _imported(file: Path, source: bytes, folder: Path) -> Iterator[Path]:
    """The files below ``folder`` that hold the modules which ``file`` imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # whoever executes it says so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(folder, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = folder if not node.level else file.parents[min(node.level, len(file.parents)) - 1]
            parts = node.module.split(".") if node.module else []
            yield from _files(base, parts)
            for alias in node.names:
                yield from _files(base, [*parts, alias.name])


def _files(base: Path, parts: list[str]) -> Iterator[Path]:
    """The files of the module ``parts``, and of the packages that it lies in."""
    if parts[:1] == [_OURS]:
        return
    for count in range(1, len(parts) + 1):
        place = base.joinpath(*parts[:count])
        for candidate in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if candidate.is_file():
                yield candidate
