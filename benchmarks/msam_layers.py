"""CPU seconds of m-SAM over those of plain SAM on the same batch, layer by layer, and of the loop where that is taken.

    python benchmarks/msam_layers.py [--only NAME ...] [--m 1 4 8] [--rounds 5] [--slices]

One thread, float32, random data, no base step to speak of. Each figure is the quotient of the least CPU time of several
steps, made in turn, which other processes on the machine disturb little. Where the loop is taken the second figure is
that of the loop over slices (`lowland.optim.m_sam.Sliced`), else there is none but with ``--slices``.
"""

import argparse
import time
import warnings

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lowland import SAM
from lowland.optim.m_sam import Sliced, expert_linear, routing
from lowland.optim.sam import backward_by_definition

WIDTH, TIMES, BATCH = 64, 32, 32


class First(nn.Module):
    """The first thing that a layer gives."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        out = self.layer(x)
        return out[0] if isinstance(out, tuple) else out


class Bilinear(nn.Module):
    """Two views of one hidden layer."""

    def __init__(self):
        super().__init__()
        self.first, self.layer = nn.Linear(WIDTH, WIDTH), nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def forward(self, x):
        h = self.first(x).tanh()
        return self.layer(h, h.cos())


class Packed(nn.Module):
    """Sequences of several lengths, without their padding."""

    def __init__(self):
        super().__init__()
        self.first, self.layer = nn.Linear(WIDTH, WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x):
        lengths = x[:, 0, 0].argsort() % TIMES + 1
        packed = pack_padded_sequence(self.first(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0].sum(1)


@routing
class Experts(nn.Module):
    """Each position goes to two of eight small networks."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, 8)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, WIDTH)) for _ in range(8)
        )

    def forward(self, x):
        rows = x.flatten(0, 1)
        weights, chosen = self.router(rows).softmax(-1).topk(2, -1)
        out = torch.zeros_like(rows)
        for i, expert in enumerate(self.experts):
            at, which = torch.where(chosen == i)
            out = out.index_add(0, at, expert(rows[at]) * weights[at, which, None])
        return (rows + out).view_as(x)


class Products(nn.Module):
    """The same, all experts in two products."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, 8)
        self.up = nn.Parameter(torch.randn(8, 4 * WIDTH, WIDTH) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(8, WIDTH, 4 * WIDTH) / (4 * WIDTH) ** 0.5)

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).topk(2, -1)
        rows = x.unsqueeze(-2).expand(*chosen.shape, WIDTH)
        inner = nn.functional.silu(expert_linear(rows, chosen, self.up))
        return x + (expert_linear(inner, chosen, self.down) * weights.unsqueeze(-1)).sum(-2)


class Unvouched(Experts):
    """`Experts` for which nobody vouches."""


def masked(first, last, x):
    """Rows that the parameters pick."""
    hidden = first(x).tanh()
    mask = hidden[:, 0] > 0
    return hidden.index_put((torch.where(mask)[0],), last(hidden[mask]))


#: What goes by the loop, from two layers and their input.
FORMS = {
    "two views, one behind the other": lambda first, last, x: sum(last(first(torch.cat([x, x.cos()]))).chunk(2)),
    "repeated, one behind the other": lambda first, last, x: sum(last(first(x).repeat(2, 1)).chunk(2)),
    "rows one by one": lambda first, last, x: torch.stack([last(row) for row in first(x)]),
    "rows that the parameters pick": masked,
}


class Written(nn.Module):
    """Two layers in one of `FORMS`."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.form(self.first, self.last, x)


class Graphs(nn.Module):
    """Two rounds of messages, in graphs of 4 to 32 nodes that lie one behind the other; each example is one graph."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        sizes = x[:, 0, 0].argsort() % (TIMES - 3) + 4
        nodes = torch.cat([own[:n] for own, n in zip(x, sizes.tolist(), strict=True)])
        owners = torch.arange(len(x)).repeat_interleave(sizes)
        starts = (sizes.cumsum(0) - sizes)[owners]
        place = torch.arange(len(nodes)) - starts
        to = starts + (place + 1) % sizes[owners]  # a ring
        for layer in (self.first, self.second):
            sent = layer(nodes)
            nodes = torch.zeros_like(sent).index_add(0, to, sent).add(sent).relu()
        return self.totals(nodes, sizes, owners)

    def totals(self, nodes, sizes, owners):
        return nodes.new_zeros(len(sizes), WIDTH).index_add(0, owners, nodes)


class SplitGraphs(Graphs):
    """The same, of which no operation says whose the nodes are."""

    def totals(self, nodes, sizes, owners):
        return torch.stack([own.sum(0) for own in nodes.split(sizes.tolist())])


class Mixtral(nn.Module):
    """Two layers of transformers' model, its eight experts as ``experts_implementation`` says."""

    def __init__(self, experts_implementation=None):
        super().__init__()
        from transformers import MixtralConfig, MixtralModel

        self.layer = MixtralModel(
            MixtralConfig(
                vocab_size=8,
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                experts_implementation=experts_implementation,
            )
        )

    def forward(self, x):
        return self.layer(inputs_embeds=x, use_cache=False).last_hidden_state


