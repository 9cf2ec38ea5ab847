"""Embeddings: a row of the weight for each token."""

import inspect
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.gradients import FLOPS_PER_NUMBER, Built, Factors, Piece, pair_squares
from lowland.optim.m_sam.groups import Groups
from lowland.optim.m_sam.perturbation import Perturbation
from lowland.optim.m_sam.refusals import NotCovered
from lowland.optim.m_sam.registry import composed, rule
from lowland.optim.m_sam.rows import over
from lowland.optim.m_sam.rule import AtPerturbed, AtW, Rule, Use
from lowland.optim.m_sam.watched import Caller, Derived
from lowland.values import Args, Function, Kwargs, Tree


@rule(F.embedding)
class Embedding(Rule):
    """The gradient of a group is, for each token in it, the sum of those at its positions."""

    arguments: ClassVar = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    defaults: ClassVar = {
        "padding_idx": None, "max_norm": None, "norm_type": 2.0, "scale_grad_by_freq": False, "sparse": False,
    }  # fmt: skip
    parameters: ClassVar = ("weight",)
    by_row = True

    def refuses(self, use: Use) -> str | None:
        """Refuse options by which gradients depend on all examples together."""
        for name in ("max_norm", "scale_grad_by_freq", "sparse"):
            if use.arguments[name]:
                raise NotCovered(f"an embedding with {name} has no gradient for each group")
        return None

    def leading(self, use: Use) -> int:
        """All dimensions of the words."""
        return use.input.ndim

    def first(self, use: Use, watch: AtW) -> Tensor:
        """The plain embedding, whose output gradients are taken up."""
        return watch.tap(use, use.run(weight=use.weight.detach()), use.input)

    def pieces(self, use: Use, activations: Tensor, output_gradients: Tensor, groups: Groups) -> dict[str, Piece]:
        """The gradients at the words that were seen, or where those are many a table for each group."""
        symbols = len(use.weight)
        words, d = (t.reshape(groups.size, -1, *t.shape[activations.ndim :]) for t in (activations, output_gradients))
        if use.padding_idx is not None:
            d = d.masked_fill((words == use.padding_idx % symbols).unsqueeze(-1), 0)
        found = Words(words, d, symbols)
        return {"weight": found if found.pays(groups) else found.build(groups, use.weight.shape)}

    def perturbed(self, use: Use, watch: AtPerturbed) -> Tensor:
        """The plain embedding, and what the table of the group adds."""
        found, tokens, groups = watch.factors(use.weight), use.input, watch.groups
        if found is not None:
            return use.run() + _added(found, tokens, use.weight.detach(), groups)
        table = watch.constant(use.weight)
        own = F.embedding(keys(tokens, len(use.weight), groups), table.flatten(0, 1))
        return use.run() + (own - F.embedding(tokens, use.weight.detach()))


class Words(Factors):
    """Those of an embedding: the output gradient of a position is its own, of the word's row alone; no table is made.

    Args:
        words: ``(examples, positions)``.
        gradients: at the rows that they picked, ``(examples, positions, width)``.
        symbols: how many rows the table has.
    """

    def __init__(self, words: Tensor, gradients: Tensor, symbols: int):
        self.words, self.activations, self.symbols = words, gradients, symbols

    @property
    def output_gradients(self) -> Tensor:  # type: ignore[override]
        """One at the word and zero elsewhere, ``(examples, positions, symbols)``, for what is rarely asked for."""
        return F.one_hot(self.words, self.symbols).to(self.activations.dtype)

    def __add__(self, other: Factors) -> Factors:
        if isinstance(other, Words):
            words = torch.cat([self.words, other.words], 1)
            return Words(words, torch.cat([self.activations, other.activations], 1), self.symbols)
        return super().__add__(other)

    @property
    def positions(self) -> int:
        """How many positions an example has."""
        return self.words.shape[1]

    @property
    def held(self) -> int:
        """How many bytes are kept for the second pass."""
        return sum(t.numel() * t.element_size() for t in (self.words, self.activations))

    def cost(self, groups: Groups, memory: bool = True) -> float:
        """As `Factors.cost`: products of the gradients, twice, and comparisons of all pairs of words."""
        r = self.positions * groups.m
        return float(groups.count * r * r * (4 * self.inputs + memory * 5 * FLOPS_PER_NUMBER))

    def built_cost(self, groups: Groups, memory: bool = True) -> float:
        """As `Factors.built_cost`: a table that is written and read five times."""
        return float(groups.count * self.symbols * self.inputs * (1 + memory * 5 * FLOPS_PER_NUMBER))

    def build(self, groups: Groups, shape: torch.Size) -> Built:
        """A table for each group."""
        d = self.activations.flatten(0, 1)
        stack = d.new_zeros(groups.count * self.symbols, shape[1])
        stack.index_add_(0, keys(self.words, self.symbols, groups).flatten(), d)
        return Built(stack.view(groups.count, *shape), owned=True)

    def squares(self, groups: Groups) -> Tensor:
        """As `Factors.squares`: of pairs of positions only those with the same word count."""
        found = []
        for words, d in zip(groups.split(self.words), groups.split(self.activations), strict=True):
            at = words.flatten(1, 2)
            found.append(pair_squares(d.flatten(1, 2), apart=at[:, :, None] != at[:, None, :]))
        return found[0] if len(found) == 1 else torch.cat(found)

    def dot(self, weight: Tensor, groups: Groups) -> Tensor:
        """The inner product of each group's gradient with the table, shape (groups,), float64."""
        rows = F.embedding(self.words, weight).to(self.activations.dtype)
        return groups.sums(rows.mul_(self.activations).sum((1, 2), dtype=torch.float64))

    def weighted(self, weights: Tensor, shape: torch.Size) -> Tensor:
        """Σ_j weights_j G_j, like the parameter; ``weights`` one for each example."""
        wide = torch.promote_types(self.activations.dtype, torch.float32)
        d = self.activations.to(wide) * weights.to(wide)[:, None, None]
        return d.new_zeros(shape).index_add_(0, self.words.flatten(), d.flatten(0, 1))


