"""How a convolution goes over its input."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.optim.m_sam.rule import Use

_DERIVATIVES = torch.ops.aten.convolution_backward.default


class Geometry:
    """Stride, padding and dilation, one for each dimension, and groups of channels.

    Args:
        use: of a convolution.
        transposed: whether it is the transpose of one.
    """

    def __init__(self, use: Use, transposed: bool = False):
        size = use.weight.shape[2:]
        self.transposed, self.output_padding = transposed, [0] * len(size)
        if transposed:
            self.output_padding = _each(use.output_padding, len(size))
        self.size = tuple(size)
        self.stride, self.dilation = (_each(value, len(size)) for value in (use.stride, use.dilation))
        self.groups = use.groups
        #: Both sides of each dimension; `before` is what must be padded by hand.
        self.before: list[int] = []
        if use.padding == "same":
            whole = [d * (k - 1) for d, k in zip(self.dilation, size, strict=True)]
            self.padding = [p // 2 for p in whole]
            if any(p % 2 for p in whole):
                self.before = [p % 2 * i for p in reversed(whole) for i in (0, 1)]
        else:
            self.padding = [0] * len(size) if use.padding == "valid" else _each(use.padding, len(size))
        #: Of pixels that no patch looks at.
        self.skips = [1] * len(size)
        if self.is_product:
            self.skips, self.stride = self.stride, self.skips

    def prepared(self, x: Tensor) -> Tensor:
        """What the convolution is of: all that is needed of the input, and what is padded by hand."""
        if max(self.skips) > 1:
            x = x[(slice(None), slice(None), *(slice(None, None, s) for s in self.skips))].contiguous()
        return F.pad(x, self.before) if self.before else x

    @property
    def is_product(self) -> bool:
        """Whether a patch is a pixel."""
        return not self.transposed and self.groups == 1 and set(self.size) == {1} and not any(self.padding)

    def patches(self, x: Tensor) -> Tensor:
        """``(rows, channels, *pixels)`` to ``(rows, positions, channels · kernel)``."""
        if len(self.size) == 1:
            sizes = [(before, *given) for before, given in zip((1, 1, 0, 1), self._sizes, strict=True)]
            return F.unfold(x.unsqueeze(2), *sizes).mT
        return F.unfold(x, *self._sizes).mT

    def lengths(self, i: int, pixels: int) -> tuple[int, int]:
        """Along dimension ``i``: of the padded input, and of the output."""
        padded = pixels + 2 * self.padding[i]
        return padded, (padded - self.dilation[i] * (self.size[i] - 1) - 1) // self.stride[i] + 1

    def steps(self, i: int, offset: int, positions: int) -> slice:
        """The pixels at one offset in the kernel, for all positions along dimension ``i``."""
        start = offset * self.dilation[i]
        return slice(start, start + (positions - 1) * self.stride[i] + 1, self.stride[i])

    @property
    def _sizes(self) -> tuple[tuple[int, ...], ...]:
        return self.size, tuple(self.dilation), tuple(self.padding), tuple(self.stride)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, copies: int = 1) -> Tensor:
        """The convolution, ``copies`` of it side by side."""
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, self.transposed, self.output_padding,
            copies * self.groups,
        )  # fmt: skip

    def derivatives(
        self, d: Tensor, x: Tensor, weight: Tensor, which: tuple[bool, bool], copies: int = 1
    ) -> tuple[Tensor, Tensor]:
        """The gradients of input and weight, as far as ``which`` asks for them."""
        d, x, weight = (_plainly(t) for t in (d, x, weight))
        dx, dw, _ = _DERIVATIVES(
            d, x, weight, None, self.stride, self.padding, self.dilation, self.transposed, self.output_padding,
            copies * self.groups, [*which, False],
        )  # fmt: skip
        return dx, dw


def _plainly(t: Tensor) -> Tensor:
    """``t``, with the strides of its shape if it lies so: with sizes of one others say the same, but torch fails."""
    return t.view(-1).view(t.shape) if 1 in t.shape and t.is_contiguous() else t


def _each(value: int | Sequence[int], count: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values