def encoder():
    return nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)


NETWORKS = {
    "LSTM": (lambda: First(nn.LSTM(WIDTH, WIDTH, batch_first=True)), (TIMES, WIDTH)),
    "LSTM, two layers, both directions": (
        lambda: First(nn.LSTM(WIDTH, WIDTH, 2, bidirectional=True, batch_first=True)),
        (TIMES, WIDTH),
    ),
    "LSTM with `proj_size` 32": (
        lambda: First(nn.LSTM(WIDTH, WIDTH, batch_first=True, proj_size=WIDTH // 2)),
        (TIMES, WIDTH),
    ),
    "GRU": (lambda: First(nn.GRU(WIDTH, WIDTH, batch_first=True)), (TIMES, WIDTH)),
    "bilinear": (Bilinear, (WIDTH,)),
    "transposed convolutions": (
        lambda: nn.Sequential(nn.ConvTranspose2d(16, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 8, 4, 2, 1)),
        (16, 8, 8),
    ),
    "weight norm, convolutions": (
        lambda: nn.Sequential(weight_norm(nn.Conv1d(WIDTH, WIDTH, 5)), weight_norm(nn.Conv1d(WIDTH, WIDTH, 5))),
        (WIDTH, 2 * TIMES),
    ),
    "weight norm, linear": (
        lambda: nn.Sequential(weight_norm(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), weight_norm(nn.Linear(WIDTH, WIDTH))),
        (WIDTH,),
    ),
    "spectral norm, convolutions": (
        lambda: nn.Sequential(spectral_norm(nn.Conv1d(WIDTH, WIDTH, 5)), spectral_norm(nn.Conv1d(WIDTH, WIDTH, 5))),
        (WIDTH, 2 * TIMES),
    ),
    "spectral norm, linear": (
        lambda: nn.Sequential(
            spectral_norm(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), spectral_norm(nn.Linear(WIDTH, WIDTH))
        ),
        (WIDTH,),
    ),
    "packed LSTM": (Packed, (TIMES, WIDTH)),
    "mixture of 8 experts": (Experts, (TIMES, WIDTH)),
    "graphs of several sizes": (Graphs, (TIMES, WIDTH)),
    "8 experts by `expert_linear`": (Products, (TIMES, WIDTH)),
    "Mixtral of two layers": (Mixtral, (TIMES, WIDTH)),
    "Mixtral, one by one": (lambda: Mixtral("eager"), (TIMES, WIDTH)),
    "Mixtral, batched": (lambda: Mixtral("batched_mm"), (TIMES, WIDTH)),
    "Transformer layer": (encoder, (TIMES, WIDTH)),
    "Transformer layer, compiled": (lambda: torch.compile(encoder()), (TIMES, WIDTH)),
    "graphs of several sizes, split": (SplitGraphs, (TIMES, WIDTH)),
    "mixture of 8 experts, nobody vouches": (Unvouched, (TIMES, WIDTH)),
} | {name: (lambda form=form: Written(form), (WIDTH,)) for name, form in FORMS.items()}


def seconds(steps, rounds):
    """Least CPU time of each of several steps, which are made in turn, after one more of each."""
    found = [[] for _ in steps]
    for _ in range(rounds + 1):
        for step, times in zip(steps, found, strict=True):
            began = time.process_time()
            step()
            times.append(time.process_time() - began)
    return [min(times[1:]) for times in found]


def figures(make, shape, m, rounds, slices):
    """Ratios to plain SAM: of m-SAM, and over slices where that is the loop or asked for; and plain SAM's seconds."""
    torch.manual_seed(0)
    model, x = make(), torch.randn(BATCH, *shape)
    base = torch.optim.SGD(model.parameters(), lr=0.0)
    plain = SAM(base, rho=0.05)

    def losses(rows):
        return model(x[rows]).flatten(1).square().mean(1)

    def closure():
        loss = losses(slice(0, BATCH)).mean()
        loss.backward()
        return loss

    optimizer, other = (
        SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.05, model=model, m=m, audit=False) for _ in range(2)
    )
    steps = [lambda: plain.step(closure), lambda: optimizer.step(lambda: losses(slice(0, BATCH)))]
    steps[1]()
    if slices or optimizer.last is None:
        steps.append(lambda: backward_by_definition(other, Sliced(losses, BATCH)))
    least, ours, *sliced = seconds(steps, rounds)
    return ours / least, sliced[0] / least if sliced else None, least


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="networks with this in their names")
    parser.add_argument("--m", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", action="store_true", help="the loop over slices beside the two passes, too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="m-SAM")
    for name, (make, shape) in NETWORKS.items():
        if not any(part.lower() in name.lower() for part in asked.only):
            continue
        cells = []
        for m in asked.m:
            ours, sliced, plain = figures(make, shape, m, asked.rounds, asked.slices)
            cells.append(f"{ours:.1f}" if sliced is None else f"{ours:.1f}, slices {sliced:.1f}")
        print(f"| {name} | " + " | ".join(cells) + f" |  plain SAM: {plain * 1e3:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
