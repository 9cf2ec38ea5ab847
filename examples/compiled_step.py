"""The whole step compiled as one graph, where the network is so small that Python takes most of the time.

Run it: python examples/compiled_step.py
"""

import time

import torch
from torch.nn import functional as F

from common import batches, network, report
from lowland import SAM
from lowland.optim import compiled_step  # compiles with torch.compile(

model = network()
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05)
step = compiled_step(optimizer, model, F.cross_entropy)  # does what optimizer.step(closure) does
report("before", model)

for epoch in range(10):
    started = time.perf_counter()
    for x, y in batches(epoch):
        loss = step(x, y)
    print(f"epoch {epoch}: loss {loss:.4f}, {1e3 * (time.perf_counter() - started):.1f} ms")  # the first one compiles

report("after", model)
