"""A file that defines experiments, executed as a module of its own; what is wrong with it is said in one line."""

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from lowland.errors import LowlandError, SettingError, suggestion
from lowland.training.code import code_of, hashed, sources_of
from lowland.training.experiment import Experiment
from lowland.training.files import read_bytes
from lowland.training.theirs import is_users

_PREFIX = "lowland_file_"  # of the modules that files are executed as
_SENTENCE_END = re.compile(r"[.:](?:\s|$)")
MAIN = ("__main__", "__mp_main__")  # two names of what Python was started with


@dataclass(frozen=True)
class UserFile:
    """A file that was executed.

    Attributes:
        path: absolute.
        module: the name of its module in this process.
        source: file → SHA-256, of the file and those beside it that it imports, to the letter.
        code: the same of what can change a record, as `lowland.training.code.code_of` says it.
        experiments: those that it defines, by name; what it imports from elsewhere is not among them.
    """

    path: Path
    module: str
    source: Mapping[str, str]
    code: Mapping[str, str]
    experiments: Mapping[str, Experiment]

    def experiment(self, name: str = "") -> Experiment:
        """The experiment of that name; without a name, the only one.

        Raises:
            SettingError: if there is none, or several to choose from.
        """
        if not name and len(self.experiments) > 1:
            choices = " or ".join(f"{shown(self.path)}:{one}" for one in self.experiments)
            raise SettingError(f"{shown(self.path)} has {len(self.experiments)} experiments: say which, {choices}")
        if name and name not in self.experiments:
            raise SettingError(f"{shown(self.path)} has no experiment {name}.{suggestion(name, self.experiments)}")
        return self.experiments[name or next(iter(self.experiments))]


_executed: list[UserFile] = []


_under_way: list[Path] = []


def refuse_inside_a_file() -> None:
    """SettingError while a file is being executed for its experiments: what that starts would be started again."""
    if _under_way:
        raise SettingError(
            f"{shown(_under_way[-1])} starts something when it is only looked at: put that under "
            "if __name__ == '__main__'"
        )


def executed() -> list[UserFile]:
    """The files that this process has executed, as they were then; the last one first."""
    return _executed[::-1]


def execute(path: Path) -> UserFile:
    """Execute a file, unless it is what was executed before. As with ``python FILE``, it can import what lies beside.

    Raises:
        SettingError: for a file that isn't there, fails, has no experiment or two of one name; the file and its line
            are named.
        LowlandError: that the file raises itself, for a missing dataset say.
        OSError: if it can't be read.
    """
    path = path.resolve()
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        raise SettingError(_missing(path)) from None
    if path.suffix != ".py":
        raise SettingError(f"{shown(path)} is no file of an experiment: the name of one ends in .py")
    sources = sources_of(path, content)
    source = hashed(sources)
    known = next((file for file in executed() if file.path == path), None)
    if known is not None:
        if known.source == source:
            return known
        _forget(path.parent, [*known.source, *source])
    module = _module(path, content)
    experiments = _named(path, defined(module), module.__doc__)
    _executed.append(UserFile(path, module.__name__, source, code_of(sources, path.name), experiments))
    return _executed[-1]


def _missing(path: Path) -> str:
    """That there is no such file, and what may be meant."""
    beside = [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, n=1)
    if near:
        return f"there is no file {shown(path)}. Did you mean {shown(path.with_name(near[0]))}?"
    if path.suffix == ".py":
        return f"there is no file {shown(path)}; `lowland new {shown(path)}` writes one"
    return f"there is no file {shown(path)}; the file of an experiment ends in .py"


def running_script() -> UserFile | None:
    """The file that Python was started with, if that defines experiments; it isn't executed again."""
    main = sys.modules["__main__"]
    path = Path(getattr(main, "__file__", None) or "")
    found = defined(main)
    if not found or not path.is_file():
        return None
    path = path.resolve()
    sources = sources_of(path, read_bytes(path))
    return UserFile(
        path, main.__name__, hashed(sources), code_of(sources, path.name), _named(path, found, main.__doc__)
    )


