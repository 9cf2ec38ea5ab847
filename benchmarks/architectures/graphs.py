"""Networks of graphs, as PyTorch Geometric's layers compute: all nodes of a batch, and the edges between them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.case import CLASSES, Batch, Case, cross_entropy
from architectures.data import VOCABULARY, generator, lengths

WIDTH, LONGEST = 8, 6
WRITTEN = "written out"


def graphs(size: int, number: int) -> Batch:
    """Random graphs: kinds of nodes, which are there, edges in both directions, and classes."""
    seeded = generator(number)
    there = torch.arange(LONGEST) < lengths(size, number, LONGEST)[:, None]
    edges = torch.rand(size, LONGEST, LONGEST, generator=seeded) < 0.4
    edges = (edges | edges.mT) & there[:, None] & there[:, :, None]
    nodes = torch.randint(VOCABULARY, (size, LONGEST), generator=seeded)
    return {"nodes": nodes, "there": there, "edges": edges, "y": torch.randint(CLASSES, (size,), generator=seeded)}


def of_graphs(model: nn.Module, batch: Batch) -> Tensor:
    """All graphs' nodes one behind the other, as PyTorch Geometric collates them."""
    there, (graph, source, target) = batch["there"], batch["edges"].nonzero().T
    number = (there.flatten().cumsum(0) - 1).view_as(there)
    edges = torch.stack([number[graph, source], number[graph, target]])
    owners = torch.arange(len(there)).repeat_interleave(there.sum(1))
    return cross_entropy(model(batch["nodes"][there], edges, owners, len(there)), batch["y"])


class Isomorphism(nn.Module):
    """A layer of GIN (Xu et al. 2019, equation 4.1): a perceptron of (1 + ε) · a node and the sum of its neighbours."""

    def __init__(self):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.layers = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        return self.layers((1 + self.eps) * x + torch.zeros_like(x).index_add(0, target, x[source]))


class Attention(nn.Module):
    """A layer of GAT (Veličković et al. 2018, equations 1 to 4), of one head: neighbours weighted by a soft-max."""

    def __init__(self):
        super().__init__()
        self.layer, self.of_source, self.of_target = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        x = self.layer(x)
        scores = F.leaky_relu(self.of_source(x)[source] + self.of_target(x)[target], 0.2).exp()
        total = torch.zeros_like(x[:, :1]).index_add(0, target, scores)
        weights = scores / total[target]
        return torch.zeros_like(x).index_add(0, target, weights * x[source])


class Graphs(nn.Module):
    """Two layers of ``kind`` with layer norm, and the mean over each graph's nodes."""

    def __init__(self, kind: type[nn.Module]):
        super().__init__()
        self.table, self.last = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.layers = nn.ModuleList(kind() for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, nodes: Tensor, edges: Tensor, owners: Tensor, count: int) -> Tensor:
        x = self.table(nodes)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + norm(layer(x, edges)).relu()
        total = x.new_zeros(count, WIDTH).index_add(0, owners, x)
        return self.last(total / owners.bincount(minlength=count)[:, None])


CASES = (
    Case("GIN, layer norm", WRITTEN, lambda: Graphs(Isomorphism), graphs, of_graphs),
    Case("GAT", WRITTEN, lambda: Graphs(Attention), graphs, of_graphs),
)
