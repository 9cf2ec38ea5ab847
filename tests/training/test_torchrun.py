"""The command line by several processes: it gives what one gives, and they end together, whatever ends them."""

import json
import multiprocessing.util
import os
import signal
import sys
from pathlib import Path

import pytest

from lowland.training import read_records, run
from tests.cases import variables
from tests.forked import Command, save_every, small_files, undrawn
from tests.processes import end, torchrun, until

pytestmark = pytest.mark.slow


def left():
    """What the system would take for an error: a thread of torch's that is there when Python ends, and needs it."""
    names = [Path(f"/proc/self/task/{task}/comm").read_text() for task in os.listdir("/proc/self/task")]
    if any("gloo" in name for name in names):
        print("left behind:", names, file=sys.stderr)


def watched():
    """Says at the end what is `left`."""
    multiprocessing.util.Finalize(None, left, exitpriority=0)


RUN = ("run", "long2024/digits", "--device", "cpu")


def forked(*arguments, cwd, setup=()):
    """Two processes of the command line; return at once."""
    setup = [(undrawn,), (watched,), *setup]
    return [Command(*RUN, *arguments, cwd=cwd, environment=one, setup=setup) for one in variables(2)]


def outcome(ended):
    """Exit codes, outputs, and what the command line said on stderr, of one or more."""
    ended = ended if isinstance(ended, list) else [ended]
    err = "".join(each.err for each in ended)
    said = [line for line in err.splitlines() if line.startswith("lowland: ")]
    assert "Traceback" not in err.split("elastic")[0], err
    assert "left behind" not in err, err
    assert "SIGABRT" not in err, err
    return {each.code for each in ended}, "".join(each.out for each in ended), said


SHORT = ("--set", "steps=20", "--set", "check_every=10", "--set", "tol=0.05")


def test_torchrun_gives_what_one_process_gives_and_says_it_once(undrawn, lowland, tmp_path):
    script = tmp_path / "main.py"
    before = "import atexit, tests.training.test_torchrun as test; atexit.register(test.left); test.undrawn()"
    script.write_text(f"{before}\nfrom lowland.cli import main\nmain()\n")
    ended = end(torchrun(script, *RUN, *SHORT, "--out", "two", cwd=tmp_path), 120)
    codes, out, said = outcome(ended)
    assert (codes, said) == ({0}, []), ended
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

    codes, out, said = outcome([each.wait() for each in forked(*SHORT, "--out", "two", cwd=tmp_path)])
    assert (codes, said, out.count("is finished")) == ({0}, [], 1)
    codes, out, said = outcome([each.wait() for each in forked(*SHORT, "--out", "one", cwd=tmp_path)])
    assert 0 not in codes
    assert len(said) == 1
    assert "holds a run by 1 process, and this is one by 2 processes" in said[0]


def fail_alone():
    """The second process fails by itself, while the first waits for its gradients."""
    train = run.Run._train

    def fail(self, batch):
        if self.step == 12 and os.environ["RANK"] == "1":
            raise MemoryError
        train(self, batch)

    run.Run._train = fail


@pytest.mark.parametrize(
    ("arguments", "setup", "says"),
    [
        (("--set", "rh=1"), [], "Did you mean rho?"),
        (("--set", "sam.lr=1e30", "--set", "gd.lr=1e30", "--set", "gd-edge.lr=1e30"), [], "diverged: sam at step 1"),
        ((), [(small_files,)], "goes on where it stopped"),
        ((), [(fail_alone,)], "out of memory"),
    ],
    ids=["setting", "diverged", "disk", "lost"],
)
def test_all_end_soon_and_one_says_why(tmp_path, arguments, setup, says):
    """Without torchrun, which would end one when the other has failed."""
    if setup == [(small_files,)] and "COVERAGE_PROCESS_CONFIG" in os.environ:
        pytest.skip("coverage's own files are larger than the limit")
    processes = forked(*SHORT, "--out", "run", *arguments, setup=setup, cwd=tmp_path)
    codes, _, said = outcome([each.wait(60) for each in processes])
    assert 0 not in codes
    assert sum(says in line for line in said) == 1
    others = [line for line in said if says not in line]
    assert all("another process of this run is gone" in line for line in others)
    assert not others or setup == [(fail_alone,)]


def test_killed_it_ends_like_an_undisturbed_run(tmp_path):
    long = ("--set", "steps=30", "--set", "check_every=3", "--set", "tol=0.05", "--out")
    killed = forked(*long, "run", setup=[(save_every, 0.1)], cwd=tmp_path)
    metrics = tmp_path / "run/metrics.jsonl"
    until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 14)
    for process in killed:
        process.kill()
    assert [process.wait().code for process in killed] == [-signal.SIGKILL] * 2
    for name in ("run", "straight"):
        assert outcome([each.wait() for each in forked(*long, name, cwd=tmp_path)])[0] == {0}
    whole, expected = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "straight"))
    assert whole == expected
