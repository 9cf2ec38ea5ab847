"""One loop, its run directory, and what an experiment has to say to be run by it."""

from lowland.training import registry
from lowland.training.claims import Claim, Reference, Verdict
from lowland.training.description import description, read_description, write_description
from lowland.training.drawing import Bars, Curve, Figure, Level, Line, Panel, Plot, banded, chance, over_seeds
from lowland.training.environment import choose_device
from lowland.training.experiment import SCALES, Experiment
from lowland.training.files import read_json, read_records
from lowland.training.outcome import Outcome, Record
from lowland.training.own import defaults
from lowland.training.parallel import Alone, world
from lowland.training.run import train
from lowland.training.run_directory import RunDirectory
from lowland.training.selection import Selection
from lowland.training.settings import Settings, derived, ours, paper, parse_assignments, repeats, setting
from lowland.training.summary import configuration, summarize
from lowland.training.supervised import misclassified, supervised
from lowland.training.table_row import TableRow
from lowland.training.task import Snapshot, Task, Together

__all__ = [
    "SCALES",
    "Alone",
    "Bars",
    "Claim",
    "Curve",
    "Experiment",
    "Figure",
    "Level",
    "Line",
    "Outcome",
    "Panel",
    "Plot",
    "Record",
    "Reference",
    "RunDirectory",
    "Selection",
    "Settings",
    "Snapshot",
    "TableRow",
    "Task",
    "Together",
    "Verdict",
    "banded",
    "chance",
    "choose_device",
    "configuration",
    "defaults",
    "derived",
    "description",
    "misclassified",
    "ours",
    "over_seeds",
    "paper",
    "parse_assignments",
    "read_description",
    "read_json",
    "read_records",
    "registry",
    "repeats",
    "setting",
    "summarize",
    "supervised",
    "train",
    "world",
    "write_description",
]
