"""Records beside the run directory: JSON lines, TensorBoard, Weights & Biases."""

import json
import sys
from types import ModuleType

import pytest

from lowland.curvature import read_jsonl
from lowland.data import Shuffled
from lowland.errors import SettingError
from lowland.training import read_records
from lowland.training.drive import Pace
from lowland.training.logs import Log

from .own_file import write


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return write(tmp_path)


@pytest.fixture
def interrupted(monkeypatch, lowland):
    """Run a command that is interrupted after so many batches: then the records are ahead of the checkpoint."""

    def call(batches, *command):
        real, steps = Shuffled.__call__, []

        def draw(self, step):
            steps.append(step)
            if len(steps) > batches:
                raise KeyboardInterrupt
            return real(self, step)

        with monkeypatch.context() as patch:
            patch.setattr(Shuffled, "__call__", draw)
            patch.setattr(Pace, "due", lambda self: len(steps) == 5)
            assert lowland(*command).code == 130

    return call


def numbers(records):
    return [{key: value for key, value in record.items() if key != "arm"} for record in records]


RUN = ("run", "mine.py", "--out", "out")


def test_json_lines_are_those_of_a_monitor(undrawn, lowland, mine, tmp_path):
    ran = lowland(*RUN, "--log", "jsonl")
    assert ran.code == 0, ran.err
    assert "log:     out/log" in ran.out
    for arm, records in read_records(tmp_path / "out").items():
        assert read_jsonl(tmp_path / f"out/log/{arm}.jsonl") == numbers(records)


@pytest.mark.parametrize("begun_with_it", [True, False])
def test_after_an_interruption_every_record_is_there_once(undrawn, lowland, interrupted, mine, tmp_path, begun_with_it):
    log = ("--log", "jsonl")
    interrupted(20, *RUN, *(log if begun_with_it else ()))
    assert (tmp_path / "out/log").exists() == begun_with_it
    assert lowland(*RUN, *log).code == 0
    for arm, records in read_records(tmp_path / "out").items():
        lines = (tmp_path / f"out/log/{arm}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == numbers(records)


def scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return [(one.step, pytest.approx(one.value)) for one in events.Scalars("lowland/train_loss")]


@pytest.mark.slow
def test_tensorboard_too(undrawn, lowland, interrupted, mine, tmp_path):
    pytest.importorskip("tensorboard")
    interrupted(20, *RUN, "--log", "tensorboard")
    assert lowland(*RUN, "--log", "tensorboard").code == 0
    for arm, records in read_records(tmp_path / "out").items():
        assert scalars(tmp_path / "out/tensorboard" / arm) == [(one["step"], one["train_loss"]) for one in records]


@pytest.mark.slow
def test_the_runs_of_a_sweep_in_worker_processes(undrawn, lowland, mine, tmp_path):
    swept = lowland("sweep", "mine.py", "--set", "epochs=1", "--engine", "process", "--out", "out", "--log", "jsonl")
    assert swept.code == 0, swept.err
    records = read_records(tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out/log").iterdir()} == set(records) == {"rho=0", "rho=0.1"}
    for label, found in records.items():
        assert read_jsonl(tmp_path / f"out/log/{label}.jsonl") == numbers(found)


class FakeRun:
    def __init__(self, resumed):
        self.rows, self.resumed, self.metrics, self.finished = [], resumed, [], False

    def define_metric(self, *names, **how):
        self.metrics.append(names)

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """Stands in for W&B, which needs an account: keeps what it is given by id."""
    module = ModuleType("wandb")
    module.runs, module.asked = {}, []

    def init(**asked):
        module.asked.append(asked)
        known = asked["id"] in module.runs
        run = module.runs.setdefault(asked["id"], FakeRun(False))
        run.resumed = known
        return run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_has_a_run_for_each_arm(undrawn, lowland, mine, tmp_path, wandb):
    assert lowland(*RUN, "--log", "wandb").code == 0
    assert [(one["project"], one["group"], one["name"]) for one in wandb.asked] == [
        ("mine", "out", "sam"),
        ("mine", "out", "sgd"),
    ]
    assert wandb.asked[1]["config"]["rho"] == 0
    for run, records in zip(wandb.runs.values(), read_records(tmp_path / "out").values(), strict=True):
        assert run.finished
        assert [row["lowland/step"] for row in run.rows] == [record["step"] for record in records]
        assert run.rows[-1]["lowland/test_error"] == records[-1]["test_error"]


def test_wandb_is_taken_up_where_it_was(undrawn, lowland, interrupted, mine, tmp_path, wandb):
    interrupted(26, *RUN, "--log", "wandb")  # in the second arm
    assert lowland(*RUN, "--log", "wandb").code == 0
    assert len(wandb.runs) == 2
    for run, records in zip(wandb.runs.values(), read_records(tmp_path / "out").values(), strict=True):
        assert {row["lowland/step"] for row in run.rows} == {record["step"] for record in records}


def test_wandb_that_fails_is_one_line(refused, mine, wandb):
    def fail(**_):
        raise RuntimeError("no API key\nand more")

    wandb.init = fail
    refused(*RUN, "--log", "wandb", says=("--log wandb: no API key", "wandb login"))


def test_what_is_missing_is_one_line_that_says_what_to_install(refused, mine, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused(*RUN, "--log", "wandb", says=("--log wandb needs wandb", "pip install '.[logs]'"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    refused(*RUN, "--log", "tensorboard", says=("--log tensorboard needs tensorboard", "pip install '.[logs]'"))
    refused(*RUN, "--log", "paper", says="unknown log paper")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_log_is_left_alone(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log/sam.jsonl").write_text("mine\n")
    opened = Log.beside("jsonl", "mine", tmp_path).open({"sam": {}})
    with pytest.raises(SettingError, match="no record of a monitor"):
        opened.write({"arm": "sam", "step": 0, "loss": 1.0})
    assert (tmp_path / "log/sam.jsonl").read_text() == "mine\n"


def test_only_numbers_are_logged(tmp_path):
    opened = Log.beside("jsonl", "mine", tmp_path).open({"a/b": {}})
    record = {"arm": "a/b", "step": 3, "loss": float("nan"), "kind": "x", "flag": True, "curve": [1], "count": 2}
    opened.write(record)
    opened.close()
    assert read_jsonl(tmp_path / "log/a_b.jsonl") == [{"step": 3, "loss": None, "count": 2}]
