"""A row of the table that a summary says beside its claims."""

from collections.abc import Mapping
from dataclasses import dataclass

from lowland.training.statistics import estimate
from lowland.values import Json


@dataclass(frozen=True)
class TableRow:
    """A row of an experiment's table: runs of one kind over several seeds.

    Attributes:
        name: of the kind.
        runs: seed → label of the run.
        measures: name → seed → value; a seed without a finite value is left out.
    """

    name: str
    runs: Mapping[int, str]
    measures: Mapping[str, Mapping[int, float]]

    def entry(self) -> dict[str, Json]:
        """For a summary: of each measure the mean, its standard error, n, and the value of each seed."""
        return {
            "name": self.name,
            "runs": dict(self.runs),
            "measures": {
                name: {**found.entry(), "by_seed": dict(values)}
                for name, values in self.measures.items()
                if (found := estimate(list(values.values()))) is not None
            },
        }
