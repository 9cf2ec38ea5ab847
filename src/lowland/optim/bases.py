"""Which base optimizers SAM goes around: those whose step takes the gradients in ``p.grad``, and no more."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType

from torch.optim import Optimizer

DIFFERENTIATES = (
    "{} differentiates gradients in its step, for Hessians along random vectors. Those that SAM leaves in p.grad have "
    "no graph to differentiate: it would be that at w + e, and the weights are w again. Take a base optimizer that "
    "uses gradients alone, torch.optim.AdamW say"
)
EVALUATES = (
    "the step of {} needs a closure, or arguments: it evaluates the loss itself, or wants its value. SAM calls "
    "base.step() without any, once the passes have made the gradients. Take a base optimizer that uses gradients "
    "alone, torch.optim.AdamW say"
)


def check(base: Optimizer) -> None:
    """Raise ValueError for an optimizer whose step needs more than gradients, as far as its source shows.

    Those inside it, in a container or wrapper of several, count, too.
    """
    for optimizer in _with_those_inside(base):
        kind = type(optimizer)
        if kind.__module__.partition(".")[0] in ("torch", "lowland"):
            continue
        name = kind.__name__ + ("" if optimizer is base else f" (in {type(base).__name__})")
        if _needs_arguments(kind):  # type: ignore[arg-type]  # mypy takes no class for hashable
            raise ValueError(EVALUATES.format(name))
        if _differentiates(kind):  # type: ignore[arg-type]
            raise ValueError(DIFFERENTIATES.format(name))


def explain(base: Optimizer, error: Exception) -> RuntimeError | None:
    """What to say of an error in ``base.step()`` that comes from needing more than gradients; None for others."""
    text, kind = str(error), type(base).__name__
    calls_none = "'NoneType' object is not callable" in text
    if calls_none or "NoClosure" in type(error).__name__ or "closure" in text or "required positional" in text:
        return RuntimeError(EVALUATES.format(kind))
    if any(words in text for words in ("does not require grad", "grad_fn", "create_graph", "by an inplace operation")):
        return RuntimeError(DIFFERENTIATES.format(kind))
    return None


def _with_those_inside(base: Optimizer) -> list[Optimizer]:
    found: list[Optimizer] = []
    left = [base]
    while left:
        optimizer = left.pop()
        if any(optimizer is known for known in found):
            continue
        found.append(optimizer)
        for value in vars(optimizer).values():
            values = value if isinstance(value, list | tuple) else value.values() if type(value) is dict else (value,)
            left += [inner for inner in values if isinstance(inner, Optimizer)]
    return found


@functools.cache
def _needs_arguments(kind: type[Optimizer]) -> bool:
    """Whether ``step()`` has an argument without a default, or does nothing good where its closure is None."""
    step = inspect.unwrap(kind.step)
    parameters = list(inspect.signature(step).parameters.values())[1:]
    taken = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if any(p.default is p.empty for p in taken):
        return True
    tree = _tree(step)
    names = {p.name for p in taken if "closure" in p.name}
    return tree is not None and bool(names) and _insists(tree.body, names)


def _insists(body: list[ast.stmt], names: set[str]) -> bool:
    """Whether the statements call one of ``names``, or raise an error, where that is None."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef):
            continue
        if isinstance(statement, ast.Assert) and _mentions(statement.test, names):
            return True
        if isinstance(statement, ast.If) and _mentions(statement.test, names):
            if _is_none(statement.test):
                if any(isinstance(node, ast.Assign) and _mentions(node, names) for node in statement.body):
                    return False  # another one is made
                if _leaves(statement.body):
                    return any(isinstance(inner, ast.Raise) for inner in statement.body)
                if _insists(statement.body, names):
                    return True
            elif statement.orelse and any(isinstance(inner, ast.Raise) for inner in statement.orelse):
                return True
            continue
        blocks = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
        if any(blocks):
            if any(_insists(block, names) for block in blocks):
                return True
        elif any(_calls(node, names) for node in _unguarded(statement, names)):
            return True
    return False


def _is_none(test: ast.expr) -> bool:
    """``closure is None`` or ``not closure``."""
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.Is)
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)


def _leaves(body: list[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Raise | ast.Return)


def _mentions(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(inner, ast.Name) and inner.id in names for inner in ast.walk(node))


def _calls(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _unguarded(node: ast.AST, names: set[str]) -> Iterator[ast.AST]:
    """What is in ``node``, without ``closure() if closure else None`` and the like."""
    yield node
    if isinstance(node, ast.IfExp | ast.BoolOp) and _mentions(node, names):
        return
    for child in ast.iter_child_nodes(node):
        yield from _unguarded(child, names)


@functools.cache
def _differentiates(kind: type[Optimizer]) -> bool:
    """Whether something that ``step()`` calls, of its own class or module, calls autograd."""
    left = [_function(kind.step)]
    seen: set[FunctionType | None] = set()
    while left:
        function = left.pop()
        if function in seen:
            continue
        seen.add(function)
        tree = _tree(function)
        if function is None or tree is None:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "self":
                left.append(_function(inspect.getattr_static(kind, called.attr, None)))
            elif isinstance(called, ast.Name):
                known = function.__globals__.get(called.id)
                if getattr(known, "__module__", None) == "torch.autograd":
                    return True
                if getattr(known, "__module__", None) == function.__module__:
                    left.append(_function(known))
            elif ast.unparse(called).endswith("autograd.grad"):
                return True
    return False


def _function(found: object) -> FunctionType | None:
    """What is called in the end; None for what isn't written in Python."""
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    plain = inspect.unwrap(found) if callable(found) else None
    return plain if inspect.isfunction(plain) else None


def _tree(function: object) -> ast.FunctionDef | None:
    """Of a function whose source is there."""
    if not inspect.isfunction(function):
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return None
    found = tree.body[0]
    return found if isinstance(found, ast.FunctionDef) else None
