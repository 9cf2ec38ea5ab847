"""The page of recorded runs says what is there."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent.parent / "results"


def load(name):
    """A script of that folder, as a module."""
    spec = importlib.util.spec_from_file_location(name, RESULTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_index():
    return load("make_index")


def test_the_index_is_up_to_date(make_index):
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == make_index.index()


def test_recorded_runs_are_of_the_settings_that_the_experiments_have_now(make_index):
    from lowland.papers import experiments
    from lowland.training.settings import values_of

    recorded = list(RESULTS.glob("*/summary.json"))
    assert recorded
    for path in recorded:
        summary = json.loads(path.read_text(encoding="utf-8"))
        experiment = experiments()[summary["experiment"]]
        assert [claim["id"] for claim in summary["claims"]] == [claim.id for claim in experiment.claims], path
        if summary["config"].get("sweep"):
            assert make_index.grid_of(summary) is not None, path
            continue
        dataset = make_index.dataset_of(summary)
        changes = {"seed": str(summary["seed"])} | ({"dataset": dataset} if dataset else {})
        arms = experiment.configure(summary["scale"], changes)
        assert {name: values_of(arm) for name, arm in arms.items()} == summary["config"]["arms"], path
        drawn = {figure.name for figure in experiment.figures}
        if all(getattr(arm, "eigenvalues", 0) == 1 for arm in arms.values()):
            drawn -= {"eigenvalues"}  # of one eigenvalue there is the Hessian norm's figure
        for name in drawn:
            assert (path.parent / f"{name}.png").exists(), path.parent / name


def test_a_record_shows_the_marks_that_its_claims_have_now(make_index):
    """Whose threshold is ours is in a claim's text, and may be said after the run."""
    from lowland.papers import find

    there = RESULTS / "andriushchenko2022-diagonal-desk"
    shown = make_index.section(there)
    ours = [claim.text for claim in find("andriushchenko2022/diagonal").claims if "threshold ours" in claim.text]
    assert ours
    assert [text for text in ours if text not in shown] == []


@pytest.fixture
def swept(tmp_path):
    """A sweep of a small grid of the digits, as its directory has it once it is finished."""
    from lowland.experiments import sweeping
    from lowland.papers import find
    from lowland.training import Outcome, RunDirectory, choose_device
    from lowland.training.sweep.summary import summarize_sweep

    experiment, device = find("long2024/digits"), choose_device("cpu")
    base = sweeping.base_settings(experiment, "desk", {})
    grid = sweeping.choose_grid(experiment, "paper", base, {})
    arms = {}
    for label, at in grid.points.items():
        record = {"step": at.steps, "loss": 0.1, "hessian_norm": 1.0 - at.rho * (1 + at.seed / 100)}
        arms[label] = Outcome(at, [record], 7 if at.lr == 1.0 and at.rho == 0.3 else None, {"train_seconds": 1.0})
    with RunDirectory(tmp_path / "sweep", sweeping.configuration(experiment, "desk", base, device)) as directory:
        config = directory.config | {"grid": sweeping._described(grid), "halving": None}
        judged = replace(experiment, claims=())
        summary = summarize_sweep(judged, config, arms, grid.varied, device, 9.0)
        made = {"measured": None, "threshold": "<= 1", "passed": None, "reason": "made up", "text": "A statement"}
        summary["claims"] = [{"id": claim.id, "source": "", **made} for claim in experiment.claims]
        directory.figures.mkdir()
        (directory.figures / "differences.png").touch()
        directory.conclude(summary)
    return tmp_path / "sweep"


def test_a_sweep_is_recorded_with_its_grid_and_differences(make_index, swept, tmp_path, monkeypatch):
    monkeypatch.setattr(make_index, "HERE", tmp_path / "results")
    (tmp_path / "results").mkdir()
    make_index.record(swept)
    there = tmp_path / "results/long2024-digits-sweep-paper-desk"
    assert sorted(path.name for path in there.iterdir()) == ["differences.png", "summary.json"]
    text = make_index.section(there)
    assert "`lowland sweep long2024/digits --grid paper --scale desk`" in text
    assert "48 runs, 4 seeds, 4 diverged." in text
    assert "No setting is other than at our paper scale; " in text  # the digits' desk is
    assert text.count("| below |") == 8  # of nine points with ρ > 0, one of which diverged


def test_a_course_is_recorded_where_it_is_short(make_index, swept, tmp_path, monkeypatch):
    monkeypatch.setattr(make_index, "HERE", tmp_path / "results")
    there = tmp_path / "results/long2024-digits-sweep-paper-desk"
    there.mkdir(parents=True)
    course = swept / "metrics.jsonl"
    for size, kept in ((make_index.SHORT + 1, False), (make_index.SHORT, True)):
        course.write_bytes(b"x" * size)
        make_index.record(swept)
        assert (there / course.name).exists() == kept


