"""Hessian norm, SAM edge and sharpness of a training, measured as it goes; and drawn.

Run it: python examples/monitor.py
"""

import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

from common import digits, network, report
from lowland import SAM
from lowland.curvature import Monitor
from lowland.report import draw_monitor

model = network()
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.3), rho=0.1, model=model)
(x, y), _ = digits()
report("before", model)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "sharpness.jsonl")
    monitor = Monitor(optimizer, model, F.cross_entropy, [(x, y)], every=25, max_overhead=0.25, m=128, to=path)
    for _ in range(300):
        for evaluation in optimizer.passes():
            with evaluation:
                F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if monitor.step():
            print(f"step {monitor.steps}: {monitor.line}")  # or set_postfix_str(monitor.line) of your bar
    monitor.check()
    figures = draw_monitor(path, folder, title="digits")

last = monitor.records[-1]
print(f"{len(monitor.records)} checks took {monitor.seconds:.2f} s, {100 * monitor.overhead:.0f} % of the time")
print(f"loss {last['loss']:.4f}, {last['m_sharpness']:.4f} higher where groups of 128 climb by rho")
print("drawn:", ", ".join(figure.name for figure in figures))
report("after", model)
