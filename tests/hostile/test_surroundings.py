"""Strange surroundings: no home, no cache, no memory, few file handles, variables that say nonsense."""

import os
import resource

import pytest

from tests.processes import end, start

from .children import Ended, become_unknown, call, whole
from .victims import COMMANDS, ends_alike

SMALL = ("run", "springer2024/toy", "--scale", "smoke", "--out", "out")
LIST = ("list", "--json")


def started(*arguments, before=None, closed=(), prelude="", **options):
    """A process of its own, from Python's start on, with some descriptors closed; a ``prelude`` is Python run first."""

    def prepare():
        for descriptor in closed:
            os.close(descriptor)
        if before is not None:
            before()

    ended = end(start(*arguments, setup=prelude, preexec_fn=prepare, **options))
    return Ended(ended.code, ended.out, ended.err)


HOMES = {
    "no home": {"HOME": None, "XDG_CACHE_HOME": None, "MPLCONFIGDIR": None, "LOWLAND_DATA": None},
    "a home that isn't there": {"HOME": "/nonexistent", "XDG_CACHE_HOME": None, "MPLCONFIGDIR": None},
    "no writable cache": {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/x", "MPLCONFIGDIR": "/proc/y"},
    "LANG=C": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII output": {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "no PATH": {"PATH": None},
    "COLUMNS=0": {"COLUMNS": "0"},
    "COLUMNS=1": {"COLUMNS": "1", "LINES": "x"},
    "TERM": {"TERM": "nonsense", "FORCE_COLOR": "1"},
    "OMP_NUM_THREADS": {"OMP_NUM_THREADS": "many"},
    "data root of nobody": {"LOWLAND_DATA": "~nobody-of-that-name/data"},
    "data root in a file": {"LOWLAND_DATA": "/dev/null/data"},
    "empty data root": {"LOWLAND_DATA": ""},
    "SOURCE_DATE_EPOCH": {"SOURCE_DATE_EPOCH": "never"},
    "no temporary folder": {"TMPDIR": "/nonexistent"},
}  # fmt: skip


@pytest.mark.parametrize(("name", "deep"), [("no home", False), *whole(*((name, True) for name in HOMES))])
def test_surroundings(name, deep, tmp_path, count):
    for command in (SMALL, ("data", "status"), ("show", "long2024/digits"))[: 3 if deep else 1]:
        count("surroundings")
        ended = started(*command, cwd=tmp_path, environment=HOMES[name])
        assert ended.is_clear() or ended.code == 0, ended
        if command is SMALL:
            assert ended.code == 0 or name == "SOURCE_DATE_EPOCH", ended
        if command[0] == "data" and name != "SOURCE_DATE_EPOCH":
            assert ended.code == (2 if name in ("data root of nobody",) else 0), ended


@pytest.mark.hostile
def test_an_unknown_user_without_a_home(tmp_path, count):
    if os.geteuid():
        pytest.skip("only root may be somebody else")
    count("surroundings")
    tmp_path.chmod(0o777)
    for path in tmp_path.parents[:3]:
        path.chmod(0o777)
    environment = {"HOME": None, "USER": None, "LOGNAME": None, "LOWLAND_DATA": None, "XDG_CACHE_HOME": None}
    for command in (SMALL, ("data", "status")):
        ended = started(*command, cwd=tmp_path, environment=environment, before=become_unknown)
        assert ended.code == 0 or ended.is_clear(), ended
        assert ended.code == 0 or command is not SMALL, ended


WORLDS = [
    {"WORLD_SIZE": ""},
    {"WORLD_SIZE": "", "RANK": "", "MASTER_ADDR": "", "MASTER_PORT": ""},
    {"WORLD_SIZE": "many"},
    {"WORLD_SIZE": "many", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
    {"WORLD_SIZE": "2", "RANK": "first", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
    {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "any"},
    {"WORLD_SIZE": "2", "RANK": "7", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"},
    {"WORLD_SIZE": "-1", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
    {"WORLD_SIZE": "1e3"},
    {"RANK": "0"},
]


@pytest.mark.parametrize("world", [WORLDS[0], WORLDS[3], *whole(*WORLDS)], ids=str)
@pytest.mark.parametrize("kind", ["run", *whole("vectorized")])
def test_variables_of_a_launcher(kind, world, tmp_path, count):
    count("surroundings")
    none = dict.fromkeys(("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"))
    ended = call(
        *COMMANDS[kind], "--set", "steps=2", "--out", "out",
        cwd=tmp_path, setup=[("undrawn",)], environment={**none, **world},
    )  # fmt: skip
    assert ended.is_clear(), ended
    # Of variables that aren't all there, as other tools leave them, nothing is thought.
    assert ended.code == (2 if all(world.get(name) for name in none if name != "LOCAL_RANK") else 0), ended


@pytest.mark.parametrize("closed", whole((0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)), ids=str)
def test_closed_streams(closed, tmp_path, count):
    """Files that are opened take the place of what is closed, and what is printed must not go there."""
    count("surroundings")
    grid = tmp_path / "grid.json"
    grid.write_text('{"rho": [0, 0.1]}')
    sweep = ("sweep", "long2024/digits", "--scale", "smoke", "--set", "steps=2", "--grid", grid, "--engine", "process",
             "--out", "sweep")  # fmt: skip
    for command in (sweep, LIST):
        ended = started(*command, cwd=tmp_path, closed=closed)
        assert ended.code == 0, ended
        assert "Traceback" not in ended.err
    assert "Sharpness" not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.json"))


def _vsize():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@pytest.mark.parametrize("megabytes", [100, *whole(1, 5, 20, 50, 200, 400, 800)])
@pytest.mark.parametrize("kind", ["run", *whole("vectorized", "process")])
def test_little_memory(kind, megabytes, undisturbed, tmp_path, count):
    """So much more than what the program itself takes."""
    expected, _ = undisturbed(kind)
    count("surroundings")
    ended = call(*COMMANDS[kind], "--out", "out", cwd=tmp_path, setup=[("spare_memory", megabytes << 20)])
    assert ended.code in (0, 2), ended
    assert "Traceback" not in ended.err
    assert ended.is_clear(), ended
    assert "damaged" not in ended.err
    ends_alike(kind, tmp_path, expected)


@pytest.mark.parametrize("gigabytes", whole(1, 2, 3, 4, 6, 10))
def test_a_small_address_space_from_the_start(gigabytes, tmp_path, count):
    count("surroundings")
    limit = gigabytes << 30
    ended = started(*SMALL, cwd=tmp_path, before=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert ended.is_clear() or ended.code == 0, ended


@pytest.mark.parametrize("handles", [12, *whole(*range(3, 12), 14, 16, 20, 24, 32, 64)])
@pytest.mark.parametrize("kind", ["run", *whole("vectorized", "process")])
def test_few_file_handles(kind, handles, undisturbed, tmp_path, count):
    expected, _ = undisturbed(kind)
    count("surroundings")
    ended = call(*COMMANDS[kind], "--out", "out", cwd=tmp_path, setup=[("limit", "RLIMIT_NOFILE", handles)])
    assert ended.is_clear(), ended
    assert "damaged" not in ended.err
    ends_alike(kind, tmp_path, expected)


@pytest.mark.hostile
def test_a_working_folder_that_is_gone(tmp_path, count):
    count("surroundings")
    here = tmp_path / "here"
    here.mkdir()
    for command in (("list",), (*COMMANDS["run"][:1], "long2024/digits", "--scale", "smoke")):
        ended = started(*command, cwd=here, before=lambda: os.rmdir(here) if here.exists() else None)
        assert ended.is_clear() or ended.code == 0, ended
        here.mkdir(exist_ok=True)
