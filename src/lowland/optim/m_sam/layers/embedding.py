"""Embeddings: a row of the weight for each token."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.gradients import Built, Piece
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.registry import rule
from lowland.optim.m_sam.rows import over
from lowland.optim.m_sam.rule import AtPerturbed, AtW, Rule, Use


@rule(F.embedding)
class Embedding(Rule):
    """The gradient of a group is, for each token in it, the sum of those at its positions."""

    arguments: ClassVar = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    defaults: ClassVar = {
        "padding_idx": None, "max_norm": None, "norm_type": 2.0, "scale_grad_by_freq": False, "sparse": False,
    }  # fmt: skip
    parameters: ClassVar = ("weight",)

    def refuses(self, use: Use) -> str | None:
        """Refuse options by which gradients depend on all examples together."""
        for name in ("max_norm", "scale_grad_by_freq", "sparse"):
            if use.arguments[name]:
                raise NotCovered(f"an embedding with {name} has no gradient for each group")
        return None

    def first(self, use: Use, watch: AtW) -> Tensor:
        """The plain embedding, whose output gradients are taken up."""
        return watch.tap(use, use.run(weight=use.weight.detach()), use.input)

    def pieces(self, use: Use, activations: Tensor, output_gradients: Tensor, groups: Groups) -> dict[str, Piece]:
        """A table for each group."""
        symbols, width = use.weight.shape
        d = output_gradients.reshape(-1, width)
        if use.padding_idx is not None:
            d = d.masked_fill((activations == use.padding_idx % symbols).view(-1, 1), 0)
        stack = d.new_zeros(groups.count * symbols, width).index_add_(
            0, keys(activations, symbols, groups).flatten(), d
        )
        return {"weight": Built(stack.view(groups.count, symbols, width), owned=True)}

    def perturbed(self, use: Use, watch: AtPerturbed) -> Tensor:
        """The plain embedding, and what the table of the group adds."""
        table = watch.constant(use.weight)
        own = F.embedding(keys(use.input, len(use.weight), watch.groups), table.flatten(0, 1))
        return use.run() + (own - F.embedding(use.input, use.weight.detach()))


def keys(tokens: Tensor, symbols: int, groups: Groups) -> Tensor:
    """Tokens as rows of the tables of all groups, one below the other."""
    of_rows = groups.of_rows(len(tokens), tokens.device) * symbols
    return tokens + over(of_rows, tokens.ndim)
