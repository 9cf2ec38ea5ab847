"""The command line by several processes: it gives what one gives, and they end together, whatever ends them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lowland.training import read_records

pytestmark = pytest.mark.slow

# What the system would take for an error: a thread of torch's that is there when Python ends, and needs it.
LEFT = """
import atexit, os, sys
def left():
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    if any("gloo" in name for name in names):
        print("left behind:", names, file=sys.stderr)
if os.path.isdir("/proc/self/task"):
    atexit.register(left)
"""


def torchrun(*arguments, setup="", cwd, count=2):
    """``count`` processes of the command line, each after some Python of the test's; returns at once."""
    script = cwd / "main.py"
    fast = LEFT + "import os, lowland.report as report; report.draw_run = lambda *_: None"
    script.write_text(f"{fast}\n{setup}\nfrom lowland.cli import main\nmain()\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", script]
    return subprocess.Popen(
        [*command, "run", "long2024/digits", "--device", "cpu", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def outcome(process):
    """Exit code, output, and what the command line said on stderr; it must end soon."""
    out, err = process.communicate(timeout=60)
    said = [line for line in err.splitlines() if line.startswith("lowland: ")]
    assert "Traceback" not in err.split("elastic")[0], err
    assert "left behind" not in err, err
    assert "SIGABRT" not in err, err
    return process.returncode, out, said


SHORT = ("--set", "steps=20", "--set", "check_every=10", "--set", "tol=0.05")


def test_torchrun_gives_what_one_process_gives_and_says_it_once(lowland, tmp_path):
    code, out, said = outcome(torchrun(*SHORT, "--out", "two", cwd=tmp_path))
    assert (code, said) == (0, [])
    assert out.count("summary: ") == 1
    assert lowland("run", "long2024/digits", *SHORT, "--out", "one").code == 0
    two, one = (read_records(tmp_path / name) for name in ("two", "one"))
    for arm in ("sam", "gd", "gd-edge"):
        assert [r["step"] for r in two[arm]] == [r["step"] for r in one[arm]]
        for ours, theirs in zip(two[arm], one[arm], strict=True):
            for name in ("loss", "gradient_norm", "edge", "hessian_norm"):
                assert ours[name] == pytest.approx(theirs[name], rel=2e-3), (arm, ours["step"], name)
    summary = json.loads((tmp_path / "two/summary.json").read_text())
    assert summary["environment"]["processes"] == summary["config"]["processes"] == 2
    assert "processes" not in json.loads((tmp_path / "one/config.json").read_text())

    code, out, said = outcome(torchrun(*SHORT, "--out", "two", cwd=tmp_path))
    assert (code, said, out.count("is finished")) == (0, [], 1)
    code, out, said = outcome(torchrun(*SHORT, "--out", "one", cwd=tmp_path))
    assert code != 0
    assert len(said) == 1
    assert "holds a run by 1 process, and this is one by 2 processes" in said[0]


@pytest.mark.parametrize(
    ("arguments", "setup", "says"),
    [
        (("--set", "rh=1"), "", "Did you mean rho?"),
        (
            ("--set", "sam.lr=1e30", "--set", "gd.lr=1e30", "--set", "gd-edge.lr=1e30"),
            "",
            "every arm diverged: sam at step 1",
        ),
        # a limit on the size of files stands in for a full disk: the first process can't write the checkpoint
        (
            (),
            "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))",
            "goes on where it stopped",
        ),
        # the second process fails by itself, while the first waits for its gradients
        (
            (),
            "from lowland.training import run; train = run.Run._train\n"
            "def fail(self, batch):\n"
            "    if self.step == 12 and os.environ['RANK'] == '1': raise MemoryError\n"
            "    train(self, batch)\n"
            "run.Run._train = fail",
            "out of memory",
        ),
    ],
    ids=["setting", "diverged", "disk", "lost"],
)
def test_all_end_soon_and_one_says_why(tmp_path, arguments, setup, says):
    code, _, said = outcome(torchrun(*SHORT, "--out", "run", *arguments, setup=setup, cwd=tmp_path))
    assert code != 0
    assert says in said[0]
    assert all("another process of this run is gone" in line for line in said[1:])
    assert len(said) == 1 or "RANK" in setup


def test_killed_it_ends_like_an_undisturbed_run(tmp_path):
    long = ("--set", "steps=30", "--set", "check_every=3", "--set", "tol=0.05", "--out")
    often = "import lowland.training.drive as drive; drive._SECONDS = 0.1"
    process = torchrun(*long, "run", setup=often, cwd=tmp_path)
    metrics = tmp_path / "run/metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < 14):
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    for pid in _family(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    for name in ("run", "straight"):
        assert outcome(torchrun(*long, name, cwd=tmp_path))[0] == 0
    whole, expected = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "straight"))
    assert whole == expected


def _family(pid):
    """A process and its children, which torchrun puts into sessions of their own."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
