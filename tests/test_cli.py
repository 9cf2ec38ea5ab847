"""The command line as its users meet it: what it prints, what it refuses, and how."""

import json
import signal

import pytest

from lowland.papers import COSTS_ARE_OF, experiments
from lowland.training.experiment import SCALES

from .forked import Command, save_every, small_files
from .processes import until

SMOKE = ("run", "long2024/digits", "--scale", "smoke")


def test_list(lowland):
    listed = json.loads(lowland("list", "--json").out)
    assert [row["name"] for row in listed] == list(experiments())
    assert all(set(row["scales"]) >= set(SCALES) - {"desk"} for row in listed)
    text = lowland("list").out
    assert "long2024/digits" in text
    assert "(no download)" in text
    assert text.count(COSTS_ARE_OF) == 1


@pytest.mark.parametrize("name", list(experiments()))
def test_show_says_where_each_setting_comes_from(lowland, name):
    outcome = lowland("show", name)
    assert outcome.code == 0
    values = experiments()[name].values("paper")
    for key in values:
        assert key in outcome.out
    for origin in {value.origin for value in values.values()}:
        assert f"({origin})" in outcome.out


def test_show_tells_the_parts_of_a_grid_apart(lowland):
    out = lowland("show", "andriushchenko2022/cifar10").out
    assert "--grid m, part 1 of 2" in out
    assert "--grid m, part 2 of 2" in out
    assert "--grid paper, part" not in out
    relu = lowland("show", "andriushchenko2022/relu").out
    assert relu.count(COSTS_ARE_OF) == 1
    assert "--grid" not in relu
    assert "ours: the other kind's step size, as a control" in relu


def test_run_smoke_and_again(lowland, tmp_path):
    first = lowland(*SMOKE, "--out", "here")
    assert first.code == 0
    assert "smoke runs judge no claims" in first.out
    here = tmp_path / "here"
    assert {p.name for p in here.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "summary.json",
    }
    assert len(list((here / "figures").glob("*.png"))) == len(list((here / "figures").glob("*.pdf"))) == 4
    before = {p: p.stat().st_mtime_ns for p in here.rglob("*") if p.is_file() and p.name != ".lock"}
    again = lowland(*SMOKE, "--out", "here")
    assert again.code == 0
    assert "is finished" in again.out
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_two_runs_give_the_same_bits_and_wall_clock_only_under_its_names(undrawn, lowland, tmp_path):
    lowland(*SMOKE, "--out", "a")
    lowland(*SMOKE, "--out", "b")
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()

    def timeless(value):
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if "time" not in k and "seconds" not in k}
        return value

    a, b = (timeless(json.loads((tmp_path / name / "summary.json").read_text())) for name in "ab")
    assert a == b


def test_seed_and_settings_reach_the_run(undrawn, lowland, tmp_path):
    assert lowland(*SMOKE, "--seed", 5, "--set", "rho=0.2", "--set", "gd-edge.lr=8").code == 0
    (config,) = tmp_path.rglob("config.json")
    config = json.loads(config.read_text())
    assert config["seed"] == 5
    assert [config["arms"][arm]["rho"] for arm in ("sam", "gd", "gd-edge")] == [0.2, 0, 0]
    assert config["arms"]["gd-edge"]["lr"] == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "long2024/digit"), "Did you mean long2024/digits?"),
        (("show", "digits"), "Did you mean long2024/digits?"),
        (("run", "long2024/digits", "--scale", "huge"), "unknown scale huge"),
        (("run", "long2024/digits", "--set", "rh=1"), "Did you mean rho?"),
        (("run", "long2024/digits", "--set", "rho"), "key=value"),
        (("run", "long2024/digits", "--set", "rho=-1"), "at least 0"),
        (("run", "long2024/digits", "--set", "rho=nan"), "finite"),
        (("run", "long2024/digits", "--set", "steps=many"), "whole number"),
        (("run", "long2024/digits", "--seed", "-1"), "at least 0"),
        (("run", "long2024/digits", "--seed", "x"), "whole number"),
        (("run", "long2024/digits", "--device", "gpu"), "unknown device gpu"),
        (("run", "long2024/digits", "--sale", "smoke"), "--sale"),
        (("run", "long2024/digits", "--seed", "1", "--set", "seed=2"), "give one"),
        (("run", "long2024/digits", "--seed", "1e22"), "at most"),
        (("run", "long2024/digits", "--out", ""), "--out needs"),
        (("run", "long2024/digits", "--set", "rho=0." + "0" * 300 + "1"), "choose one with --out"),
        (("run", "long2024/mnist", "--set", "examples=60001"), "at most 60000"),
        (("run",), "NAME"),
        (("rum",), "rum"),
        (("data", "verify", "mnits"), "Did you mean mnist?"),
        (("data", "fetch", "imagenet"), "imagenet"),
    ],
)
def test_refuses_in_one_line(refused, arguments, says):
    refused(*arguments, says=says)