def _added(found: Perturbation, tokens: Tensor, table: Tensor, groups: Groups) -> Tensor:
    """What each group's ``found`` has beyond ``table``, at ``tokens``: ``(rows, ..., width)``."""
    factors, coefficients = found.factors, found.coefficients
    assert factors is not None
    assert coefficients is not None
    wide = torch.promote_types(factors.activations.dtype, torch.float32)
    parts, asked = [], tokens.reshape(groups.size, -1)
    for j, (a, words) in enumerate(zip(groups.split(factors.activations), groups.split(asked), strict=True)):
        at = words.flatten(1)
        if isinstance(factors, Words):
            d = (groups.split(factors.words)[j].flatten(1)[:, :, None] == at[:, None, :]).to(wide)
        else:
            d = groups.split(factors.output_gradients)[j].flatten(1, 2).to(wide)
            d = d.gather(2, at[:, None, :].expand(-1, d.shape[1], -1))
        c = groups.of_groups(coefficients)[j].to(wide)
        parts.append(torch.bmm(d.mT, a.flatten(1, 2).to(wide)).mul_(c[:, None, None]).view(*words.shape, -1))
    added = groups.join(parts).view(*tokens.shape, -1).to(table.dtype)
    if found.keeps is None:
        return added
    keeps = over(groups.spread(found.keeps - 1, len(tokens)).to(added), added.ndim)
    return added + keeps * F.embedding(tokens, table)


def keys(tokens: Tensor, symbols: int, groups: Groups) -> Tensor:
    """Tokens as rows of the tables of all groups, one below the other."""
    of_rows = groups.of_rows(len(tokens), tokens.device) * symbols
    return tokens + over(of_rows, tokens.ndim)


@composed(F.embedding)
def computed(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """Words looked up in a table that parameters give: in those of their groups, one below the other."""
    if not any(type(given) is Derived for given in (*args, *kwargs.values())):
        return NotImplemented
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    tokens, table, padding = (bound.arguments[name] for name in ("input", "weight", "padding_idx"))
    plain = not any(bound.arguments[name] for name in ("max_norm", "scale_grad_by_freq", "sparse"))
    if type(table) is not Derived or type(tokens) is not Tensor or not plain:
        return NotImplemented
    found = watch.looked_up(tokens, table, "embedding")
    if found is None:
        return NotImplemented
    # What stands at the place of padding gets no gradient.
    return found if padding is None else torch.where((tokens == padding % len(table))[..., None], found.detach(), found)


@composed(F.embedding_bag)
def bag(watch: Caller, func: Function, args: Args, kwargs: Kwargs) -> Tree:
    """An embedding, and the sum, the mean or the largest over the words of each row."""
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    tokens, weights, padding = given["input"], given["per_sample_weights"], given["padding_idx"]
    plain = not any(given[name] for name in ("max_norm", "scale_grad_by_freq", "sparse"))
    mode = given["mode"]
    if not plain or type(tokens) is not Tensor or tokens.ndim > 2 or not tokens.numel():
        return NotImplemented
    if weights is not None and type(weights) is not Tensor:
        return NotImplemented
    there = None
    if tokens.ndim == 1:
        at, there = _of_bags(given["offsets"], len(tokens), given["include_last_offset"])
        tokens, weights = tokens[at], None if weights is None else weights[at]
    table = given["weight"]
    words = watch.call(F.embedding, (tokens, table, padding), {})
    if type(words) is not Tensor:
        return NotImplemented
    at_words = torch.ones_like(tokens, dtype=torch.bool) if padding is None else tokens != padding % len(table)
    at_words = at_words if there is None else at_words & there
    if mode == "max":  # zero where there is no word
        largest = words.masked_fill(~at_words[..., None], -torch.inf).max(1).values
        return largest.masked_fill(~at_words.any(1, keepdim=True), 0)
    words = words * at_words.to(words.dtype)[..., None]
    if weights is not None:
        words = words * weights[..., None]
    total = words.sum(1)
    return total if mode == "sum" else total / at_words.sum(1, keepdim=True).clamp(min=1).to(total.dtype)


def _of_bags(offsets: Tensor, words: int, include_last: bool) -> tuple[Tensor, Tensor]:
    """Bags that begin at ``offsets`` filled up to as many words: the number of each, and whether it is there."""
    begins, ends = offsets, F.pad(offsets[1:], (0, 1), value=words)
    if include_last:
        begins, ends = offsets[:-1], offsets[1:]
    sizes = (ends - begins)[:, None]
    nth = torch.arange(max(int(sizes.max()), 1), device=offsets.device)
    return (begins[:, None] + nth).clamp(max=words - 1), nth < sizes
