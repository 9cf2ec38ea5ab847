"""Experiments from Python: run, swept, opened, as data and as tables."""

import json
import subprocess
import sys

import pytest

import lowland
from lowland import experiments, report
from lowland.data import Shuffled
from lowland.errors import RunError, SettingError
from lowland.training import read_records, registry

from ..training.own_file import TEXT, write

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(tmp_path)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch):
    """Figures are drawn quickly: as an empty picture."""

    def draw(directory, *_):
        directory.mkdir(exist_ok=True)
        for name in ("second", "first"):
            (directory / f"{name}.png").write_bytes(b"png of " + name.encode())
        return []

    monkeypatch.setattr(report, "draw_run", draw)
    monkeypatch.setattr(report, "draw_sweep", draw)


def test_a_run_is_that_of_the_command_line(drawn, lowland, here):
    result = experiments.run("mine.py", epochs=2, out="python", **{"sam.rho": 0.2})
    assert lowland("run", "mine.py", "--set", "epochs=2", "--set", "sam.rho=0.2", "--out", "shell").code == 0
    assert read_records(here / "python") == read_records(here / "shell")
    assert result.records == [record for arm in read_records(here / "shell").values() for record in arm]
    assert result.finished
    assert not result.is_sweep
    assert result.settings["sam"]["rho"] == 0.2
    assert result.config["arms"] == result.settings
    assert result.claims == []
    assert repr(result) == "<python: a run of mine at laptop scale>"
    assert list(result.figures) == ["second", "first"]
    assert result.figures["first"]._repr_png_() == b"png of first"
    again = experiments.run("mine.py", epochs=2, out="python", **{"sam.rho": 0.2})
    assert again.summary == result.summary == json.loads((here / "python/summary.json").read_text())


def test_the_default_directory_is_that_of_the_command_line(drawn, lowland, here):
    assert experiments.run(here / "mine.py", epochs=1, rho=0.2).path.as_posix() == "runs/mine/laptop-epochs=1-rho=0.2"
    assert "is finished" in lowland("run", "mine.py", "--set", "rho=0.2", "--set", "epochs=1").out


def test_an_experiment_may_be_given_itself_but_must_have_a_name(drawn, here):
    mine = registry.find("mine.py")
    assert experiments.run(mine, epochs=1).path.as_posix() == "runs/mine/laptop-epochs=1"
    (here / "imported.py").write_text(TEXT)
    import imported

    assert experiments.run(imported.MINE, scale="smoke").path.as_posix() == "runs/imported/smoke"
    scope = {"__name__": "elsewhere"}
    exec(TEXT, scope)
    with pytest.raises(SettingError, match="the experiment has no name"):
        experiments.run(scope["MINE"])


def test_what_can_not_be_run_is_an_error(here):
    for call, says in (
        (lambda: experiments.run("mine.py", epoch=1), r"unknown setting epoch. Did you mean epochs\?"),
        (lambda: experiments.run("mine.py", scale="huge"), "unknown scale"),
        (lambda: experiments.run("long2024/digit"), r"Did you mean long2024/digits\?"),
        (lambda: experiments.run("mine.py", log="paper"), "unknown log paper"),
        (lambda: experiments.sweep("mine.py", grid={"rh": [1]}), r"unknown setting rh. Did you mean rho\?"),
        (lambda: experiments.sweep("mine.py", grid={"rho": [1]}, rho=2), "rho is given by the grid and by"),
        (lambda: experiments.sweep("mine.py", engine="stacked"), "unknown engine"),
    ):
        with pytest.raises(SettingError, match=says):
            call()
    with pytest.raises(RunError, match="holds no run or sweep"):
        experiments.open(here)
    assert not (here / "runs").exists()


def test_a_run_under_way_can_be_opened(drawn, here, monkeypatch):
    real, drawn_batches = Shuffled.__call__, []

    def draw(batches, step):
        drawn_batches.append(step)
        if len(drawn_batches) > 30:
            raise KeyboardInterrupt
        return real(batches, step)

    monkeypatch.setattr(Shuffled, "__call__", draw)
    with pytest.raises(KeyboardInterrupt):
        experiments.run("mine.py", out="part")
    opened = experiments.open("part")
    assert not opened.finished
    assert {record["arm"] for record in opened.records} == {"sam", "sgd"}
    assert repr(opened) == "<part: a run of mine at laptop scale, under way>"
    assert "under way" in opened._repr_html_()
    with pytest.raises(RunError, match="part isn't finished"):
        _ = opened.summary