def test_no_cuda(refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(*SMOKE, "--device", "cuda", says="no CUDA device")


def test_no_apple_gpu(refused, monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    refused(*SMOKE, "--device", "mps", says=("torch sees no Apple GPU here", "--device cpu"))


def test_what_an_apple_gpu_cannot_do(refused, monkeypatch):
    def draw(*_, **__):
        raise NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device.\nIf you")

    monkeypatch.setattr("lowland.training.train", draw)
    monkeypatch.setattr("lowland.commands.run.place", lambda *_: None)
    refused(*SMOKE, says=("an Apple GPU (mps) can't do this", "aten::x", "--device cpu"))


def test_output_paths_that_cannot_be_used(lowland, refused, tmp_path):
    (tmp_path / "file").write_text("")
    refused(*SMOKE, "--out", "file", says="file in its place")
    lowland(*SMOKE, "--out", "run")
    refused(*SMOKE, "--out", "run", "--seed", 1, says=("another configuration", "seed"))


def test_missing_data_without_a_network(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "none"))
    monkeypatch.setattr("urllib.request.OpenerDirector.open", _no_network)
    refused("run", "long2024/mnist", "--scale", "smoke", says=("mnist", str(tmp_path / "none"), "long2024/digits"))


def test_fetching_says_at_once_where_to(lowland, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("urllib.request.OpenerDirector.open", _no_network)
    outcome = lowland("data", "fetch", "mnist")
    assert outcome.code == 2
    assert outcome.out == f"mnist, fetching into: {tmp_path / 'data/mnist'}\n"
    assert len(outcome.err.splitlines()) == 1


def _no_network(*_, **__):
    raise OSError("Network is unreachable")


def test_every_arm_diverged(lowland, refused):
    diverging = ("--set", "sam.lr=1e30", "--set", "gd.lr=1e30")
    one = lowland(*SMOKE, *diverging, "--out", "two-of-three")
    assert one.code == 0
    assert "diverged: sam at step" in one.out
    refused(*SMOKE, *diverging, "--set", "gd-edge.lr=1e30", says=("every arm diverged", "sam at step"))


def test_a_run_with_too_few_checks_still_ends(undrawn, lowland):
    changes = ("--set", "steps=20", "--set", "check_every=20", "--set", "tol=0.05")
    outcome = lowland("run", "long2024/digits", *changes, "--out", "run")
    assert outcome.code == 0
    assert "too few checks" in outcome.out


def test_a_network_that_does_not_fit(refused, monkeypatch):
    def allocate(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8e17 bytes")

    monkeypatch.setattr("torch.nn.init.trunc_normal_", allocate)
    refused(*SMOKE, "--out", "run", says="out of memory")


def test_strict(undrawn, lowland, tmp_path):
    assert lowland(*SMOKE, "--out", "run", "--strict").code == 0
    path = tmp_path / "run/summary.json"
    summary = json.loads(path.read_text())
    summary["claims"][0]["passed"] = False
    path.write_text(json.dumps(summary))
    assert lowland(*SMOKE, "--out", "run").code == 0
    failed = lowland(*SMOKE, "--out", "run", "--strict")
    assert failed.code == 1
    assert "fails" in failed.out


def test_no_more_threads(refused, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("lowland.patience.Lines.start", start)
    refused("run", "long2024/digits", "--scale", "smoke", "--out", "run", says=("no more threads", "ulimit -u"))


def test_a_full_disk_loses_nothing(undrawn, lowland, tmp_path):
    ended = Command(*SMOKE, "--out", "run", setup=[(small_files,)], cwd=tmp_path).wait()
    said = [line for line in ended.err.splitlines() if line.startswith("lowland: ")]  # beside how far it was
    assert (ended.code, len(said)) == (2, 1), ended
    assert "checkpoint.pt" in said[0]
    assert "goes on where it stopped" in said[0]
    assert not list(tmp_path.rglob("*.part"))
    assert lowland(*SMOKE, "--out", "run").code == 0
    lowland(*SMOKE, "--out", "straight")
    records = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "straight")]
    assert records[0] == records[1]


@pytest.mark.slow
def test_killed_twice_it_ends_like_an_undisturbed_run(undrawn, lowland, tmp_path):
    long = ("run", "long2024/digits", "--set", "steps=60", "--set", "check_every=4", "--set", "tol=0.1", "--out")
    metrics = tmp_path / "run/metrics.jsonl"
    for records in (3, 25):  # kill it once it has recorded so many checks more
        run = Command(*long, "run", cwd=tmp_path, setup=[(save_every, 0.02)])
        until(lambda least=records: metrics.exists() and metrics.read_bytes().count(b"\n") >= least)
        run.kill()
        assert run.wait().code == -signal.SIGKILL
    assert lowland(*long, "run").code == 0
    assert lowland(*long, "straight").code == 0
    whole, expected = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "straight"))
    assert whole == expected


