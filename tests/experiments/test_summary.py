"""Summaries as tables: Markdown and LaTeX."""

from lowland.experiments import Summary

CLAIM = {
    "id": "a_b", "text": "ρ & η: |x| < 1", "measured": 0.123456, "threshold": "<= 0.5", "passed": True,
    "reason": "", "reference": {"value": 5.15, "where": "figure 1"},
}  # fmt: skip
RUN = Summary(
    config={"arms": {"sam": {}, "gd": {}}},
    metrics={
        "sam": {"status": "done", "step": 10, "epoch": 1.0, "loss": 0.25, "error": None, "train_seconds": 1.0},
        "gd": {"status": "diverged", "diverged_at": 3},
    },
    claims=[CLAIM, {**CLAIM, "id": "open", "passed": None, "reference": None, "measured": None}],
)


def test_a_run_without_a_table_has_its_last_records():
    assert RUN.to_markdown().splitlines() == [
        "| arm | loss |",
        "| --- | --- |",
        "| sam | 0.25 |",
        "| gd (diverged at step 3) |  |",
        "",
        "| claim | what it says | measured (95 % interval) | in the paper | holds if | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
        r"| a_b | ρ & η: \|x\| < 1 | 0.1235 | 5.15 (figure 1) | <= 0.5 | holds |",
        r"| open | ρ & η: \|x\| < 1 |  |  | <= 0.5 | undecided |",
    ]
    assert RUN.to_markdown(["error", "loss"]).splitlines()[0] == "| arm | error | loss |"


def test_a_sweeps_claims_say_where_the_verdict_is_and_where_else_they_hold():
    more = {"interval_95": [0.1, 0.2], "at": {"text": "rho = 0.1 (selected)"}, "over_grid": "holds at 1 of 2 points"}
    text = Summary(RUN | {"claims": [{**CLAIM, **more}]}).to_markdown()
    assert "| 0.1235 (0.1 to 0.2) |" in text
    assert "| verdict | at | over the grid |" in text
    assert text.endswith("| holds | rho = 0.1 (selected) | holds at 1 of 2 points |")


def test_latex_is_escaped():
    lines = RUN.to_latex().splitlines()
    assert lines[:3] == [r"\begin{tabular}{ll}", r"  \toprule", r"  arm & loss \\"]
    assert r"  a\_b & $\rho$ \& $\eta$: $|$x$|$ $<$ 1 & 0.1235 & 5.15 (figure 1) & $<$= 0.5 & holds \\" in lines
    assert lines[-1] == r"\end{tabular}"


def test_a_run_with_a_table_has_that():
    estimate = {"mean": 0.5, "standard_error": 0.0123, "n": 3}
    table = [{"name": "sam", "runs": {str(k): f"sam-{k}" for k in range(3)}, "measures": {"test_error": estimate}}]
    (results,) = Summary(RUN | {"table": table, "claims": []}).tables()
    assert (results.columns, results.rows) == (["", "seeds", "test_error"], [["sam", "3", "0.5 ± 0.012"]])
    assert r"0.5 $\pm$ 0.012" in Summary(RUN | {"table": table, "claims": []}).to_latex()


def test_the_seeds_of_a_row_are_those_behind_its_means():
    runs, means = {"0": "a", "1": "b", "2": "c"}, {"x": {"mean": 1.0, "standard_error": 0.1, "n": 2}}
    run = Summary(RUN | {"table": [{"name": "sam", "runs": runs, "measures": means}], "claims": []})
    assert run.tables()[0].rows == [["sam", "2 of 3", "1 ± 0.1"]]
    means |= {"y": {"mean": 2.0, "standard_error": 0.1, "n": 3}}
    assert run.tables()[0].rows[0][1] == "2 to 3 of 3"
    assert run.tables(["y"])[0].rows[0][1] == "3"
    entry = {"settings": {"rho": 0.1}, "runs": list(runs), "metrics": means}
    swept = Summary(config={"sweep": True}, settings=[entry], selection={"selected": None}, claims=[])
    assert [swept.tables([name])[0].rows[0][1] for name in ("x", "y")] == ["2 of 3", "3"]


def test_a_sweep_has_its_settings_and_which_was_selected():
    entries = [
        {
            "settings": {"lr": 0.1, "rho": rho},
            "runs": ["a", "b"],
            "metrics": {"loss": {"mean": rho, "standard_error": None}, "other": {"mean": 1, "standard_error": 0}},
        }
        for rho in (0.0, 0.1)
    ]
    selection = {"metric": "loss", "selected": {"lr": 0.1, "rho": 0.1}, "test": {"metric": None}}
    swept = Summary(config={"sweep": True}, settings=entries, selection=selection, claims=[])
    (results,) = swept.tables()
    assert results.columns == ["lr", "rho", "runs", "loss", ""]
    assert list(results.rows) == [["0.1", "0", "2", "0", ""], ["0.1", "0.1", "2", "0.1", "selected"]]
    assert swept.tables(["other"])[0].rows[0][3] == "1 ± 0"
    entries[0]["settings"] = {"lr": 0.123456789, "rho": 0.1}  # as they are, to be set again
    assert swept.tables()[0].rows[0][:2] == ["0.123456789", "0.1"]
    unselected = {"rule": None, "selected": None, "reason": "none"}
    assert Summary(swept | {"selection": unselected}).tables()[0].columns[3:5] == ["loss", "other"]
