"""A text in consecutive pieces, shuffled through a buffer: what each step gets, whatever step was asked for before."""

import pytest
import torch

from lowland.data import TextPieces, consecutive, load, seeded
from lowland.errors import SettingError


def numbered(pieces, length):
    """A text whose pieces of ``length`` characters say which they are: each is one number, repeated."""
    return torch.arange(pieces, dtype=torch.uint8).repeat_interleave(length)


def from_the_start(text, length, batch_size, seed, steps):
    """The same, read straight from the description: a list for the buffer, the text again and again."""
    pieces = consecutive(text, length + 1)
    pieces = pieces[: len(pieces) // batch_size * batch_size].tolist()
    buffer, following, batches = (pieces * 10)[: 10 * batch_size], 10 * batch_size, []
    for step in range(steps):
        places = torch.randint(10 * batch_size, (batch_size,), generator=seeded(seed, step)).tolist()
        batches.append([])
        for place in places:
            batches[-1].append(buffer[place])
            buffer[place] = pieces[following % len(pieces)]
            following += 1
    return torch.tensor(batches)


def test_pieces_are_consecutive_and_the_rest_is_left_out():
    cut = consecutive(torch.arange(100, 120, dtype=torch.uint8), 6)
    assert cut.dtype == torch.int64
    assert cut.tolist() == [list(range(100, 106)), list(range(106, 112)), list(range(112, 118))]


def test_batches_come_through_the_buffer_in_any_order_of_steps():
    text = torch.randint(1, 128, (500,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = from_the_start(text, 8, 2, seed=3, steps=200)
    pieces = TextPieces(text, 8, 2, seed=3)
    for step in (0, 1, 2, 2, 3, 60, 61, 199, 5, 5, 6, 0, 1):
        inputs, targets = pieces(step)
        assert torch.equal(inputs, expected[step, :, :-1])
        assert torch.equal(targets, expected[step, :, 1:])
    assert not torch.equal(TextPieces(text, 8, 2, seed=4)(0)[0], expected[0, :, :-1])


def test_the_text_comes_round_evenly_and_not_too_early():
    pieces = TextPieces(numbered(41, 4), 3, 2, seed=0)  # 20 batches; the 41st piece fills none
    drawn = torch.stack([pieces(step)[0][:, 0] for step in range(2000)])
    counts = drawn.flatten().bincount(minlength=41)
    assert counts[40] == 0
    assert (counts[:40] - 100).abs().max() <= 20  # the buffer's 20
    first = drawn.flatten().tolist().index(39)
    assert first >= 39 - 19  # the last piece can't come before it is in the buffer


def test_a_text_too_short_for_the_buffer():
    assert TextPieces(numbered(20, 4), 3, 2, seed=0)(0)[0].shape == (2, 3)
    with pytest.raises(SettingError, match="makes 9 batches of 2 windows of 3, and the buffer holds 10"):
        TextPieces(numbered(19, 4), 3, 2, seed=0)


@pytest.mark.data
def test_the_papers_text(data_root):
    if not (data_root / "tinyshakespeare").exists():
        pytest.skip("no tinyshakespeare under $LOWLAND_DATA")
    pieces = TextPieces(load("tinyshakespeare").train.inputs, 64, 128, seed=0)
    assert pieces.pieces.shape == (102 * 128, 65)
    assert bytes(pieces.pieces[0].tolist()).startswith(b"First Citizen:\nBefore we proceed")
