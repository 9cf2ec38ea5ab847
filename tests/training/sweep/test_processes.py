"""Worker processes: the same bits as in this one, and what becomes of those that crash."""

import os
import re
import signal
from pathlib import Path

import pytest

from lowland.errors import SettingError
from lowland.training.sweep.job import here
from lowland.training.sweep.processes import Processes, Seat, seats_for, usable_cores, visible_gpus
from tests.fakes import TROUBLED_STEP
from tests.processes import HEARING, is_alive, python, until

from .engines import Ear, job, metrics_of, steps_of

ALONE = len(usable_cores())  # so many workers have a thread each


@pytest.mark.slow
def test_it_trains_as_here_and_survives_its_workers(tmp_path, expected, capfd):
    here([job(tmp_path, 1, until=8, trouble="killed once")], Ear())
    troubles = {1: "killed once", 3: "killed", 4: "refuse", 5: "fault, exit", 6: "raise"}
    ear = Ear()
    Processes(ALONE)([job(tmp_path, seed, trouble=troubles.get(seed, "none")) for seed in range(7)], ear)
    ends = ear.ends()
    assert ends.pop("3") == "the worker process was killed (signal 9) twice"
    assert ends.pop("4") == r"there are no data\nat all"
    first, second = ends.pop("5").split(", then ")
    assert re.fullmatch(r"training raised RuntimeError at fakes\.py:\d+ \(CUDA error: one over zero\)", first)
    assert second == "the worker process ended (exit code 3)"
    own = r"tests/shaky: training \(shaky\.batch\) failed at \S*fakes\.py, line \d+: ZeroDivisionError: one over zero"
    assert re.fullmatch(own, ends.pop("6"))
    assert steps_of(tmp_path, 6) == [[*range(TROUBLED_STEP)]]  # each once: it would fail again
    assert ends == {"0": "", "1": "", "2": ""}
    assert ear.news["0"][-1].steps == 20
    for seed in (0, 1, 2):
        assert metrics_of(tmp_path, seed) == expected[seed]
    assert steps_of(tmp_path, 0) == [list(range(21))]
    assert steps_of(tmp_path, 1) == [[*range(8)], [*range(8, TROUBLED_STEP)], [*range(8, 21)]]  # from its checkpoint
    assert len(steps_of(tmp_path, 3)) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert set(printed.err.splitlines()) == {"on the way out"}  # whole lines, through this process


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("error", [BrokenPipeError, EOFError])
def test_an_error_of_who_hears_is_passed_on(tmp_path, error):
    """As of one whose stderr is closed: it was taken for the death of the worker, and waited for for ever."""

    def hear(job, news):
        raise error("nobody reads")

    with pytest.raises(error, match="nobody reads"):
        Processes(1)([job(tmp_path, 0, steps=1000)], hear)


PARENT = """
import sys
from pathlib import Path
from lowland.training.sweep.job import here
from lowland.training.sweep.processes import Processes
from tests.training.sweep.engines import job
folder = Path(sys.argv[1])
try:
    Processes(2)([job(folder, seed, pause=0.2, steps=1000) for seed in (0, 1)], lambda job, news: None)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
"""


@pytest.fixture
def sweep(tmp_path):
    """A process that trains two endless runs with two workers: itself, and their process ids, once they train."""
    parent = python("-c", f"{HEARING}\n{PARENT}", tmp_path, start_new_session=True)
    marks = [tmp_path / "marks" / f"{seed}-0.05.steps" for seed in (0, 1)]
    try:
        until(lambda: all(mark.exists() and mark.stat().st_size for mark in marks), parent)
        yield parent, [int(mark.read_text().split()[1]) for mark in marks]
    finally:
        parent.kill()
        parent.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_workers_die_with_their_parent(sweep):
    parent, workers = sweep
    assert all(map(is_alive, workers))
    parent.kill()
    parent.wait()
    until(lambda: not any(map(is_alive, workers)))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_an_interrupt_ends_workers_and_is_passed_on(sweep):
    parent, workers = sweep
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = parent.communicate(timeout=60)
    assert out == "interrupted\n"
    assert err.count("Traceback") == 1
    assert not any(map(is_alive, workers))


def test_cores_and_devices_are_dealt_out():
    assert seats_for([2, 3, 5], [], None) == [Seat(0, 1, (2,), None), Seat(1, 1, (3,), None), Seat(2, 1, (5,), None)]
    assert seats_for([0, 1, 2, 3, 4], [], 2) == [Seat(0, 2, (0, 1), None), Seat(1, 2, (2, 3), None)]
    assert seats_for([0], [], 2) == [Seat(0, 1, (0,), None), Seat(1, 1, (0,), None)]
    assert [seat.gpu for seat in seats_for([0, 1], ["3", "GPU-5"], None)] == ["3", "GPU-5"]
    assert [seat.gpu for seat in seats_for([0, 1], ["0", "1"], 3)] == ["0", "1", "0"]
    many = seats_for([0, 1], [], 10**12, 3)
    assert [(seat.threads, seat.cores) for seat in many] == [(1, (0, 1))] * 3  # more would have nothing to do
    with pytest.raises(SettingError, match="at least 1"):
        Processes(0)


@pytest.mark.parametrize(
    ("names", "count", "seen"),
    [(None, 2, ["0", "1"]), ("5, 7", 2, ["5", "7"]), ("5,-1,7", 1, ["5"]), ("", 0, []), (None, 0, [])],
)
def test_only_visible_devices_are_used(monkeypatch, names, count, seen):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert visible_gpus({} if names is None else {"CUDA_VISIBLE_DEVICES": names}) == seen
