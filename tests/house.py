"""The numbers that the house is kept to; `python tests/house.py` prints them by room.

What is over a limit must stand in `house.txt`, which may only get shorter: `--prune` strikes out what is mended.
"""

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grimp

SOURCE = Path(__file__).parents[1] / "src"
TESTS = Path(__file__).parent
OFFENDERS = Path(__file__).with_suffix(".txt")
sys.path.insert(0, str(SOURCE))  # grimp finds the package there
ATTRIBUTES, METHODS, PARAMETERS = 12, 25, 8
KINDS = ("circle", "private", "attributes", "methods", "parameters", "twice", "untyped", "astray")
#: Folders of tests that are about all rooms, or about how tests themselves are made.
OF_NO_ROOM = {".", "hostile", "hunt"}
#: Rooms in which nothing is typed `Any`; what has no type is called by one of the names in `lowland.values`.
TYPED = ("optim", "training")
#: Torch's own, which some of our classes have too.
TORCHS = {"_version", "_buffers", "_values"}
#: The same class under another library's name for it, or for another library.
NAMESAKES = {"SAM", "MonitorCallback", "Settings"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
#: Who imports whom, and where.
Arrows = dict[str, dict[str, grimp.DetailedImport]]


@dataclass(frozen=True, order=True)
class Offence:
    """What is over a limit: its kind, its room, its name, and where it stands."""

    kind: str
    room: str
    name: str
    where: str

    @property
    def entry(self) -> str:
        """As the list of offenders has it: no file, so that moving one is no news; of arrows and `Any`, how many."""
        named = self.kind not in ("circle", "private", "untyped")
        return f"{self.kind} {self.room}{f' {self.name}' if named else ''}"


@dataclass
class Module:
    """One file of the library."""

    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """The directory below `lowland`, or "ground" for the files beside it."""
        parts = self.path.relative_to(SOURCE / "lowland").parts
        return parts[0] if len(parts) > 1 else "ground"

    @property
    def classes(self) -> list[ast.ClassDef]:
        """All of them, nested ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    def offence(self, kind: str, name: str, node: ast.expr | ast.stmt) -> Offence:
        return Offence(kind, self.room, name, f"{self.path.relative_to(SOURCE)}:{node.lineno}")


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def functions(node: ast.AST) -> list[Function]:
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, Function)]


def fields(node: ast.ClassDef) -> set[str]:
    """Annotated names in the body of a class: a dataclass's fields and other attributes of its instances."""
    return {
        child.target.id
        for child in node.body
        if isinstance(child, ast.AnnAssign)
        and isinstance(child.target, ast.Name)
        and "ClassVar" not in ast.unparse(child.annotation)
    }


@cache
def attributes(node: ast.ClassDef) -> set[str]:
    """What its instances have: the annotated, and what methods assign to `self`."""
    assigned = {
        child.attr
        for function in functions(node)
        for child in ast.walk(function)
        if isinstance(child, ast.Attribute)
        and isinstance(child.ctx, ast.Store)
        and getattr(child.value, "id", None) == "self"
    }
    return (fields(node) | assigned) - {function.name for function in functions(node)}


def methods(node: ast.ClassDef) -> set[str]:
    return {function.name for function in functions(node)}


@cache
def members(node: ast.ClassDef) -> set[str]:
    """Its private members."""
    plain = {
        target.id
        for child in node.body
        if isinstance(child, ast.Assign)
        for target in child.targets
        if isinstance(target, ast.Name)
    }
    return {name for name in attributes(node) | methods(node) | plain if private(name)}


def parameters(function: Function) -> list[str]:
    every = function.args
    named = [*every.posonlyargs, *every.args, *every.kwonlyargs, *filter(None, (every.vararg, every.kwarg))]
    return [each.arg for each in named if each.arg not in ("self", "cls")]


class House:
    """All modules, and who inherits from whom."""

    def __init__(self) -> None:
        self.modules = [
            Module(path, ast.parse(path.read_text())) for path in sorted((SOURCE / "lowland").rglob("*.py"))
        ]
        self.by_name: dict[str, list[tuple[Module, ast.ClassDef]]] = defaultdict(list)
        for module in self.modules:
            for node in module.classes:
                self.by_name[node.name].append((module, node))
        packages = [module.tree for module in self.modules if module.path.name == "__init__.py"]
        #: What a room's `__init__` takes from its files.
        self.exported = {
            name.name
            for tree in packages
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for name in node.names
        }

    def lineage(self, module: Module, node: ast.ClassDef) -> list[ast.ClassDef]:
        """A class and those of the library that it inherits from."""
        found = [node]
        for base in node.bases:
            name = ast.unparse(base).split("[")[0].split(".")[-1]
            candidates = self.by_name[name]
            for parent in [each for each in candidates if each[0] is module] or candidates[:1]:
                if parent[1] is not node:
                    found += self.lineage(*parent)
        return found

    def offences(self) -> Iterator[Offence]:
        yield from self.circles()
        yield from astray()
        for module in self.modules:
            yield from self.reached(module)
            for node in module.classes:
                lineage = self.lineage(module, node)
                if any(ast.unparse(base) == "TypedDict" for each in lineage for base in each.bases):
                    continue  # a dictionary: its keys are no attributes
                if len(set().union(*map(attributes, lineage)) - self.arguments(lineage)) > ATTRIBUTES:
                    yield module.offence("attributes", node.name, node)
                if len(set().union(*map(methods, lineage))) > METHODS:
                    yield module.offence("methods", node.name, node)
            yield from self.wide(module, module.tree, "")
            if module.room in TYPED:
                yield from (module.offence("untyped", "Any", node) for node in untyped(module))
        for name, found in self.by_name.items():
            for module, node in found if len(found) > 1 and not private(name) and name not in NAMESAKES else ():
                yield module.offence("twice", name, node)

    def arguments(self, lineage: list[ast.ClassDef]) -> set[str]:
        """The attributes that are arguments of a public constructor, which has as many as its users need."""
        found: set[str] = set()
        settings = any(node.name == "Settings" for node in lineage)
        for node in lineage:
            if node.name in self.exported or settings:
                constructors = [each for each in functions(node) if each.name == "__init__"]
                found |= set(parameters(constructors[0])) if constructors else fields(node)
        return found

    def wide(self, module: Module, node: ast.AST, owner: str) -> Iterator[Offence]:
        """Functions of too many parameters, but public constructors, what a room exports, and a command's options."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function) and len(parameters(child)) > PARAMETERS:
                constructor = (child.name == "__init__" and not private(owner)) or module.path.name == "presets.py"
                command = module.room == "commands" and not owner and not private(child.name)
                if not constructor and not command and (owner or child.name not in self.exported):
                    yield module.offence("parameters", f"{owner}.{child.name}".lstrip("."), child)
            yield from self.wide(module, child, child.name if isinstance(child, ast.ClassDef) else owner)

    def reached(self, module: Module) -> Iterator[Offence]:
        """Private members of the library's classes that a module reaches for without having the class."""
        own = {name for node in module.classes for name in members(node)}
        others = {name for found in self.by_name.values() for _, node in found for name in members(node)} - own - TORCHS
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr in others:
                yield module.offence("private", node.attr, node)
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "setattr", "hasattr", "delattr")
                and isinstance(node.args[1], ast.Constant)
                and node.args[1].value in others
            ):
                yield module.offence("private", node.args[1].value, node)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lowland"):
                for name in node.names:
                    if private(name.name):
                        yield module.offence("private", name.name, node)

    def circles(self) -> Iterator[Offence]:
        """Imports that lie on a circle: among the modules and packages of one package, its `__init__` included."""
        graph = grimp.build_graph("lowland", cache_dir=None)
        for package in sorted(name for name in graph.modules if graph.find_children(name)):
            arrows: Arrows = defaultdict(dict)
            below = graph.find_descendants(package) | {package}
            for importer in sorted(below):
                for imported in graph.find_modules_directly_imported_by(importer) & below:
                    ends = [self.sibling(package, end) for end in (importer, imported)]
                    if ends[0] != ends[1]:
                        arrows[ends[0]].setdefault(
                            ends[1], graph.get_import_details(importer=importer, imported=imported)[0]
                        )
            for start, further in arrows.items():
                for end, details in further.items():
                    if start in reachable(arrows, end):
                        room = package.split(".")[1] if "." in package else "ground"
                        yield Offence(
                            "circle", room, f"{start} -> {end}", f"{details['importer']}:{details['line_number']}"
                        )

    def sibling(self, package: str, module: str) -> str:
        depth = package.count(".") + 2
        return ".".join(module.split(".")[:depth]) if module != package else f"{package}.__init__"


