"""Recurrent networks over packed sequences."""

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from architectures.case import CLASSES, Batch, Case, cross_entropy, over_tokens
from architectures.data import PADDING, VOCABULARY, tokens

WIDTH = 12


class Classifier(nn.Module):
    """Words through an LSTM in both directions; its last states tell the class."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH, PADDING)
        self.lstm = nn.LSTM(WIDTH, WIDTH, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.words(ids), lengths, batch_first=True, enforce_sorted=False)
        _, (ends, _) = self.lstm(packed)
        logits: Tensor = self.head(ends[-2:].transpose(0, 1).flatten(1))
        return logits


class Tagger(nn.Module):
    """Words that are packed first through a GRU; a class for each."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.gru = nn.GRU(WIDTH, WIDTH)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(ids, lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.gru(packed._replace(data=self.words(packed.data)))
        out = out._replace(data=self.head(self.norm(out.data)))
        return pad_packed_sequence(out, batch_first=True, total_length=ids.shape[1])[0]


def classified(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch["ids"], batch["mask"].sum(1)), batch["y"])


def tagged(model: nn.Module, batch: Batch) -> Tensor:
    return over_tokens(model(batch["ids"], batch["mask"].sum(1)), batch["targets"], batch["mask"])


CASES = (
    Case("LSTM, both directions, packed", "torch `nn.LSTM`", Classifier, tokens(), classified),
    Case("GRU, words packed", "torch `nn.GRU`", Tagger, tokens(), tagged),
)
