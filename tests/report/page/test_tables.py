"""The experiment's own table: shown once."""

from dataclasses import replace

from lowland.report.page.groups import columns_of, groups_of
from lowland.report.page.reading import read_source
from lowland.report.page.tables import table_of
from lowland.training import TableRow

from . import made


def table(tmp_path, shift):
    """Of a run whose experiment makes a table of its arms' last losses, ``shift`` added."""

    def rows(outcomes):
        return [
            TableRow(arm, {0: arm}, {"loss": {0: one.records[-1]["loss"] + shift}}) for arm, one in outcomes.items()
        ]

    source = read_source(made.run(tmp_path, made.arms(), experiment=replace(made.EXPERIMENT, table=rows)))
    return table_of(source, groups_of([source], ["run"]), columns_of([source]))


def test_a_table_that_says_more_than_the_results_is_shown(tmp_path):
    found = table(tmp_path, 1.0)
    assert found.heads == ["seeds", "loss"]
    assert found.rows == [["sam", "1", "1.108"], ["plain", "1", "1.135"]]


def test_a_table_that_says_the_results_again_is_not(tmp_path):
    assert table(tmp_path, 0.0) is None