def test_last_values_are_printed_by_kind_of_arm(monkeypatch, capsys):
    """ERM and SAM of two seeds: SAM's own values, their difference of two columns, and what is paired."""
    last = load("last")
    arms = {f"{kind}-{seed}": {"seed": seed} for kind in ("erm", "sam") for seed in (0, 1)}
    ends = zip(arms, ((0.5, 0.1), (0.7, 0.1), (0.4, 0.1), (0.0, 0.0)), strict=True)
    metrics = {label: {"status": "done", "test_error": a, "train_error": b} for label, (a, b) in ends}
    summary = {"config": {"arms": arms}, "metrics": metrics}
    assert last.by_kind(summary, "test_error") == {"erm": {0: 0.5, 1: 0.7}, "sam": {0: 0.4, 1: 0.0}}
    assert last.by_kind(summary, "test_error-train_error")["sam"] == pytest.approx({0: 0.3, 1: 0.0})
    metrics["sam-1"]["status"] = "diverged"
    assert last.by_kind(summary, "test_error")["sam"] == {0: 0.4}
    swept = {f"seed={seed},rho={rho},m=2": metrics["erm-0"] for rho in (0, 0.1) for seed in (0, 1)}
    found = last.by_kind({"config": {"sweep": True}, "metrics": swept}, "test_error")
    assert found == {kind: {0: 0.5, 1: 0.5} for kind in ("rho=0,m=2", "rho=0.1,m=2")}
    monkeypatch.setattr("sys.argv", ["last.py", "andriushchenko2022-late-desk", "test_error"])
    last.main()
    [line] = [line for line in capsys.readouterr().out.splitlines() if " last-tenth:" in line]
    assert line.endswith("0 of 5 zero; less the first -0.00172 (-0.002391 to -0.001049)")


def test_what_is_finished_of_a_sweep_is_kept_without_its_networks(make_index, swept, tmp_path, monkeypatch):
    from lowland.experiments import sweeping
    from lowland.papers import find
    from lowland.training.description import description
    from lowland.training.settings import values_of

    experiment = find("long2024/digits")
    grid = sweeping.choose_grid(experiment, "paper", sweeping.base_settings(experiment, "desk", {}), {})
    about = description(experiment, "desk", grid.points, sweeping._described(grid))
    (swept / "about.json").write_text(json.dumps(about), encoding="utf-8")
    for (label, at), ended in zip(grid.points.items(), ({"step": 3}, None), strict=False):
        run = swept / "runs" / label
        run.mkdir(parents=True)
        (run / "checkpoint.pt").write_bytes(b"a network")
        (run / "metrics.jsonl").write_text(json.dumps({"arm": label, "step": 3}) + "\n")
        (run / "config.json").write_text(json.dumps({"arms": {label: values_of(at)}}))
        (run / "ended.json").write_text(json.dumps({label: ended} if ended else {}))
    monkeypatch.setattr(make_index, "KEPT", tmp_path / "under-way")
    make_index.keep(swept)
    name = "long2024-digits-sweep-paper-desk"
    [kept] = (tmp_path / "under-way" / name / "runs").iterdir()
    assert kept.name == next(iter(grid.points))
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "ended.json", "metrics.jsonl"]
    row = f"`lowland sweep long2024/digits --grid paper --scale desk --out runs/{name}` | 1 of 48 |"
    assert row in make_index._under_way()[0]


def test_what_a_record_has_other_than_the_paper_scale_is_told(make_index):
    from lowland.experiments import sweeping
    from lowland.papers import find
    from lowland.training.settings import values_of

    def of_run(name, scale, changes=()):
        arms = find(name).configure(scale, dict(changes))
        config = {"arms": {label: values_of(arm) for label, arm in arms.items()}}
        return make_index._unlike_the_paper({"experiment": name, "scale": scale, "config": config})

    assert of_run("andriushchenko2022/relu", "desk").startswith("No setting is other than at our paper scale; ")
    assert of_run("long2024/mnist", "desk") == (
        "Other than at paper scale: `steps` 3,000 for 100,000, `examples` 1,000 for 60,000."
    )
    told = of_run("andriushchenko2022/finetune", "desk", {"dataset": "cifar-100"})
    assert "`epochs` 33 for 1,100" in told
    assert "`width` 8 for 64" in told
    assert "dataset" not in told
    experiment = find("andriushchenko2022/cifar10")
    base = sweeping.base_settings(experiment, "desk", {})
    grid = sweeping.choose_grid(experiment, "m-desk", base, {})
    config = {"sweep": True, "settings": values_of(base), "grid": sweeping._described(grid)}
    told = make_index._unlike_the_paper({"experiment": experiment.name, "scale": "desk", "config": config})
    assert "`examples` 1,000 for 50,000" in told
    assert "`epochs` 100 for 200" in told
    assert "norm" not in told


def test_a_run_that_was_judged_by_other_claims_is_refused(make_index, swept):
    path = swept / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**summary, "claims": summary["claims"][1:]}), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"remove its summary\.json and run the same command"):
        make_index.record(swept)
