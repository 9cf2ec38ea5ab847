"""The table of a sweep reads back as what was written."""

import csv
import json
import math

from hypothesis import given
from hypothesis import strategies as st

from lowland.training import Outcome, defaults
from lowland.training.settings import checked
from lowland.training.sweep.table import write_table

from .grids import SETTINGS, grid, run

USUAL = {"lr": 0.1, "rho": 0.05, "steps": 4, "seed": 0, "seeds": 1, "status": "odd"}


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_run_in_the_order_of_the_grid(tmp_path):
    def value(seed, lr):
        if (seed, lr) == (1, 0.1):
            return {"diverged_at": 7, "loss": math.nan, "seconds": {"train_seconds": 0.25}}
        if (seed, lr) == (1, 0.2):
            return {"error": 'no, "really": out of memory', "steps": ()}
        return {"loss": lr / 3 + seed, "extra": seed == 0, "seconds": {"train_seconds": 1.5, "check_seconds": 1e-9}}

    arms = grid(value, seed=[0, 1], lr=[0.2, 0.1])
    arms["odd"] = run(stopped_at=20, late=3, loss=None)
    write_table(tmp_path / "results.csv", arms, ("seed", "lr"))
    rows = read(tmp_path / "results.csv")
    assert [row["run"] for row in rows] == ["seed=0,lr=0.2", "seed=0,lr=0.1", "seed=1,lr=0.2", "seed=1,lr=0.1", "odd"]
    assert list(rows[0]) == [
        "run", "seed", "lr", "rho", "steps", "check_every", "size", "noisy", "kind",
        "status", "diverged_at", "stopped_at", "error", "step", "loss", "extra", "late", "train_seconds",
        "check_seconds",
    ]  # fmt: skip
    assert [row["status"] for row in rows] == ["done", "done", "failed", "diverged", "stopped"]
    first, _, failed, diverged, stopped = rows
    assert (float(first["loss"]), first["extra"], first["late"], first["noisy"]) == (0.2 / 3, "True", "", "True")
    assert float(first["check_seconds"]) == 1e-9
    assert (failed["error"], failed["loss"], failed["train_seconds"]) == ('no, "really": out of memory', "", "")
    assert (diverged["diverged_at"], diverged["loss"], diverged["train_seconds"]) == ("7", "", "0.25")
    assert (stopped["stopped_at"], stopped["loss"], stopped["late"]) == ("20", "", "3")


def test_names_that_settings_and_records_share_stay_apart(tmp_path):
    write_table(tmp_path / "results.csv", {"a": run(lr=0.5)}, ("lr",))
    (row,) = read(tmp_path / "results.csv")
    assert (row["lr"], row["last_lr"]) == (repr(SETTINGS.lr), "0.5")


def test_a_setting_called_like_a_column_hides_no_run(tmp_path):
    settings = checked(defaults(**USUAL, run=3), {**USUAL, "run": 7})
    write_table(tmp_path / "results.csv", {"run=7": Outcome(settings, [{"step": 4, "loss": 0.5}])}, ("run",))
    (row,) = read(tmp_path / "results.csv")
    assert (row["run"], row["setting_run"], row["status"], row["setting_status"]) == ("run=7", "7", "done", "odd")


def test_a_cell_holds_one_value_and_curves_have_files_of_their_own(tmp_path):
    def value(seed):
        return {"loss": 0.5, "lorenz_real": [0.0, 0.1 + seed, math.nan]} if seed < 2 else {"loss": 1.5}

    arms = grid(value, seed=[0, 1, 2]) | {"odd": run(lorenz_real=None, parts={"a": [1]})}
    write_table(tmp_path / "results.csv", arms, ("seed",))
    rows = read(tmp_path / "results.csv")
    assert "lorenz_real" not in rows[0]
    assert "parts" not in rows[0]
    assert [row["loss"] for row in rows] == ["0.5", "0.5", "1.5", ""]
    assert not any("[" in cell or "{" in cell for row in rows for cell in row.values())
    curves = {path.name: json.loads(path.read_text()) for path in (tmp_path / "curves").iterdir()}
    assert curves == {
        "lorenz_real.json": {"seed=0": [0.0, 0.1, None], "seed=1": [0.0, 1.1, None]},
        "parts.json": {"odd": {"a": [1]}},
    }


def test_no_runs_are_a_table_without_rows(tmp_path):
    write_table(tmp_path / "results.csv", {}, ("lr", "rho"))
    assert (tmp_path / "results.csv").read_text() == "run,lr,rho\n"


@given(values=st.lists(st.one_of(st.floats(), st.integers(), st.none()), min_size=1, max_size=5))
def test_numbers_round_trip(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "results.csv"
    record = {f"m{number}": value for number, value in enumerate(values)}
    write_table(path, {"a": Outcome(SETTINGS, [{"arm": "a", **record}])}, ())
    (row,) = read(path)
    for name, value in record.items():
        if value is None or not math.isfinite(value):
            assert row[name] == ""
        else:
            assert type(value)(row[name]) == value
