"""How the environment is made, and how a wheel is tried."""

import importlib.util
import subprocess
import venv
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture
def environment(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("environment", ROOT / "tools" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TAKEN", tmp_path / "taken")
    return module


def test_a_torch_that_is_there_is_taken_by_link(environment, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    assert environment.take(tmp_path / "venv") == torch.__version__
    assert (tmp_path / "taken" / "torch").is_symlink()
    found = "import importlib.util as u; print(u.find_spec('torch').origin, u.find_spec('pytest'))"
    said = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-E", "-c", found], capture_output=True, text=True, check=True
    )
    where, other = said.stdout.split()
    assert Path(where).resolve() == Path(torch.__file__).resolve()
    assert other == "None"  # nothing else of this Python comes along


def test_a_torch_that_is_too_old_is_not_taken(environment, tmp_path, monkeypatch):
    venv.create(tmp_path / "venv", with_pip=False)
    monkeypatch.setattr(environment, "least", lambda: (99,))
    assert environment.take(tmp_path / "venv") is None
    assert not (tmp_path / "taken").exists()


def test_without_torch_it_says_what_is_downloaded(environment, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(environment, "take", lambda there: None)
    monkeypatch.setattr(environment.venv, "create", lambda *_, **__: None)
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(environment.subprocess, "run", lambda command, **_: calls.append(command) or done)
    monkeypatch.setattr("sys.argv", ["environment.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="0"):
        environment.main()
    assert "2.8 GB" in capsys.readouterr().out
    assert calls[0][-1] == "."  # the package alone
    assert calls[0][-3] == ROOT / "constraints.txt"


def test_a_taken_torch_is_kept_whatever_the_constraints_say(environment, tmp_path, monkeypatch):
    calls = []
    environment.TAKEN.mkdir()
    monkeypatch.setattr(
        environment.subprocess, "run", lambda command, **_: calls.append(command) or subprocess.CompletedProcess([], 0)
    )
    monkeypatch.setattr("sys.argv", ["environment.py", str(tmp_path), "dev"])
    with pytest.raises(SystemExit, match="0"):
        environment.main()
    assert calls[0][-1] == ".[dev]"
    lines = Path(calls[0][-3]).read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith("torch==")]
    assert [line for line in lines if line.startswith("scipy==")]


def test_the_makefile_installs_the_package_alone_for_the_demo():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ndemo: $(READY)" in text
    assert "tools/environment.py $(VENV)\n" in text