def shown(path: Path) -> str:
    """``path`` as a person would write it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def is_of_file(module: str) -> bool:
    """Whether a module of that name is an executed file."""
    return module.startswith(_PREFIX)


def _forget(folder: Path, files: list[str]) -> None:
    """Modules that come from ``files`` under ``folder`` are imported anew."""
    changed = {str(folder / file) for file in files}
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) in changed and name not in MAIN:
            del sys.modules[name]


def _module(path: Path, content: bytes) -> ModuleType:
    # Not by an import: that may take cached bytecode of an earlier content.
    module = ModuleType(f"{_PREFIX}{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}")
    module.__file__ = str(path)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[module.__name__] = module  # where dataclasses look for it
    _under_way.append(path)
    # Cached bytecode goes by size and second, and what a file imports may change within one.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        del sys.modules[module.__name__]
        if isinstance(error, LowlandError) or not isinstance(error, Exception | SystemExit):
            raise
        raise SettingError(_wrong(path, error)) from error
    finally:
        sys.dont_write_bytecode = writes
        _under_way.pop()
    return module


def _wrong(path: Path, error: BaseException) -> str:
    """What is wrong, with the deepest line of the user's own files."""
    if isinstance(error, SyntaxError) and error.filename:
        file, line = Path(error.filename), error.lineno
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename, path)]
        file, line = (Path(frames[-1].filename), frames[-1].lineno) if frames else (path, None)
    where = shown(file) + (f", line {line}" if line is not None else "")
    what = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    if isinstance(error, SystemExit):
        what = "it ends the program; put that under if __name__ == '__main__'"
    return f"{where}: {type(error).__name__}: {what}" if what else f"{where}: {type(error).__name__}"


def _is_one(value: object) -> bool:
    return issubclass(type(value), Experiment)  # isinstance would ask objects that warn when they are asked


def defined(module: ModuleType) -> dict[str, Experiment]:
    """The experiments of a module by variable, each once, but those that another module has, too."""
    found: dict[int, tuple[str, Experiment]] = {}
    for variable, value in vars(module).items():
        if _is_one(value):
            found.setdefault(id(value), (variable, value))
    for name, other in list(sys.modules.items()) if found else ():
        if name not in (module.__name__, *MAIN):  # by id: other modules have hundreds of thousands of values
            for elsewhere in found.keys() & map(id, list(getattr(other, "__dict__", {}).values())):
                del found[elsewhere]
    return dict(found.values())


def word_of(name: str) -> str:
    """``name`` without the letters that the name of an experiment can't have."""
    return re.sub(r"[^\w.+-]+", "-", name)


def call_after(stem: str, found: Mapping[str, Experiment], said: str | None) -> None:
    """Give those of ``found``, by variable, names that have none: the file's, and the variable's if there are several.

    One that is alone and has no title gets the first sentence of what its file says of itself.

    Args:
        stem: of the file, or the last part of the module's name; empty for the variables' names alone.
        found: the experiments by variable.
        said: the docstring of the file or module.
    """
    title = _SENTENCE_END.split(" ".join((said or "").split()), maxsplit=1)[0] if len(found) == 1 else ""
    word = word_of(stem)
    for variable, experiment in found.items():
        parts = [word] if word and len(found) == 1 else [word, variable.lower()]
        experiment.call("/".join(filter(None, parts)), title)


def _named(path: Path, found: Mapping[str, Experiment], said: str | None) -> dict[str, Experiment]:
    """The experiments by name."""
    if not found:
        raise SettingError(
            f"{shown(path)} has no experiment of its own: one is a variable that holds a lowland.training.Experiment; "
            "`lowland new FILE.py` writes a file that has one"
        )
    call_after(path.stem, found, said)
    named: dict[str, Experiment] = {}
    variables: dict[str, str] = {}
    for variable, experiment in found.items():
        if experiment.name in named:
            raise SettingError(
                f"{shown(path)} has two experiments called {experiment.name} ({variables[experiment.name]} and "
                f"{variable}): give one of them another name"
            )
        named[experiment.name], variables[experiment.name] = experiment, variable
    return named
