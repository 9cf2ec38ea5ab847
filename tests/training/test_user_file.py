"""Experiments from files: how they are found, in other processes too, and what is said of files that are no good."""

import multiprocessing
import os
import pickle
import sys

import pytest

from lowland.errors import DataError, SettingError
from lowland.training import registry
from tests.forked import fork

from .own_file import TEXT, write

TWO = TEXT + "\nOTHER = Experiment(build=build, settings=defaults(lr=0.1, rho=0.1, steps=5, width=2))\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_one_is_found_by_its_file_and_called_after_it(here):
    write(here)
    found = registry.find("mine.py")
    assert (found.name, found.title) == ("mine", "Logistic regression on two clouds")
    assert registry.find("./mine.py:mine") is found is registry.find(str(here / "mine.py"))
    assert registry.address(found) == "mine.py"
    assert list(registry.code(found)["code"]) == ["mine.py"]


def test_several_are_called_after_file_and_variable_and_must_be_chosen_from(here):
    write(here, TWO)
    assert registry.find("mine.py:mine/other").arms == {"sam": {}, "sgd": {"rho": 0.0}}
    assert registry.address(registry.find("mine.py:mine/other")) == "mine.py:mine/other"
    with pytest.raises(SettingError, match=r"mine.py has 2 experiments: say which, mine.py:mine/mine or mine.py:mine/"):
        registry.find("mine.py")
    with pytest.raises(SettingError, match=r"mine.py has no experiment mine/othr. Did you mean mine/other\?"):
        registry.find("mine.py:mine/othr")


