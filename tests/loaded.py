"""Imported once, in the process that others are forked from (`tests.forked`): what commands and trainings need."""

import gc
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import scipy.special  # noqa: F401 - its OpenBLAS never ends where it is loaded into too little memory
import torch
import torch._dynamo
import torch.distributed.fsdp
import torch.distributed.tensor.parallel

import lowland.cli
import lowland.commands
import lowland.experiments.sweeping
import lowland.training.measuring
import lowland.training.vectorized  # noqa: F401
from lowland import papers, report, training
from tests.fakes import VICTIM

torch.set_num_threads(1)
papers.experiments()
with TemporaryDirectory() as folder:  # fonts, and what torch loads when it first trains
    arms = VICTIM.configure("paper", {"steps": 1, "pause": 0})
    config = training.configuration(VICTIM, "paper", arms, torch.device("cpu"))
    with training.RunDirectory(Path(folder, "run"), config) as directory:
        trained = training.train(VICTIM, arms, directory, torch.device("cpu"), show_progress=False)
        report.draw_run(directory.figures, VICTIM, trained)
        training.summarize(VICTIM, config, trained, torch.device("cpu"))
assert matplotlib.get_backend()
gc.freeze()  # what is loaded stays: neither looked through for cycles nor, by that, copied into each process
