"""The commands of the campaign, and what they leave behind when nobody disturbs them."""

import json
import re

import torch

from .children import call

COMMANDS = {
    "run": ("run", "tests/victim", "--scale", "paper"),
    "vectorized": ("sweep", "tests/victim", "--scale", "paper", "--engine", "vectorized"),
    "process": ("sweep", "tests/victim", "--scale", "paper", "--engine", "process", "--workers", "2"),
}


def outcome(folder):
    """All that a command leaves behind but for what the clock says."""
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("files")  # the checksum of a table in which there are seconds
    summary["environment"].pop("commit")  # git may lack what the run had enough of
    files = [path for path in folder.rglob("*") if path.is_file()]
    records = {
        path.relative_to(folder): path.read_bytes()
        for path in files
        if path.name == "metrics.jsonl" or path.suffix in (".png", ".pdf")
    }
    weights = {
        path.relative_to(folder): _tensors(torch.load(path, weights_only=True))
        for path in files
        if path.name == "checkpoint.pt"
    }
    return _without_times(summary), records, weights


def _tensors(value):
    """The numbers in a checkpoint, as text that is equal for equal bits."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _tensors(entry) for key, entry in value.items() if "seconds" not in str(key)}
    return [_tensors(entry) for entry in value] if isinstance(value, list | tuple) else value


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(entry) for key, entry in value.items() if not re.search("time|seconds", key)}
    return [_without_times(entry) for entry in value] if isinstance(value, list) else value


def ends_alike(kind, folder, expected):
    """The same command, left alone, ends as if it had always been."""
    ended = call(*COMMANDS[kind], "--out", "out", cwd=folder)
    assert ended.code == 0, ended
    assert ended.is_clear(), ended
    assert outcome(folder / "out") == expected
    assert not list((folder / "out").rglob("*.part"))