def astray() -> Iterator[Offence]:
    """Folders of tests that mirror no room of the library."""
    for folder in sorted({path.parent for path in TESTS.rglob("test_*.py")}):
        name = str(folder.relative_to(TESTS))
        if name not in OF_NO_ROOM and not (SOURCE / "lowland" / name).is_dir():
            yield Offence("astray", name.partition("/")[0], name, f"tests/{name}")


def reachable(arrows: Arrows, start: str) -> set[str]:
    found, ahead = set(), [start]
    while ahead:
        here = ahead.pop()
        if here not in found:
            found.add(here)
            ahead += arrows.get(here, ())
    return found


def untyped(module: Module) -> list[ast.Name]:
    return [node for node in ast.walk(module.tree) if isinstance(node, ast.Name) and node.id == "Any"]


def table(house: House, found: list[Offence]) -> str:
    """How many of each kind in each room, and how many lines and `Any`."""
    counts = Counter((offence.room, offence.kind) for offence in found)
    rooms = sorted({module.room for module in house.modules})
    lines: Counter[str] = Counter()
    anything: Counter[str] = Counter()
    for module in house.modules:
        lines[module.room] += len(module.path.read_text().splitlines())
        anything[module.room] += len(untyped(module))
    rows: list[list] = [[room, *(counts[room, kind] for kind in KINDS), anything[room], lines[room]] for room in rooms]
    rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    return "\n".join("".join(f"{cell!s:>{11}}" for cell in row) for row in [["room", *KINDS, "Any", "lines"], *rows])


def main() -> int:
    """Print the numbers; `--list` prints what is over a limit, `--check` what isn't in `house.txt`.

    `--prune` strikes out what is mended.
    """
    house = House()
    found = sorted(set(house.offences()))
    present = Counter(offence.entry for offence in found)
    allowed: Counter[str] = Counter()
    for line in OFFENDERS.read_text().splitlines():
        count, entry = line.split(maxsplit=1)
        allowed[entry] = int(count)
    new = present - allowed
    if "--prune" in sys.argv:
        OFFENDERS.write_text("".join(f"{n} {entry}\n" for entry, n in sorted((allowed & present).items())))
    if "--list" in sys.argv:
        print(*(f"{offence.where}: {offence.kind} {offence.name}" for offence in found), sep="\n")
    elif "--check" not in sys.argv:
        print(table(house, found))
    else:
        print(*(f"{offence.where}: {offence.kind} {offence.name}" for offence in found if new[offence.entry]), sep="\n")
    for entry in new:
        print(f"{entry}: {present[entry]}, and {OFFENDERS.name} has {allowed[entry]}")
    if gone := (allowed - present).total():
        print(f"{OFFENDERS.name}: {gone} mended; `python tests/house.py --prune` strikes them out")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
