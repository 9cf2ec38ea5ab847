"""Training in bfloat16 on a processor without it: it is said what is slow, and what makes it fast."""

from types import SimpleNamespace

import pytest
import torch

from lowland import experiments
from lowland.training import environment
from lowland.training.environment import slow_bfloat16

from .own_file import TEXT, write

CPU = torch.device("cpu")


@pytest.fixture
def lacking(monkeypatch):
    monkeypatch.setattr(environment, "has_bfloat16", lambda: False)


@pytest.mark.usefixtures("lacking")
@pytest.mark.parametrize(
    ("settings", "autocast", "says"),
    [
        ({"amp": "on"}, None, "; --set amp=off makes it fast"),
        ({"precision": "bfloat16"}, torch.bfloat16, "; --set precision=float32 makes it fast"),
        ({}, torch.bfloat16, "many times slower than in float32 on this processor, which lacks it"),
        ({"amp": "auto", "precision": "float32"}, None, ""),
        ({}, torch.float16, ""),
    ],
)
def test_what_makes_it_fast_is_said(settings, autocast, says):
    note = slow_bfloat16(SimpleNamespace(**settings), CPU, autocast)
    assert says in note
    assert bool(note) is bool(says)
    assert slow_bfloat16(SimpleNamespace(**settings), torch.device("cuda"), autocast) == ""


def test_a_processor_that_has_it_is_not_warned_of(monkeypatch):
    assert isinstance(environment.has_bfloat16(), bool)
    monkeypatch.setattr(environment, "has_bfloat16", lambda: True)
    assert slow_bfloat16(SimpleNamespace(amp="on"), CPU, torch.bfloat16) == ""


@pytest.mark.usefixtures("lacking")
@pytest.mark.parametrize("how", [experiments.run, experiments.sweep])
def test_it_is_said_once_at_the_start(tmp_path, undrawn, capsys, how):
    given = "supervised(model, settings, (x[:120], y[:120]), test=(x[120:], y[120:]))\n"
    cast = "    task.autocast = torch.bfloat16 if settings.amp == 'on' else None\n"
    text = TEXT.replace(f"    return {given}", f"    task = {given}{cast}    return task\n")
    path = write(tmp_path, text.replace("width=3", "width=3, amp='on'").replace("epochs=4", "epochs=1"))
    how(path, out=tmp_path / "on", device="cpu")
    assert capsys.readouterr().err.count("--set amp=off makes it fast") == 1
    how(path, out=tmp_path / "off", device="cpu", amp="off")
    assert "bfloat16" not in capsys.readouterr().err
