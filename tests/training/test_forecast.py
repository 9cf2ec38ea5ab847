"""How long a run will take, from its first steps, by a clock that the test moves."""

import math
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lowland.patience import Lines
from lowland.training import Selection, drive, forecast, together
from lowland.training import progress as run_progress
from lowland.training.forecast import Forecast, costs, duration
from lowland.training.progress import bar
from lowland.training.sweep import progress as sweep_progress
from lowland.training.sweep.job import News
from tests.fakes import PAIR, TOY, Rows

SETTINGS = replace(TOY.configure("paper", {})["sam"], steps=1000, check_every=100, rho=0.0, seed=0)


class Clock:
    def __init__(self):
        self.now, self.said = 100.0, []

    def __call__(self):
        return self.now


def followed(arms, costs, check=5.0, begin=0):
    """Train ``arms`` in order by the clock, each step at its cost, until each kind has been timed; what was said."""
    clock = Clock()
    made = Forecast(arms, clock.said.append, clock)
    for name, settings in arms.items():
        made.begin(name, begin)
        clock.now += check
        made.check(check)
        for step in range(30):
            clock.now += costs[name] * (50 if step == 0 else 1)  # warming up
            made.step(lambda: None)
        clock.now += costs[name] * (settings.steps - 30) + 10 * check
        made.end(name)
    return clock.said


def test_one_arm_with_its_checks():
    # 980 steps of a second and 10 checks of 5 s are left after the first 20.
    assert followed({"gd": SETTINGS}, {"gd": 1.0}) == [f"about {duration(980 + 50)}, from the first 20 steps of gd"]


def test_sam_is_taken_to_cost_twice_as_much_until_it_is_seen():
    arms = {"gd": SETTINGS, "sam": replace(SETTINGS, rho=0.1)}
    left = 980 + 50 + 2000 + 55
    assert followed(arms, {"gd": 1.0, "sam": 2.0}) == [f"about {duration(left)}, from the first 20 steps of gd"]
    assert followed(arms, {"gd": 1.0, "sam": 9.0}) == [
        f"about {duration(left)}, from the first 20 steps of gd",
        f"about {duration(992 * 9 + 50)} more, from the first 8 steps of sam",
    ]


def test_seeds_are_one_kind():
    arms = {f"gd-{seed}": replace(SETTINGS, seed=seed) for seed in range(3)}
    left = 980 + 50 + 2 * (1000 + 55)
    assert followed(arms, dict.fromkeys(arms, 1.0)) == [f"about {duration(left)}, from the first 20 steps of gd-0"]


def test_slow_steps_are_not_waited_for():
    (said,) = followed({"gd": SETTINGS}, {"gd": 25.0})
    assert said == f"about {duration(25 * 996 + 50)}, from the first 4 steps of gd"


def test_a_resumed_run_has_so_much_more_to_go():
    (said,) = followed({"gd": SETTINGS}, {"gd": 1.0}, begin=500)
    assert said == f"about {duration(480 + 25)} more, from the first 20 steps of gd"


def test_a_short_run_needs_none():
    assert followed({"gd": SETTINGS}, {"gd": 0.01}, check=0.1) == []


def test_where_there_is_no_terminal_it_is_a_line_on_stderr(capsys):
    with bar(900) as shown:
        shown.say("about 74 minutes, from the first 20 steps of gd")
    assert capsys.readouterr().err == "about 74 minutes, from the first 20 steps of gd\n"


def test_steps_cost_what_their_arm_has_of_passes():
    cost = costs([SETTINGS, replace(SETTINGS, rho=0.1, steps=500), SETTINGS])
    assert [cost(steps) for steps in (0, 10, 1000, 1001, 1500, 1600, 2500)] == [0, 10, 1000, 1002, 2000, 2100, 3000]
    assert costs([])(0) == 0


def test_the_time_left_of_a_run_goes_by_what_its_arms_cost(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run_progress, "time", SimpleNamespace(monotonic=clock))
    with bar(2000, False, costs([SETTINGS, replace(SETTINGS, rho=0.1)])) as shown:
        shown.update(0, "gd")
        clock.now += 600
        shown.update(600, "gd")
        assert shown.line() == "gd: 600 of 2000 steps (30%), about 40 min left"  # 400 steps, and 1,000 of two passes


