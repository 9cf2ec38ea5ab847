"""What fine-tuning puts around frozen weights, and layers that are rare elsewhere; written out, as PEFT computes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from architectures.case import CLASSES, Batch, Case, cross_entropy
from architectures.data import VOCABULARY, images, tokens
from architectures.images import classified

WIDTH, RANK = 12, 3


class Dora(nn.Module):
    """A frozen linear layer with a change of low rank, rows scaled to lengths of their own (Liu et al. 2024)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5, requires_grad=False)
        self.down, self.up = (
            nn.Parameter(torch.randn(RANK, inputs) / inputs**0.5),
            nn.Parameter(torch.randn(outputs, RANK) / 9),
        )
        self.lengths = nn.Parameter(self.frozen.norm(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.frozen + self.up @ self.down
        return F.linear(x, self.lengths * weight / weight.norm(dim=1, keepdim=True))


class LowRankWords(nn.Module):
    """A frozen embedding with a change of low rank (Hu et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Embedding(VOCABULARY, WIDTH).requires_grad_(False)
        self.words, self.up = nn.Embedding(VOCABULARY, RANK), nn.Linear(RANK, WIDTH, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.frozen(ids) + self.up(self.words(ids))
        return found


class Adapted(nn.Module):
    """Words of low rank, a DoRA layer at each, and a class."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(LowRankWords(), Dora(WIDTH, WIDTH), nn.GELU(), Dora(WIDTH, CLASSES))

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.net(ids).mean(1)
        return logits


class Prompted(nn.Module):
    """A frozen Transformer behind learnt words (Lester et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 3, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.requires_grad_(False)
        self.prompt, self.head = nn.Parameter(torch.randn(4, WIDTH) / 4), nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        prompt = self.prompt.expand(len(ids), -1, -1)
        logits: Tensor = self.head(self.encoder(torch.cat([prompt, self.words(ids)], 1))[:, 0])
        return logits


class Bags(nn.Module):
    """The mean of a text's words, with itself in a bilinear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.pairs = nn.EmbeddingBag(VOCABULARY, WIDTH), nn.Bilinear(WIDTH, WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        bag = self.bag(ids)
        logits: Tensor = self.pairs(bag, bag.tanh())
        return logits


def upsampling() -> nn.Module:
    """Convolutions with weight norm, to fewer pixels and back by transposed ones."""
    return nn.Sequential(
        weight_norm(nn.Conv2d(3, 6, 3, 2, 1)), nn.GELU(), nn.ConvTranspose2d(6, 4, 2, 2), nn.GELU(),
        nn.ConvTranspose2d(4, CLASSES, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def of_words(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch["ids"]), batch["y"])


CASES = (
    Case("DoRA, words by LoRA", "written out", Adapted, tokens(), of_words),
    Case("prompt tuning", "torch `nn.TransformerEncoder`", Prompted, tokens(), of_words),
    Case("bags of words, bilinear", "torch `nn.EmbeddingBag`", Bags, tokens(), of_words),
    Case("transposed convolutions, weight norm", "torch `nn.ConvTranspose2d`", upsampling, images(8), classified),
)