def test_what_a_file_imports_is_not_its_own(here):
    write(here, "from lowland.papers.long2024.digits import EXPERIMENT\n")
    with pytest.raises(SettingError, match=r"mine.py has no experiment of its own"):
        registry.find("mine.py")
    made = "from dataclasses import replace\nMINE = replace(EXPERIMENT, name='mine')\n"
    write(here, "from lowland.papers.long2024.digits import EXPERIMENT\n" + made)
    assert registry.find("mine.py").name == "mine"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import os\nimport nothing_of_this_name\n", "mine.py, line 2: ModuleNotFoundError: No module named 'nothing"),
        ("import os\nx = (1,\n", "mine.py, line 2: SyntaxError: '(' was never closed"),
        ("\n\nfrom lowland.training import Nothing\n", "mine.py, line 3: ImportError: cannot import name 'Nothing'"),
        ("import torch\ntorch.zeros(2) @ torch.zeros(3)\n", "mine.py, line 2: RuntimeError"),
        ("import sys\n\nsys.exit(3)\n", "mine.py, line 3: SystemExit: it ends the program; put that under if __name__"),
        ("from lowland.training import Experiment\n\nMINE = Experiment(build=print)\n", "line 3: ValueError: an exp"),
        ("from lowland.training import defaults\ndefaults(lr=1, rho=0)\n", "line 2: ValueError: settings need steps"),
        ("import beside\n", "beside.py, line 2: ZeroDivisionError: division by zero"),
        ("x = 1\n", "mine.py has no experiment of its own"),
        (TEXT + "\nA = Experiment(name='a', build=build, settings=MINE.settings)\n"
         "B = Experiment(name='a', build=build, settings=MINE.settings)\n",
         "mine.py has two experiments called a (A and B): give one of them another name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_the_users_own_line(here, text, says):
    (here / "beside.py").write_text("def f():\n    return 1 / 0\n\n\nf()\n")
    write(here, text)
    with pytest.raises(SettingError) as error:
        registry.find("mine.py")
    assert says in str(error.value)
    assert str(error.value).startswith(("mine.py", "beside.py"))


def test_a_missing_dataset_is_said_as_ever(here):
    write(here, "from lowland.errors import DataError\nraise DataError('it is not there')\n")
    with pytest.raises(DataError, match="it is not there"):
        registry.find("mine.py")


def test_files_that_are_none(here):
    with pytest.raises(SettingError, match=r"there is no file nowhere.py; `lowland new nowhere.py` writes one"):
        registry.find("nowhere.py")
    (here / "folder.py").mkdir()
    with pytest.raises(IsADirectoryError):
        registry.find("folder.py")
    write(here)
    (here / "notes.txt").write_text("")
    (here / "runs").mkdir()
    for asked, says in (
        ("mine", r"unknown experiment mine. Did you mean mine.py\?"),
        ("mine.p", r"there is no file mine.p. Did you mean mine.py\?"),
        ("mne.py", r"there is no file mne.py. Did you mean mine.py\?"),
        ("./mine", r"there is no file mine. Did you mean mine.py\?"),
        ("mine.p:mine", r"there is no file mine.p. Did you mean mine.py\?"),
        ("mine:mine", r"there is no file mine. Did you mean mine.py\?"),
        ("runs/far.p", r"there is no file runs/far.p; the file of an experiment ends in .py"),
        ("notes.txt", r"notes.txt is no file of an experiment: the name of one ends in .py"),
        ("long2024/digts", r"unknown experiment long2024/digts. Did you mean long2024/digits\?"),
        ("digts", r"unknown experiment digts. Did you mean long2024/digits\?"),
        ("nothing-like-it", r"unknown experiment nothing-like-it. `lowland list` prints those there are"),
    ):
        with pytest.raises(SettingError, match=says):
            registry.find(asked)


def test_a_changed_file_is_executed_anew_and_so_is_what_lies_beside(here):
    (here / "width.py").write_text("from inner.deep import WIDTH\n")
    (here / "inner").mkdir()
    (here / "inner" / "__init__.py").write_text("")
    (here / "inner" / "deep.py").write_text("WIDTH = 3\n")
    (here / "unused.py").write_text("")
    write(here, TEXT.replace("width=3", "width=WIDTH").replace("import torch\n", "import torch\nfrom width import *\n"))
    first = registry.find("mine.py")
    assert list(registry.code(first)["code"]) == ["inner/__init__.py", "inner/deep.py", "mine.py", "width.py"]
    assert registry.find("mine.py") is first
    (here / "unused.py").write_text("x = 1")
    assert registry.find("mine.py") is first
    (here / "inner" / "deep.py").write_text("WIDTH = 5\n")
    second = registry.find("mine.py")
    assert [one.values("paper")["width"].value for one in (first, second)] == [3, 5]
    assert registry.code(first) != registry.code(second)


def answer(content, cwd, end):
    os.chdir(cwd)
    try:
        experiment, arms = pickle.loads(content)
        assert {type(one) for one in arms.values()} == {experiment.settings}
        end.send(f"{experiment.name} {arms['sam']} {experiment.prepare.build.__code__.co_filename}")
    except SettingError as error:
        end.send(str(error))


def other_process(content, cwd):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = fork(answer, content, cwd, theirs)
    theirs.close()
    with ours:
        said = ours.recv()
    process.join()
    return said


@pytest.mark.slow
def test_another_process_finds_it_by_its_file_and_notices_that_it_changed(here, tmp_path_factory):
    path = write(here)
    experiment = registry.find("mine.py")
    content = pickle.dumps((experiment, experiment.configure("paper", {"width": "7"})))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    said = other_process(content, elsewhere)
    assert said.startswith("mine OwnSettings(")
    assert "width=7" in said
    assert said.strip().endswith(str(path))
    write(here, TEXT + "# a comment\n")
    assert other_process(content, elsewhere).startswith("mine OwnSettings(")
    write(here, TEXT.replace("Dropout(0.2)", "Dropout(0.1)"))
    assert "mine.py changed while the runs of" in other_process(content, elsewhere)


def test_one_made_at_a_prompt_is_found_by_no_other_process(here):
    write(here)
    experiment = registry.find("mine.py")
    scope = {"__name__": "__main__"}
    exec(TEXT, scope)
    lonely = scope["MINE"]
    assert registry.is_found_elsewhere(experiment)
    assert not registry.is_found_elsewhere(lonely)
    with pytest.raises(SettingError, match="put it into a file"):
        pickle.dumps(lonely)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package that announces something; what the registry learns of it is forgotten at the end."""
    monkeypatch.setattr(registry, "_known", dict(registry._known))
    monkeypatch.setattr(registry, "_modules", dict(registry._modules))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    registry._announced.cache_clear()

    def install(module, text, announces):
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lowland.experiments]\nany = {announces}\n")
        (tmp_path / f"{module}.py").write_text(text)

    yield install
    registry._announced.cache_clear()
    for name in [name for name in sys.modules if name.startswith("announced_")]:
        del sys.modules[name]


NAMED = TEXT.replace("MINE = Experiment(", "MINE = Experiment(name='theirs/clouds',")


def test_packages_announce_modules_or_experiments(package):
    package("announced_module", NAMED, "announced_module")
    package("announced_one", NAMED.replace("theirs/clouds", "theirs/one"), "announced_one:MINE")
    known, problems = registry.experiments()
    assert {"theirs/clouds", "theirs/one"} <= set(known)
    assert not problems
    for name in ("theirs/clouds", "theirs/one"):
        found = registry.find(name)
        assert registry.code(found) == {}
        assert registry.address(found) == name
        assert pickle.loads(pickle.dumps(found)) is found


def test_a_package_that_fails_harms_nobody_else(package):
    from lowland import papers  # noqa: F401

    package("announced_broken", "import nothing_of_this_name\n", "announced_broken")
    package("announced_number", "x = 1\n", "announced_number:x")
    package("announced_taken", NAMED.replace("theirs/clouds", "long2024/digits"), "announced_taken")
    known, problems = registry.experiments()
    assert known["long2024/digits"].paper
    assert len(problems) == 3
    assert any("experiments of announced_broken can't be loaded: ModuleNotFoundError" in line for line in problems)
    assert any("announced_number:x is neither a module nor an experiment" in line for line in problems)
    assert any("two experiments are called long2024/digits" in line for line in problems)
    with pytest.raises(SettingError, match=r"unknown experiment theirs/x.*announced_broken"):
        registry.find("theirs/x")
