"""The registry of experiments: those of packages, by name, and those of files.

Each is pickled by the place that defines it, and found again there in another process.
"""

import copyreg
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

from lowland.errors import SettingError
from lowland.streams import one_line
from lowland.training.code import code_of_function
from lowland.training.experiment import Experiment
from lowland.training.user_file import (
    MAIN,
    UserFile,
    call_after,
    defined,
    execute,
    executed,
    is_of_file,
    running_script,
    shown,
    word_of,
)
from lowland.values import Foreign

GROUP = "lowland.experiments"  # of the entry points by which installed packages announce theirs

_LAMBDA = "<lambda>"
_known: dict[str, Experiment] = {}  # of modules, by name
_modules: dict[str, str] = {}  # name of an experiment → the module that defines it
_sources: list[Callable[[], Mapping[str, Experiment]]] = []


def add_source(source: Callable[[], Mapping[str, Experiment]]) -> None:
    """Let the registry ask ``source`` for experiments by name, which loads them."""
    _sources.append(source)


def load(module: str) -> dict[str, Experiment]:
    """Import a module and register its experiments: those that are variables of it, by name.

    Raises:
        SettingError: for one whose name another module's experiment has already.
    """
    made = import_module(module)
    _call_those_of(made)
    found = {value.name: value for value in vars(made).values() if isinstance(value, Experiment)}
    for name, experiment in found.items():
        _register(name, experiment, module)
    return found


def call(experiment: Experiment) -> None:
    """Give an experiment without a name that of the script, module or notebook where it is a variable, if it is one."""
    if not experiment.name:
        running_script()  # calls its own
    if experiment.name:
        return
    for module in list(sys.modules.values()):
        if any(value is experiment for value in list(getattr(module, "__dict__", {}).values())):
            _call_those_of(module)
            return


def call_by_file(build: Foreign) -> str:
    """A name for what a function builds: that of its file or module, in a notebook the function's own.

    A lambda has none of its own: it has that of its file, and in a notebook ``"tuned"``.
    """
    module = sys.modules.get(getattr(build, "__module__", ""), None)
    file = getattr(module, "__file__", None)
    own = getattr(build, "__name__", type(build).__name__)
    if file is not None and own in ("build", _LAMBDA):
        return word_of(Path(file).stem)
    return "tuned" if own == _LAMBDA else word_of(own)


def _call_those_of(module: ModuleType) -> None:
    """Call the experiments of a module after it, as those of a file are; of a notebook after their variables."""
    name = module.__name__
    call_after("" if name in MAIN else name.rpartition(".")[2], defined(module), module.__doc__)


def _register(name: str, experiment: Experiment, module: str) -> None:
    known, where = _known.get(name), _modules.get(name)
    if known is experiment and where != module:
        return  # it is imported there
    if where not in (None, module):
        raise SettingError(f"two experiments are called {name}, of {where} and of {module}: one needs another name")
    _known[name], _modules[name] = experiment, module


def experiments() -> tuple[dict[str, Experiment], list[str]]:
    """All experiments that have names here, in alphabetical order; and what could not be loaded, a line each."""
    announced, problems = _announced()
    return dict(sorted({**announced, **_of_sources()}.items())), problems


def find(asked: str) -> Experiment:
    """The experiment ``asked`` for: by a name, as ``FILE.py``, or as ``FILE.py:NAME`` where a file has several.

    Raises:
        SettingError: if there is none, with the nearest one; or for a file that can't be used.
    """
    found = None if asked.endswith(".py") else _of_sources().get(asked) or _known.get(asked)
    if found is not None:
        return found
    path, name = _parted(asked)
    if path is not None and (path.suffix == ".py" or path.is_file()):
        return execute(path).experiment(name)
    known, problems = experiments()
    if asked in known:
        return known[asked]
    if path is not None:
        return execute(path).experiment(name)  # raises the error
    also = f" ({'; '.join(problems)})" if problems else ""
    raise SettingError(f"unknown experiment {asked}.{_meant(asked, known)}{also}")


def _meant(asked: str, known: Mapping[str, Experiment]) -> str:
    """The nearest file or name: by the whole of it, or by its last part; else how to see all of them."""
    if Path(f"{asked}.py").is_file():
        return f" Did you mean {asked}.py?"
    near = get_close_matches(asked, known, n=1, cutoff=0.6)
    if not near:
        lasts = {name.rpartition("/")[2]: name for name in known}
        near = [lasts[last] for last in get_close_matches(asked.rpartition("/")[2], lasts, n=1, cutoff=0.6)]
    if near:
        return f" Did you mean {near[0]}?"
    return " `lowland list` prints those there are; the file of one's own ends in .py"


def address(experiment: Experiment) -> str:
    """What to write on a command line for this experiment: its name, or its file."""
    file = _file_of(experiment)
    if file is None:
        return experiment.name
    return shown(file.path) + (f":{experiment.name}" if len(file.experiments) > 1 else "")


def code(experiment: Experiment) -> dict[str, dict[str, str]]:
    """What a configuration says under ``code`` of an experiment from a file or a notebook; of others nothing."""
    file = _file_of(experiment)
    if file is not None:
        return {"code": dict(file.code)}
    if _origin(experiment) in MAIN and _module_with(experiment) is None:
        return {"code": code_of_function(_build(experiment))}
    return {}