GRID = {"rho": [0, 0.1], "seed": range(2)}


@pytest.mark.slow
def test_a_sweep(drawn, lowland, here):
    lonely = {"__name__": "__main__"}
    exec(TEXT.replace("MINE = Experiment(", "MINE = Experiment(name='lonely',"), lonely)
    swept = experiments.sweep("mine.py", grid=GRID, epochs=1, out="sweep", workers=1, engine="process")
    here_alone = experiments.sweep(lonely["MINE"], grid=GRID, epochs=1, out="alone")  # dropout: not vectorized
    (here / "grid.json").write_text(json.dumps({"rho": [0, 0.1], "seed": [0, 1]}))
    command = ("sweep", "mine.py", "--grid", "grid.json", "--set", "epochs=1", "--out", "sweep")
    assert "is finished" in lowland(*command).out
    assert swept.is_sweep
    assert list(swept.settings) == ["rho=0,seed=0", "rho=0,seed=1", "rho=0.1,seed=0", "rho=0.1,seed=1"]
    assert [(one["rho"], one["epochs"]) for one in swept.settings.values()] == [(0, 1), (0, 1), (0.1, 1), (0.1, 1)]
    assert [record["arm"] for record in swept.records] == [label for label in swept.settings for _ in range(2)]
    last = {record["arm"]: record["train_loss"] for record in swept.records}
    assert {record["arm"]: record["train_loss"] for record in here_alone.records} == last
    grown = experiments.sweep("mine.py", grid=[GRID, {"rho": 0.2, "seed": 0}], epochs=1, out="sweep", engine="process")
    assert grown.summary["totals"]["runs"] == 5
    (here / "sweep/summary.json").unlink()
    assert set(experiments.open("sweep").settings) == set(grown.settings)
    assert len(experiments.open("sweep").records) == len(grown.records) == 10


@pytest.mark.slow
def test_runs_that_fail_come_with_a_warning(drawn, here):
    write(
        here,
        TEXT.replace("def build(settings):", "def build(settings):\n    if settings.rho: raise OSError('no disk')"),
    )
    with pytest.warns(UserWarning, match=r"1 of 2 runs failed: .*no disk"):
        experiments.sweep("mine.py", epochs=1, out="sweep", workers=1, engine="process")


def test_frames(drawn, monkeypatch):
    pandas = pytest.importorskip("pandas")
    result = experiments.run("mine.py", epochs=2, out="out")
    frame = result.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns[:4]) == ["arm", "rho", "step", "epoch"]
    assert frame.groupby("rho").size().to_dict() == {0.0: 3, 0.05: 3}
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SettingError, match=r"frame\(\) needs pandas: pip install pandas"):
        result.frame()


def test_a_notebook_shows_claims_results_and_figures(drawn):
    result = experiments.run("mine.py", epochs=1, out="<out>")
    html = result._repr_html_()
    assert "&lt;out&gt;: a run of mine" in html
    assert html.count("<img src=") == 2
    assert 'alt="first"' in html
    assert "<td" in html
    assert "http" not in html


def test_a_file_that_starts_something_when_it_is_looked_at_is_refused(here):
    write(here, TEXT + "\nimport lowland\nlowland.experiments.run(MINE)\n")
    with pytest.raises(SettingError, match=r"put that under if __name__ == '__main__'"):
        experiments.run("mine.py")


@pytest.mark.slow
def test_a_script_can_run_and_sweep_its_own_experiment(here):
    more = (
        "\nif __name__ == '__main__':\n    import lowland\n"
        "    print(lowland.experiments.run(MINE, epochs=1))\n"
        "    print(lowland.experiments.sweep(MINE, epochs=1, engine='process').summary['totals'])\n"
    )
    write(here, TEXT + more)
    ended = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, cwd=here)
    assert ended.returncode == 0, ended.stderr
    assert "a run of mine at laptop scale" in ended.stdout
    assert "'done': 2" in ended.stdout
    assert set(experiments.open(here / "runs/mine/laptop-epochs=1").config["code"]) == {"mine.py"}
    assert experiments.run("mine.py", epochs=1).finished  # the same code, the same run


def test_the_library_does_not_load_them():
    code = "import sys, lowland; assert 'lowland.experiments' not in sys.modules; lowland.experiments.run; lowland.SAM"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert lowland.experiments is experiments
