"""Imported once, in the process that all others are forked from: what every command of the campaign needs."""

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import scipy.special  # noqa: F401 - its OpenBLAS never ends where it is loaded into too little memory
import torch
import torch._dynamo

import lowland.cli
import lowland.commands
import lowland.experiments.sweeping
import lowland.training.measuring
import lowland.training.vectorized  # noqa: F401
from lowland import papers, report, training
from tests.hostile.victim import EXPERIMENT

torch.set_num_threads(1)
papers.experiments()
with TemporaryDirectory() as folder:  # fonts, and what torch loads when it first trains
    arms = EXPERIMENT.configure("paper", {"steps": 1, "pause": 0})
    config = training.configuration(EXPERIMENT, "paper", arms, torch.device("cpu"))
    with training.RunDirectory(Path(folder, "run"), config) as directory:
        trained = training.train(EXPERIMENT, arms, directory, torch.device("cpu"), show_progress=False)
        report.draw_run(directory.figures, EXPERIMENT, trained)
        training.summarize(EXPERIMENT, config, trained, torch.device("cpu"))
assert matplotlib.get_backend()