def test_help_has_an_example(lowland):
    for command in (
        ("list",),
        ("show",),
        ("run",),
        ("evaluate",),
        ("sweep",),
        ("data", "status"),
        ("data", "fetch"),
        ("data", "verify"),
        ("data",),
    ):
        outcome = lowland(*command, "--help")
        assert outcome.code == 0
        assert "Example: " in outcome.out
    assert "torchrun --nproc-per-node 2 -m lowland run" in lowland("run", "--help").out


def test_data_commands(lowland, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWLAND_DATA", str(tmp_path / "data"))
    status = lowland("data", "status")
    assert status.code == 0
    assert "mnist" in status.out
    assert "missing" in status.out
    one = lowland("data", "status", "mnist").out
    assert "mnist" in one
    assert "cifar" not in one
    assert lowland("data", "verify", "digits").out.strip() == "digits: fine"
    missing = lowland("data", "verify", "mnist")
    assert missing.code == 2
    assert "mnist" in missing.out


def test_run_as_json_is_the_summary_and_nothing_else(undrawn, lowland, tmp_path):
    outcome = lowland(*SMOKE, "--out", "run", "--json")
    assert outcome.code == 0
    there = json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))
    assert json.loads(outcome.out) == there
    assert {"reference", "decided_by"} <= set(there["claims"][0])
    again = lowland(*SMOKE, "--out", "run", "--json")
    assert json.loads(again.out) == there


def test_show_as_json(lowland):
    shown = json.loads(lowland("show", "andriushchenko2022/cifar10", "--json").out)
    assert shown["settings"]["lr"]["at"]["paper"] == {"value": 0.1, "origin": "paper", "note": ""}
    assert list(shown["cost"]) == ["smoke", "laptop", "desk", "paper"]
    claim = next(claim for claim in shown["claims"] if claim["id"] == "sam-beats-erm")
    assert claim["reference"] == {"value": -0.0085, "where": "figure 1, read by eye"}
    assert claim["decided_by"] == "desk"
    assert set(json.loads(lowland("show", "long2024/digits", "--scale", "desk", "--json").out)["cost"]) == {"desk"}
