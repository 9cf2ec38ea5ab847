"""A small experiment file, as a user writes one, for tests: regression on data of its own."""

TEXT = '''
"""Logistic regression on two clouds."""

import torch
from lowland.training import Experiment, defaults, supervised

generator = torch.Generator().manual_seed(0)
x = torch.randn(200, 4, generator=generator)
y = (x.sum(1) > 0).long()


def build(settings):
    layers = torch.nn.Linear(4, settings.width), torch.nn.Dropout(0.2), torch.nn.Linear(settings.width, 2)
    model = torch.nn.Sequential(*layers)
    return supervised(model, settings, (x[:120], y[:120]), test=(x[120:], y[120:]))


MINE = Experiment(
    build=build,
    settings=defaults(lr=0.1, rho=0.05, batch_size=20, epochs=4, examples=108, width=3),
    grid={"rho": (0.0, 0.1)},
)
'''

#: A network of the user's own, to stand in such a file or a notebook.
NET = """class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, width), torch.nn.Linear(width, 2)

    def forward(self, x):
        return self.second(self.first(x).relu())
"""


def write(folder, text=TEXT, name="mine.py"):
    """Write an experiment file into ``folder``; its path."""
    path = folder / name
    path.write_text(text)
    return path
