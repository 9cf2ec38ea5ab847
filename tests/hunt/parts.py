"""What programs are made of: modules and parameters by name, and functions of one's own."""

import re


def shapes(text: str, c: int, t: int) -> str:
    """Sizes in the place of C and T."""
    return re.sub(r"\bT\b", str(t), re.sub(r"\bC\b", str(c), text))


#: In ``Net.__init__``.
MODULES = {
    # parameters used directly
    "w": "net.w = nn.Parameter(torch.randn(C, C))",
    "v": "net.v = nn.Parameter(torch.randn(C))",
    "u": "net.u = nn.Parameter(torch.randn(T, C))",
    "c": "net.c = nn.Parameter(torch.randn(C, C, C))",
    "s": "net.s = nn.Parameter(torch.randn(()))",
    "q": "net.q = nn.Parameter(torch.randn(4, C))",
    "experts": "net.experts = nn.ParameterList([torch.randn(C, C), torch.randn(C, C)])",
    # linear
    "lin": "net.lin = nn.Linear(C, C)",
    "lin2": "net.lin2 = nn.Linear(C, C, bias=False)",
    "up": "net.up = nn.Linear(C, 2 * C)",
    "time": "net.time = nn.Linear(T, T)",
    "bil": "net.bil = nn.Bilinear(C, C, C)",
    "tied": "net.lin3 = nn.Linear(C, C)\nnet.tied = nn.Linear(C, C)\nnet.tied.weight = net.lin3.weight",
    "lin3": "net.lin3 = nn.Linear(C, C) if not hasattr(net, 'lin3') else net.lin3",
    "frozen": "net.frozen = nn.Linear(C, C).requires_grad_(False)",
    "late": "net.late = nn.Linear(C, C)",
    "spectral": "net.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(C, C))",
    "wn": "net.wn = nn.utils.parametrizations.weight_norm(nn.Linear(C, C))",
    "skew": "net.skew = nn.Linear(C, C)\nnn.utils.parametrize.register_parametrization(net.skew, 'weight', Skew())",
    "inplace": "net.inplace = nn.Sequential(nn.Linear(C, C), nn.ReLU(inplace=True), nn.Linear(C, C))",
    # convolutions
    "conv": "net.conv = nn.Conv1d(C, C, 3, padding=1)",
    "conv1": "net.conv1 = nn.Conv1d(C, C, 1)",
    "dw": "net.dw = nn.Conv1d(C, C, 3, padding=2, dilation=2, groups=C)",
    "circ": "net.circ = nn.Conv1d(C, C, 3, padding=1, padding_mode='circular')",
    "conv2": "net.conv2 = nn.Conv2d(C, C, 3, padding=1)",
    "patch": "net.patch = nn.Conv2d(C, C, 2, stride=2)",
    "up2": "net.up2 = nn.ConvTranspose1d(C, C, 3, padding=1)",
    # embeddings
    "emb": "net.emb = nn.Embedding(8, C)",
    "pad": "net.pad = nn.Embedding(8, C, padding_idx=0)",
    "pos": "net.pos = nn.Embedding(T, C)",
    "bag": "net.bag = nn.EmbeddingBag(8, C)",
    "sums": "net.sums = nn.EmbeddingBag(8, C, mode='sum', padding_idx=0)",
    "many": "net.many = nn.Embedding(99, C)",
    # norms and activations
    "ln": "net.ln = nn.LayerNorm(C)",
    "ln2": "net.ln2 = nn.LayerNorm([T, C])",
    "rms": "net.rms = nn.RMSNorm(C)",
    "gn": "net.gn = nn.GroupNorm(1, C)",
    "inorm": "net.inorm = nn.InstanceNorm1d(C, affine=True)",
    "bn": "net.bn = nn.BatchNorm1d(C)",
    "prelu": "net.prelu = nn.PReLU()",
    "prelus": "net.prelus = nn.PReLU(C)",
    "drop": "net.drop = nn.Dropout(0.3)",
    # attention and recurrence
    "mha": "net.mha = nn.MultiheadAttention(C, 1, batch_first=True)",
    "mhat": "net.mhat = nn.MultiheadAttention(C, 1)",
    "gru": "net.gru = nn.GRU(C, C, batch_first=True)",
    "grut": "net.grut = nn.GRU(C, C)",
    "lstm": "net.lstm = nn.LSTM(C, C, batch_first=True)",
    "lstms": "net.lstms = nn.LSTM(C, C, 2, bidirectional=True)",
    "cell": "net.cell = nn.GRUCell(C, C)",
    "rnn": "net.rnn = nn.RNNCell(C, C)",
    "enc": "net.enc = nn.TransformerEncoderLayer(C, 1, 2 * C, dropout=0.0, batch_first=True)",
    # state
    "mean": "net.register_buffer('mean', torch.zeros(C))",
    "count": "net.register_buffer('count', torch.zeros(()))",
    "queue": "net.register_buffer('queue', torch.ones(4, C))",
}

#: Defined above ``Net``, where a program has their names.
FUNCTIONS = {
    "routed": """
def routed(x, mask, layer):
    at = torch.where(mask)[0]
    return x.index_add(0, at, layer(x[at]))
""",
    "packed": """
def packed(x, layer, between=lambda rows: rows, in_order=False):
    examples, times = x.shape[:2] if layer.batch_first else x.shape[1::-1]
    lengths = torch.arange(7, 7 + 3 * examples, 3) % times + 1
    if in_order:
        lengths = lengths.sort(descending=True).values
    rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, layer.batch_first, in_order)
    out, ends = layer(rows._replace(data=between(rows.data)))
    out = out._replace(data=between(out.data[:, : x.shape[2]]))
    out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, layer.batch_first, 0.5, times)
    ends = ends[0] if isinstance(ends, tuple) else ends
    return out + ends[-1].unsqueeze(1 if layer.batch_first else 0).sum(-1, keepdim=True)
""",
    "Skew": """
class Skew(nn.Module):
    def forward(self, w):
        return w.triu() - w.triu(1).mT
""",
    "Cube": """
class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, d):
        return 3 * d * ctx.saved_tensors[0] ** 2
""",
    "Centered": """
class Centered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, d):
        return d - d.mean(0)
""",
    "Clipped": """
class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, d):
        return d / (1 + d.norm())
""",
    "expert_linear": "from lowland.optim.m_sam import expert_linear",
    "checkpoint": "from torch.utils.checkpoint import checkpoint",
}
