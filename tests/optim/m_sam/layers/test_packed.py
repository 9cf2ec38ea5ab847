"""Recurrent layers over packed sequences against the loop by definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from ..against_the_definition import assert_by_the_loop, assert_silent, check, optimizer_of
from ..networks import rand
from .test_recurrent import KINDS

LENGTHS = [2, 5, 1, 5, 3]


def made(kind, **options):
    torch.manual_seed(0)
    return nn.ModuleDict({"first": nn.Linear(3, 3), "layer": KINDS[kind](3, 4, **options)}).double()


def packed(model, x, lengths, first=True):
    """The sequences of ``x``, ``(examples, times, 3)``, with what the first layer makes of them if it is to count."""
    y = model["first"](x).tanh() if first else x
    batch_first = model["layer"].batch_first
    in_order = sorted(lengths, reverse=True) == lengths
    return pack_padded_sequence(y if batch_first else y.transpose(0, 1), lengths, batch_first, enforce_sorted=in_order)


def of_all(model, found):
    """Losses of all that the layer gives."""
    out, ends = found
    dim = 0 if model["layer"].batch_first else 1
    out = pad_packed_sequence(out, dim == 0, padding_value=0.5)[0].movedim(dim, 0)
    ends = torch.cat(ends, -1) if isinstance(ends, tuple) else ends
    return out.square().mean((1, 2)) + ends.sin().mean((0, 2))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    m=st.integers(1, 6),
    kind=st.sampled_from(sorted(KINDS)),
    layers=st.integers(1, 2),
    both=st.booleans(),
    batch_first=st.booleans(),
    computed=st.booleans(),
    in_order=st.booleans(),
)
def test_any_lengths(lengths, m, kind, layers, both, batch_first, computed, in_order):
    lengths = sorted(lengths, reverse=True) if in_order else lengths
    model = made(kind, num_layers=layers, bidirectional=both, batch_first=batch_first)
    x = rand(len(lengths), max(lengths), 3)
    assert_silent(model, lambda: of_all(model, model["layer"](packed(model, x, lengths, computed))), m, audit=False)


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("computed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_with_the_audit(kind, computed, m):
    model, x = made(kind), rand(5, 5, 3)
    assert_silent(model, lambda: of_all(model, model["layer"](packed(model, x, LENGTHS, computed))), m)


@pytest.mark.parametrize("computed", [True, False])
def test_each_batch_has_its_own_lengths(computed):
    model = made("lstm", num_layers=2, bidirectional=True)
    optimizer = optimizer_of(model, 2, audit=False)
    batches = [LENGTHS, [5, 4, 4, 2, 1], [1, 5, 2, 3, 5], [1] * 5, [4, 4, 4, 4], [5, 1, 1, 5, 4], LENGTHS[::-1]]
    for lengths in batches:
        x = rand(len(lengths), max(lengths), 3)
        losses = lambda x=x, n=lengths: of_all(model, model["layer"](packed(model, x, n, computed)))  # noqa: E731
        assert not check(model, optimizer, losses, 2)
        assert optimizer.last is not None


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "bias": False}], ids=str)
def test_projected_states(options, m):
    model, x = made("lstm", proj_size=2, **options), rand(5, 5, 3)
    losses = lambda: of_all(model, model["layer"](packed(model, x, LENGTHS)))  # noqa: E731
    assert_silent(model, losses, m)
    model["layer"].weight_hh_l0.requires_grad_(False)
    assert_silent(model, losses, m, memory_limit=1, perturbed_norms=True)
    model["layer"].weight_hr_l0.requires_grad_(False)
    assert_silent(model, losses, m)


def test_dropout_between_layers():
    model, x = made("gru", num_layers=3, dropout=0.5), rand(5, 5, 3)

    def losses():
        torch.manual_seed(3)
        return of_all(model, model["layer"](packed(model, x, LENGTHS)))

    assert_silent(model, losses, 2)


class Starting(nn.Module):
    """With states of ``start`` before the first time."""

    def __init__(self, kind, start, lengths):
        super().__init__()
        self.parts, self.start, self.lengths = made(kind, num_layers=2), start, lengths
        self.learnt = nn.Parameter(rand(2, 1, 4))
        self.each = nn.Parameter(rand(2, 5, 4))
        self.of_input = nn.Linear(3, 8).double()
        self.given = rand(2, 5, 4)

    def forward(self, x):
        start = {
            "learnt": lambda: self.learnt.expand(-1, len(x), -1),
            "learnt for each place": lambda: self.each,
            "of the examples": lambda: self.of_input(x.mean(1)).unflatten(1, (-1, 4)).transpose(0, 1),
            "data": lambda: self.given,
        }[self.start]()
        layer = self.parts["layer"]
        states = (start, start.tanh()) if isinstance(layer, nn.LSTM) else start
        return of_all(self.parts, layer(packed(self.parts, x, self.lengths), states))


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("start", ["learnt", "learnt for each place", "of the examples", "data"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_first_states(kind, start, in_order):
    lengths = sorted(LENGTHS, reverse=True) if in_order else LENGTHS
    model, x = Starting(kind, start, lengths), rand(5, 5, 3)
    for m in (1, 2):
        assert_silent(model, lambda: model(x), m)


@pytest.mark.parametrize("kind", KINDS)
def test_in_parts_with_norms_and_frozen_weights(kind):
    model, x = made(kind, bidirectional=True), rand(5, 5, 3)
    model["layer"].weight_ih_l0.requires_grad_(False)
    model["layer"].bias_hh_l0_reverse.requires_grad_(False)
    losses = lambda: of_all(model, model["layer"](packed(model, x, LENGTHS)))  # noqa: E731
    assert_silent(model, losses, 2, memory_limit=1, perturbed_norms=True)


def test_what_torch_gives_for_padded_ones():
    """``total_length``, lengths and padding of what is unpacked in sight of the passes."""
    model, x, seen = made("gru", batch_first=True), rand(5, 5, 3), []

    def losses():
        found = model["layer"](packed(model, x, LENGTHS))[0]
        out, lengths = pad_packed_sequence(found, True, -1.0, total_length=7)
        seen.append((out.detach().clone(), lengths, out.stride()))
        return out[torch.arange(5), lengths - 1].square().sum(1)

    assert_silent(model, losses, 1, audit=False)
    plain = pad_packed_sequence(model["layer"](packed(model, x, LENGTHS))[0], True, -1.0, total_length=7)
    for out, lengths, stride in seen[:2]:
        torch.testing.assert_close(out, plain[0].detach())
        assert torch.equal(lengths, plain[1])
        assert stride == plain[0].stride()


def test_packed_before_the_step():
    model, x = made("lstm", batch_first=True), rand(5, 5, 3)
    before = packed(model, x, LENGTHS, first=False)
    assert_silent(model, lambda: model["layer"](before)[1][0][-1].square().sum(1), 1)


def test_words_packed_before_they_are_embedded():
    model, words = made("gru", batch_first=True), torch.arange(25).view(5, 5) % 7
    model["words"] = nn.Embedding(7, 3).double()
    before = pack_padded_sequence(words, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)

    def losses():
        rows = model["first"](model["words"](before.data)).tanh()
        return of_all(model, model["layer"](before._replace(data=rows)))

    assert_silent(model, losses, 2)


def test_a_loss_for_each_row():
    model, x = made("lstm", batch_first=True), rand(5, 5, 3)
    targets = packed(model, (x[..., :1] > 0).long()[..., 0] + 1, LENGTHS, first=False).data

    def losses():
        out = model["layer"](packed(model, x, LENGTHS))[0]
        each = F.cross_entropy(model["first"](out.data[:, :3]), targets, reduction="none")
        return pad_packed_sequence(out._replace(data=each), batch_first=True)[0].sum(1)

    assert_silent(model, losses, 1)


def test_several_sequences_for_each_example():
    model, x = made("gru", batch_first=True), rand(6, 5, 3)
    lengths = [2, 5, 1, 3, 3, 4]

    def losses():
        out = model["layer"](packed(model, x, lengths))[1][-1]
        return out.square().unflatten(0, (3, 2)).sum((1, 2))

    assert_silent(model, losses, 1)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("computed", [True, False])
def test_activation_checkpoints(computed, reentrant):
    model, x = made("lstm", bidirectional=True), rand(5, 5, 3).requires_grad_()
    run = lambda x: of_all(model, model["layer"](packed(model, x, LENGTHS, computed)))  # noqa: E731
    assert_silent(model, lambda: checkpoint(run, x, use_reentrant=reentrant), 2)


def test_two_orders_of_as_many_rows():
    model, x = made("lstm"), rand(5, 5, 3)
    packs = [packed(model, x, lengths, first=False) for lengths in (LENGTHS, LENGTHS[::-1])]
    assert_silent(model, lambda: sum(of_all(model, model["layer"](input=pack)) for pack in packs), 1)


def test_sizes_that_torch_does_not_take_are_an_error_in_later_batches_too():
    model, x = made("gru"), rand(5, 5, 3)
    optimizer = optimizer_of(model, 1, audit=False)

    def losses(turned):
        out = model["layer"](packed(model, x, [5, 3, 2, 2, 1], first=False))[0]
        sizes = out.batch_sizes.flip(0) if turned else out.batch_sizes
        return pad_packed_sequence(PackedSequence(out.data, sizes))[0].sum((0, 2))

    optimizer.backward(lambda: losses(False))
    assert optimizer.last is not None
    for call in (lambda: losses(True), lambda: optimizer.backward(lambda: losses(True))):
        with pytest.raises(RuntimeError):
            call()


def rolled(model, x):
    its = packed(model, x, LENGTHS)
    return its._replace(data=its.data.roll(1, 0))


def mixed_by_time(model, x):
    its = packed(model, x, LENGTHS)
    return its._replace(data=its.data - its.data.mean(0))


def of_other_sequences(model, x):
    """Packed rows under the sizes of others."""
    its = packed(model, x, LENGTHS)
    return its._replace(batch_sizes=torch.tensor([5, 5, 3, 2, 1]))


def not_put_back(model, x):
    """Losses in the order of lengths."""
    its = packed(model, x, LENGTHS)
    return PackedSequence(its.data, its.batch_sizes)


def of_sizes_that_depend(model, x):
    """On the parameters, though they are what they were."""
    its = packed(model, x, LENGTHS)
    return its._replace(batch_sizes=its.batch_sizes + (model["first"](x).sum() > 1e6).long())


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("use", [of_sizes_that_depend, rolled, mixed_by_time, of_other_sequences, not_put_back])
def test_rows_that_are_not_one_examples(use, m):
    model, x = made("gru", batch_first=True), rand(5, 5, 3)
    assert_by_the_loop(model, lambda: of_all(model, model["layer"](use(model, x))), m, audit=False)


def test_lengths_that_depend_on_the_parameters():
    model, x = made("gru", batch_first=True), rand(5, 5, 3)

    def losses():
        y = model["first"](x)
        lengths = (y[:, 0, 0].abs() * 10).long() % 5 + 1
        return of_all(model, model["layer"](pack_padded_sequence(y, lengths, True, enforce_sorted=False)))

    assert_by_the_loop(model, losses, 1, audit=False)
