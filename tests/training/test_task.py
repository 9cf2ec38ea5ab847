"""What only some tasks have: averaged weights, a second training, groups that climb for themselves, files."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lowland.training as training
from lowland.errors import SettingError
from lowland.training import RunDirectory, configuration
from lowland.training.parallel import Alone
from lowland.training.run import Run
from lowland.training.vectorized import NotVectorizable, Runs
from tests.fakes import RELAY, relay
from tests.optim.textbook import m_sam

CPU = torch.device("cpu")


def run(path, changes=None, **options):
    arms = RELAY.configure("paper", changes or {})
    with RunDirectory(path, configuration(RELAY, "paper", arms, CPU)) as directory:
        return training.train(RELAY, arms, directory, CPU, show_progress=False, **options), directory


def test_a_second_training_begins_with_the_last_weights_of_the_first_of_its_seed(tmp_path):
    trained, _ = run(tmp_path)
    assert list(trained) == [f"{arm}-{k}" for arm in ("first", "grouped", "second") for k in (0, 1)]
    for k in (0, 1):
        assert trained[f"second-{k}"].records[0]["weight"] == trained[f"first-{k}"].records[-1]["weight"]
        assert trained[f"second-{k}"].records[-1]["weight"] != trained[f"second-{k}"].records[0]["weight"]
        assert json.loads((tmp_path / f"seed-{5 + k}.json").read_text()) == {"seed": 5 + k}
    assert trained["first-0"].records[0]["weight"] != trained["first-1"].records[0]["weight"]


def test_weights_are_averaged_after_every_step(tmp_path):
    trained, _ = run(tmp_path, {"seeds": "1", "check_every": "1"})
    weights, averages = trained["first"].column("weight"), trained["first"].column("averaged")
    expected = weights[1]  # the average begins with the first step's
    for weight, average in zip(weights[1:], averages[1:], strict=True):
        expected = 0.5 * expected + 0.5 * weight
        assert average == pytest.approx(expected, rel=1e-5)


def test_groups_climb_for_themselves(tmp_path):
    """Two groups, of four and two examples, against a textbook step."""
    trained, _ = run(tmp_path, {"seeds": "1", "steps": "1", "check_every": "1"})
    settings = RELAY.configure("paper", {"seeds": "1"})["grouped"]
    training.randomness.seed_everything(settings.seed)
    task = relay(settings, CPU)
    x, y = task.batch(0)
    params = list(task.model.parameters())
    total = m_sam(lambda rows: F.mse_loss(task.model(x[rows]), y[rows]), params, len(x), 4, settings.rho)
    expected = (params[0] - settings.lr * total[0]).sum().item()
    assert trained["grouped"].records[-1]["weight"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("crash", [3, 12, 30, 47])
def test_killed_it_ends_with_the_same_bits(tmp_path, interrupted, crash):
    run(tmp_path / "straight")
    interrupted(Run, "_train", crash)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    run(tmp_path / "killed")
    assert (tmp_path / "killed/metrics.jsonl").read_bytes() == (tmp_path / "straight/metrics.jsonl").read_bytes()


def test_there_must_be_something_to_start_from(tmp_path):
    with pytest.raises(SettingError, match="no arm missing with seed 5"):
        run(tmp_path / "missing", {"second.first": "missing"})
    with pytest.raises(SettingError, match="arm first-0 is not trained to its end"):
        run(tmp_path / "paused", until=3)


def test_what_starts_from_a_diverged_arm_has_diverged(tmp_path):
    trained, _ = run(tmp_path, {"first.lr": "1e30"})
    assert trained["first-0"].status == trained["second-0"].status == trained["second-1"].status == "diverged"
    assert trained["second-0"].diverged_at == 0
    assert trained["grouped-0"].status == "done"
    again, _ = run(tmp_path, {"first.lr": "1e30"})
    assert again == trained


def test_stacks_leave_such_tasks_alone():
    with pytest.raises(NotVectorizable, match="averaged"):
        Runs.prepare(RELAY, [RELAY.configure("paper", {"seeds": "1"})["first"]], CPU)


def test_mixed_precision_and_a_compiled_model_are_what_they_say(tmp_path, monkeypatch):
    """bfloat16 products inside training, float32 weights and records; the model that runs is the compiled one."""
    from dataclasses import replace

    seen, real = set(), torch.compile

    def compiling(model, **options):
        seen.add("compiled")
        return real(model, backend="eager", **options)

    class Looking(nn.Module):
        def forward(self, x):
            seen.add(x.dtype)
            return x

    def changed(settings, device):
        task = relay(settings, device)
        task.model.append(Looking())
        return replace(task, autocast=torch.bfloat16, compiled=True, average=None, check=_Check(task.model))

    monkeypatch.setattr(torch, "compile", compiling)
    experiment = replace(RELAY, prepare=changed)
    arms = {"grouped": RELAY.configure("paper", {"seeds": "1", "steps": "2"})["grouped"]}
    with RunDirectory(tmp_path, configuration(experiment, "paper", arms, CPU)) as directory:
        trained = training.train(experiment, arms, directory, CPU, show_progress=False)
    assert seen == {"compiled", torch.bfloat16}
    assert trained["grouped"].records[-1]["dtype"] == "torch.float32"


class _Check:
    def __init__(self, model):
        self.model = model

    def __call__(self, step, batch):
        return {"dtype": str(next(self.model.parameters()).dtype)}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_groups_do_not_climb_in_several_processes(tmp_path):
    class Two(Alone):
        count = 2

    with pytest.raises(SettingError, match="arm grouped-0: groups of m examples climb in one process alone"):
        run(tmp_path, processes=Two())
