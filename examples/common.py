"""What the examples share: real data, a small network, a report. None of it is about SAM."""

import os
from functools import cache

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from lowland.data import load, shuffled_batches, split_validation

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cuda":
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))  # torchrun: a device for each process


@cache
def digits():
    """Handwritten digits, four fifths to train and one to test: pixels 0 to 1 (n, 64) and labels (n,) of each."""
    train, test = split_validation(load("digits").train.to(DEVICE), fraction=0.2)
    return [(part.inputs.flatten(1) / 16, part.targets) for part in (train, test)]


def batches(epoch, size=128):
    """One epoch of whole batches in an order that depends on ``epoch`` alone; your data loader."""
    (x, y), _ = digits()
    for chosen in shuffled_batches(len(x), size, torch.Generator().manual_seed(epoch)):
        if len(chosen) == size:
            yield x[chosen.to(DEVICE)], y[chosen.to(DEVICE)]


def network(seed=0):
    """A small network, always with the same weights; your model."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 100), nn.ReLU(),
        nn.Linear(100, 100), nn.ReLU(),
        nn.Linear(100, 10),
    ).to(DEVICE)  # fmt: skip


@torch.no_grad()
def report(label, model):
    """Print the loss on the training set and the accuracy on the test set."""
    (x, y), (test_x, test_y) = digits()
    training = model.training
    model.eval()
    loss = F.cross_entropy(model(x), y).item()
    accuracy = (model(test_x).argmax(1) == test_y).float().mean().item()
    model.train(training)
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(f"{label}: training loss {loss:.4f}, test accuracy {accuracy:.3f}")
