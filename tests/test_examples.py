"""Every file in examples/ runs as its docstring says, and trains."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from .cases import together
from .processes import end, torchrun

EXAMPLES = Path(__file__).parent.parent / "examples"
COMPILERS = ("c++", "g++", "clang++")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("error:step\\(\\) without passes:UserWarning"),
    pytest.mark.filterwarnings("error:Detected call of:UserWarning"),  # a schedule ahead of its optimizer
]


def runs():
    """(launcher, file) of each example, and (launcher, file, option) where its docstring names one."""
    for path in sorted(EXAMPLES.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name == "common.py":
            continue
        how = re.match(r'""".+\n\nRun it: (python|torchrun .+?) examples/(\S+)(?: \[(\S+)\])?\n"""\n', text)
        assert how, f"{path.name}: the docstring must say in one line what it shows, in another how to run it"
        launcher, name, option = how.groups()
        assert name == path.name
        yield launcher, name
        if option:
            yield launcher, name, option


def run_here(path, options):
    """As Python runs a script."""
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path), *options]
    sys.modules.pop("common", None)
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.modules.pop("common", None)
    sys.stdout.flush()


@pytest.mark.parametrize("run", [pytest.param(run, id=" ".join(run[1:])) for run in runs()])
def test_runs_and_trains(run, monkeypatch, capfd, tmp_path):
    launcher, name, *options = run
    path = EXAMPLES / name
    for package in ("accelerate", "transformers"):
        if f"from {package} import" in path.read_text(encoding="utf-8"):
            pytest.importorskip(package, reason=f"{package} is not installed")
    if "torch.compile(" in path.read_text(encoding="utf-8") and not any(map(shutil.which, COMPILERS)):
        pytest.skip(f"torch.compile needs a C++ compiler, one of {', '.join(COMPILERS)}")
    if "from lightning" in path.read_text(encoding="utf-8"):
        pytest.importorskip("lightning", reason="Lightning is not installed: pip install '.[lightning]'")
    if launcher == "python":  # in this process, to save the imports
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "argv", sys.argv)
        run_here(path, options)
        out = capfd.readouterr().out
    elif name == "ddp.py":
        ended = end(torchrun(path, *options, environment={"CUDA_VISIBLE_DEVICES": ""}))
        assert ended.code == 0, ended.err
        out = ended.out
    else:  # with what torchrun would tell them
        codes = together(run_here, 2, tmp_path, path, options)
        assert codes == [0, 0], (tmp_path / "0.err").read_text() + (tmp_path / "1.err").read_text()
        out = (tmp_path / "1.out").read_text() + (tmp_path / "0.out").read_text()  # the first one says the last word
    reports = re.findall(r"^(before|after).*: training loss (\S+), test accuracy (\S+)$", out, re.MULTILINE)
    assert reports[0][0] == "before"
    assert reports[-1][0] == "after"
    assert out.rstrip().splitlines()[-1].startswith("after"), out
    for when, loss, accuracy in reports:
        if when == "after":
            assert float(loss) < 0.6, out
            assert float(accuracy) > 0.88, out
    assert "False" not in out, out
    assert "DIFFERENT" not in out, out


def test_the_table_names_every_example():
    named = re.findall(r"^\| \[(\S+\.py)\]\((\S+)\) \|", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.M)
    assert all(label == target for label, target in named)
    assert sorted(label for label, _ in named) == [run[1] for run in runs() if len(run) == 2]