def test_the_loop_says_it(monkeypatch, tmp_path, capsys):
    from lowland import training

    monkeypatch.setattr(forecast, "SHORT", 0.0)
    arms = TOY.configure("paper", {"steps": "40", "check_every": "20"})
    with training.RunDirectory(tmp_path / "run", {}) as directory:
        training.train(TOY, arms, directory, training.choose_device("cpu"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("about ")]
    assert lines[0].endswith(f"from the first 20 steps of {next(iter(arms))}")


def test_arms_that_are_one_program_say_it_from_their_first_steps(monkeypatch, tmp_path, capsys):
    """Each step takes 1 s, the first 100 s more, a check 5 s."""
    from lowland import training

    clock = Clock()

    class Slow(Rows):
        def train(self, steps):
            clock.now += steps + (0 if self.step else 100)
            super().train(steps)

        def measure(self):
            clock.now += 5
            return super().measure()

    experiment = replace(PAIR, together=Slow, arms={"slow": {}})
    for module in (drive, together):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    arms = experiment.configure("paper", {"lr": "1e-4", "steps": "2000", "check_every": "1000"})
    with training.RunDirectory(tmp_path / "run", {}) as directory:
        training.train(experiment, arms, directory, training.choose_device("cpu"))
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("about ")]
    assert said == f"about {duration(2000 - 23 + 2 * 5)}, from the first 23 steps of 2 runs"


@pytest.fixture
def swept(monkeypatch):
    """A bar of a sweep over two runs, by a clock that the test moves; what it says."""
    clock = Clock()
    monkeypatch.setattr(sweep_progress, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(sweep_progress, "say_above", lambda _, text: clock.said.append(text))
    display = SimpleNamespace(
        add_task=lambda *_, **__: 0, update=lambda *_, **__: None, console=SimpleNamespace(width=80)
    )
    points = {"rho=0": SETTINGS, "rho=0.1": replace(SETTINGS, rho=0.1)}
    made = sweep_progress.SweepBar(display, points, {}, None, Lines(str))

    def hear(label, steps, now):
        clock.now = 100.0 + now
        made(SimpleNamespace(path=label, arms={label: points[label]}, until=None, stopped=()), News(steps))

    return hear, clock.said, made


def test_a_sweep_says_it_from_its_first_steps(swept):
    hear, said, bar_of_it = swept
    hear("rho=0", 10, 300.0)  # the worker starts, and warms up
    hear("rho=0", 15, 305.0)  # too few to tell
    assert said == []
    hear("rho=0", 50, 340.0)  # 3,000 passes in all: 40 in 40 s
    assert said == [f"about {duration(2950)}, from the first 40 steps"]
    assert bar_of_it.line() == "0/2 runs done, 2% of all steps, about 49 min left"
    hear("rho=0", 400, 710.0)  # as foretold
    hear("rho=0.1", 500, 2000.0)
    assert len(said) == 1


def test_the_lowest_so_far_is_a_number():
    display = SimpleNamespace(
        add_task=lambda *_, **__: 0, update=lambda *_, **__: None, console=SimpleNamespace(width=80)
    )
    points = {"wild": SETTINGS, "rho=0": SETTINGS, "rho=0.1": SETTINGS}
    made = sweep_progress.SweepBar(display, points, {}, Selection("loss", "training"), Lines(str))

    def hear(label, **record):
        job = SimpleNamespace(path=label, arms={label: SETTINGS}, until=None, stopped=())
        made(job, News(1, {label: {"step": 1, **record}}))

    hear("wild", loss=math.nan)
    hear("rho=0", loss=0.5)
    hear("rho=0.1", loss=0.25)
    assert made.line().endswith("lowest loss so far 0.25 (rho=0.1)")
    hear("rho=0.1", other=1.0)  # a check that doesn't measure it
    assert made.line().endswith("lowest loss so far 0.25 (rho=0.1)")
    hear("rho=0.1", loss=math.inf)
    assert made.line().endswith("lowest loss so far 0.5 (rho=0)")


def test_a_sweep_that_takes_longer_says_so_once(swept):
    hear, said, _ = swept
    hear("rho=0", 10, 10.0)
    hear("rho=0", 50, 50.0)
    hear("rho=0", 310, 1210.0)
    hear("rho=0", 410, 4000.0)
    assert said[1:] == [f"about {duration(1200 * 2690 / 300)} more, from the first 300 steps"]


def test_steps_of_before_are_no_pace_of_a_sweep(swept):
    hear, said, _ = swept
    hear("rho=0", 500, 10.0)  # of an interrupted sweep
    hear("rho=0", 540, 50.0)
    assert said == [f"about {duration(3000 - 540)}, from the first 40 steps"]


def test_duration():
    assert [duration(each) for each in (59.6, 119, 120, 4440)] == ["60 s", "119 s", "2 minutes", "74 minutes"]


def test_the_real_clock_runs():
    made = Forecast({"gd": SETTINGS}, lambda _: None)
    made.begin("gd", 0)
    for _ in range(21):
        time.sleep(0.001)
        made.step(lambda: None)
    assert 0.9 < made.left() < 100