def source(experiment: Experiment) -> dict[str, dict[str, str]]:
    """What a summary says of the same under ``source``: file → SHA-256, to the letter, comments and claims included."""
    file = _file_of(experiment)
    return {} if file is None else {"source": dict(file.source)}


def module_of(experiment: Experiment) -> str:
    """A module that has it as a variable, else the one that has what it was made from."""
    known = _known.get(experiment.name)
    same = known is not None and (known.prepare, known.together) == (experiment.prepare, experiment.together)
    return _module_with(experiment) or (_modules[experiment.name] if same else _origin(experiment))


def is_found_elsewhere(experiment: Experiment) -> bool:
    """Whether other processes can find it: not if it was made in a notebook, say."""
    try:
        place = _place(experiment)
    except SettingError:
        return False
    if isinstance(place, UserFile):
        return True
    values = list(getattr(sys.modules.get(place), "__dict__", {}).values())
    return any(isinstance(value, Experiment) and value.name == experiment.name for value in values)


def _parted(asked: str) -> tuple[Path | None, str]:
    """File and name; None for no file.

    What has an ending or a colon is a file, and what lies in a folder that is there: names have slashes, too.
    """
    head, mark, name = asked.partition(".py:")
    if mark:
        return Path(f"{head}.py"), name
    path = Path(asked)
    if path.suffix or path.is_absolute() or path.exists():
        head, mark, name = asked.rpartition(":")
        return (Path(head), name) if mark and Path(head).suffix else (path, "")
    head, mark, name = asked.rpartition(":")
    if mark and head:
        return Path(head), name
    folder = asked.rpartition("/")[0]
    return (path if folder and Path(folder).is_dir() else None), ""


def _of_sources() -> dict[str, Experiment]:
    return {name: experiment for source in _sources for name, experiment in source().items()}


@cache
def _announced() -> tuple[dict[str, Experiment], list[str]]:
    """What installed packages announce, by name; and what is wrong with some of them, a line each."""
    _of_sources()  # of two with one name, theirs is the one that is refused
    found: dict[str, Experiment] = {}
    problems = []
    for entry in metadata.entry_points(group=GROUP):
        try:
            value = entry.load()
            if isinstance(value, Experiment):
                _register(value.name, value, entry.module)
                found[value.name] = value
            elif isinstance(value, ModuleType):
                found |= load(value.__name__)
            else:
                raise TypeError(f"{entry.value} is neither a module nor an experiment")
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else entry.module
            problems.append(
                f"the experiments of {package} can't be loaded: {type(error).__name__}: {one_line(str(error))}"
            )
    return found, problems


# Pickling.


def _recall(name: str, module: str) -> Experiment:
    found = load(module)
    if name not in found:
        raise SettingError(f"{module} has no experiment {name}: make it a variable of that module")
    return found[name]


def _recall_from_file(path: str, name: str, code: Mapping[str, str]) -> Experiment:
    file = execute(Path(path))
    changed = sorted(part for part in {*code, *file.code} if code.get(part) != file.code.get(part))
    if changed:
        raise SettingError(
            f"{', '.join(changed)} changed while the runs of {shown(file.path)} were under way: restore it and run the "
            "same command, or choose another --out"
        )
    return file.experiment(name)


def _reduce(experiment: Experiment) -> tuple[Callable[..., Experiment], tuple[object, ...]]:
    """How an experiment is pickled: not by value, because its judges are closures."""
    place = _place(experiment)
    if isinstance(place, UserFile):
        return _recall_from_file, (str(place.path), experiment.name, dict(place.code))
    return _recall, (experiment.name, place)


def _place(experiment: Experiment) -> UserFile | str:
    """The file or the module that defines it; of a changed one, those of what it was made from.

    Raises:
        SettingError: if no other process can find it.
    """
    file = _file_of(experiment)
    if file is not None:
        return file
    module = module_of(experiment)
    if module in MAIN:
        raise SettingError(
            f"{experiment.name} is defined in a notebook or at a prompt, where other processes can't find it: put it "
            "into a file"
        )
    return module


def _file_of(experiment: Experiment) -> UserFile | None:
    files = executed()
    for file in files:
        if any(experiment is one for one in file.experiments.values()):
            return file
    if _module_with(experiment) is not None:
        return None
    script = running_script()  # one that runs its own experiment
    if script is not None and any(experiment is one for one in script.experiments.values()):
        return script
    origin = _origin(experiment)
    return next((file for file in files if file.module == origin), None)


def _module_with(experiment: Experiment) -> str | None:
    known = _modules.get(experiment.name)
    if known is not None and _known[experiment.name] is experiment:
        return known
    for name, module in list(sys.modules.items()):
        values = list(getattr(module, "__dict__", {}).values())
        if name not in MAIN and not is_of_file(name) and any(value is experiment for value in values):
            return name
    return None


def _origin(experiment: Experiment) -> str:
    return str(_build(experiment).__module__)


def _build(experiment: Experiment) -> Foreign:
    build = experiment.prepare or experiment.together
    return getattr(build, "build", build)


copyreg.pickle(Experiment, _reduce)
