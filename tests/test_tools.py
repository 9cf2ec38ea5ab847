"""How the environment is made, and how a wheel is tried."""

import contextlib
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
    assert environment.take(tmp_path / "venv").partition("+")[0] == torch.__version__.partition("+")[0]
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


@pytest.fixture
def pip(environment, tmp_path, monkeypatch):
    """An environment whose Python prints as pip does, and puts down the arguments that it is given."""
    there = tmp_path / "venv"
    (there / "bin").mkdir(parents=True)
    (there / "packages").mkdir()
    (there / "packages/pip-24.2.dist-info").mkdir()
    monkeypatch.setattr(environment, "_packages", lambda there: there / "packages")
    python = there / "bin/python"
    python.write_text(
        f"""#!/bin/sh
echo "$@" > {there}/arguments
echo "Collecting torch>=2.11"
echo "  Downloading https://there/torch-2.13.0.whl (900 MB)"
echo "Progress 300 of 900"
echo "Installing collected packages: numpy, torch"
sleep 1
mkdir {there}/packages/numpy-2.0.dist-info
sleep 1
exit $(cat {there}/ends)
"""
    )
    python.chmod(0o755)
    (there / "ends").write_text("0")
    return there


def test_an_installation_says_how_far_it_is(environment, pip, monkeypatch):
    said = []

    class Doing:
        def __setattr__(self, _, what):
            said.append(what)

    monkeypatch.setattr(environment, "doing", lambda *_, **__: contextlib.nullcontext(Doing()))
    assert environment.install(pip, ".", ROOT / "constraints.txt") == 0
    assert list(dict.fromkeys(said)) == [
        "collecting torch>=2.11", "downloading torch-2.13.0.whl (900 MB)", "downloading torch-2.13.0.whl (900 MB), 33%",
        "installing numpy, 1 of 2 packages", "installing torch, 2 of 2 packages",
    ]  # fmt: skip
    assert "--no-compile --progress-bar raw" in (pip / "arguments").read_text()
    (pip / "ends").write_text("7")
    assert environment.install(pip, ".", ROOT / "constraints.txt") == 7


def test_without_torch_it_says_what_is_downloaded(environment, pip, monkeypatch, capsys):
    monkeypatch.setattr(environment, "take", lambda there: None)
    monkeypatch.setattr(environment.venv, "create", lambda *_, **__: None)
    monkeypatch.setattr("sys.argv", ["environment.py", str(pip)])
    with pytest.raises(SystemExit, match="0"):
        environment.main()
    assert "2.8 GB" in capsys.readouterr().out
    # The package alone.
    assert (pip / "arguments").read_text().endswith(f"--constraint {ROOT / 'constraints.txt'} --editable .\n")


def test_a_taken_torch_is_kept_whatever_the_constraints_say(environment, pip, monkeypatch):
    environment.TAKEN.mkdir()
    monkeypatch.setattr("sys.argv", ["environment.py", str(pip), "dev"])
    with pytest.raises(SystemExit, match="0"):
        environment.main()
    assert (pip / "arguments").read_text().endswith(f"--constraint {pip}/constraints.txt --editable .[dev]\n")
    lines = (pip / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith("torch==")]
    assert [line for line in lines if line.startswith("scipy==")]


def test_the_makefile_installs_the_package_alone_for_the_demo():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ndemo: $(READY)" in text
    assert "tools/environment.py $(VENV)\n" in text
