"""How a sweep finds the best settings of a grid."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """How the best settings of a grid are found: the lowest mean over the seeds of a final metric.

    Attributes:
        metric: the column of the records that is to be small.
        on: what data it is measured on: ``"validation"``, or ``"training"`` where an experiment holds nothing out.
            Never test data.
        ties: the column that decides between equals.
        test: the column that is reported of the selected settings, and by which nothing is selected.

    Raises:
        ValueError: for other data, or a column whose name says that it is of test data.
    """

    metric: str
    on: str
    ties: str | None = None
    test: str | None = None

    def __post_init__(self) -> None:
        """Refuse to select by test data."""
        if self.on not in ("validation", "training"):
            raise ValueError(f"settings are selected on validation or training data, not on {self.on!r}")
        for column in (self.metric, self.ties or ""):
            if column.lower().startswith("test"):
                raise ValueError(f"{column} is of test data, by which nothing may be selected")
