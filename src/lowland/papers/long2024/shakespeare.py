"""Characters of Shakespeare in minibatches, a Transformer (Long & Bartlett 2024)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.data import TextPieces, consecutive, load
from lowland.models import Transformer
from lowland.papers.long2024 import PAPER
from lowland.papers.long2024 import settings as common
from lowland.papers.long2024.check import HeldOut
from lowland.papers.long2024.claims import claims
from lowland.papers.long2024.figures import FIGURES
from lowland.papers.long2024.task import task
from lowland.training import Experiment, Task, ours, paper, setting

SYMBOLS = 128  # ASCII
FITTED = 1.6  # nats per character, that gradient descent must get to before a claim says something (ours)


@dataclass(frozen=True, kw_only=True)
class Settings(common.Settings):
    """The paper's settings, with the sizes of batch and network."""

    batch_size: int = setting("windows in a minibatch", low=1)
    length: int = setting("characters in a window", low=1)
    layers: int = setting("blocks of the Transformer", low=1)
    width: int = setting("of the residual stream; the feed-forward layers have four times as much", low=1)
    heads: int = setting("attention heads", low=1)
    key_size: int = setting("of each head", low=1)


def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy per character; 0 is padding and doesn't count."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)


def prepare(settings: Settings, device: torch.device) -> Task:
    """Pieces of the training text, those of a step drawn from seed and step alone; the test text's at the end."""
    text = load("tinyshakespeare")
    batch = TextPieces(text.train.inputs.to(device), settings.length, settings.batch_size, settings.seed)
    assert text.test is not None
    tested = consecutive(text.test.inputs.to(device), settings.length + 1)
    held_out = HeldOut(tested[:, :-1], tested[:, 1:], tested[:, 1:], settings.batch_size)
    model = Transformer(
        SYMBOLS, settings.length, settings.layers, settings.width, settings.heads, settings.key_size
    ).to(device)  # fmt: skip
    return task(model, loss_fn, batch, settings, held_out)


EXPERIMENT = Experiment(
    name="long2024/shakespeare",
    title="Characters of Shakespeare in minibatches, Transformer",
    paper=PAPER,
    datasets=("tinyshakespeare",),
    settings=Settings,
    scales={
        "paper": {
            **common.VALUES,
            "lr": paper(0.5, "the largest η of the grid: the shortest way to the edge"),
            "steps": ours(200_000, "the paper trains 12 hours on a V100"),
            "check_every": ours(
                1000, "the authors' code checks by the clock, as often as it is told; by default never"
            ),
            "batch_size": paper(128),
            "length": paper(64),
            "layers": paper(6),
            "width": paper(128),
            "heads": paper(8),
            "key_size": paper(32),
        },
        "desk": {
            "steps": ours(5000, "gradient descent gets to a training loss below 1.6"),
            "check_every": ours(100),
            "layers": ours(2),
            "width": ours(64),
            "heads": ours(4),
        },
        "laptop": {
            "steps": ours(2000),
            "check_every": ours(50),
            "batch_size": ours(16),
            "layers": ours(2),
            "width": ours(64),
            "heads": ours(4),
        },
        "smoke": {
            "steps": ours(4),
            "check_every": ours(2),
            "batch_size": ours(2),
            "length": ours(8),
            "layers": ours(1),
            "width": ours(8),
            "heads": ours(2),
            "key_size": ours(4),
        },
    },
    arms={"sam": {}, "gd": {"rho": 0.0}},
    grid={"lr": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5), "rho": common.RHOS},
    claims=claims(None, fitted=FITTED),
    figures=FIGURES,
    cost={
        "paper": "about 2 hours, one H100 (estimated)",
        "desk": "an hour, 1 core (measured)",
        "laptop": "2 to 4 minutes, 1 core (measured)",
        "smoke": "seconds",
    },
    prepare=prepare,
    selection=common.SELECTION,
    outcomes=common.OUTCOMES,
)
