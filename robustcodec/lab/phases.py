"""The two convolutions that touch the picture, computed on its four phases.

On CPUs torch is slow at a strided convolution that makes three planes: the gradient of the first layer, and the picture
itself. The same sums over the picture's phases (every second row and column), as twelve planes, take half as long.
"""

import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 5


class FromPicture(nn.Conv2d):
    """A 5x5 convolution of three planes to half the size."""

    def __init__(self, outputs: int) -> None:
        super().__init__(3, outputs, KERNEL, stride=2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """Give (B, outputs, H/2, W/2), rounded up, of x (B, 3, H, W)."""
        even = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        # tap 2 k + p of a side is tap k of phase p
        taps = _even(self.weight).permute(0, 1, 3, 5, 2, 4).reshape(self.out_channels, 12, 3, 3)
        return F.conv2d(F.pixel_unshuffle(even, 2), taps, self.bias, padding=1)


class ToPicture(nn.ConvTranspose2d):
    """A transposed 5x5 convolution to three planes of twice the size."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 3, KERNEL, stride=2, padding=2, output_padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Give (B, 3, 2 H, 2 W) of x (B, inputs, H, W)."""
        assert output_size is None and self.bias is not None
        taps, biases = doubling_taps(self.weight), self.bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(x, taps, biases, padding=1), 2)


def doubling_taps(weight: Tensor) -> Tensor:
    """Turn a transposed 5x5 convolution (inputs, outputs, 5, 5) into one of phases (4 outputs, inputs, 3, 3)."""
    inputs, outputs = weight.shape[:2]
    # pixel 2 i + p of a side sees input i + d, d from -1 to 1, by the tap p + 2 - 2 d, and there are none beyond 4
    return _even(weight).flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(4 * outputs, inputs, 3, 3)


def _even(weight: Tensor) -> Tensor:
    """(A, B, 5, 5), a row and a column of zeros behind it, as (A, B, 3, 2, 3, 2)."""
    first, second = weight.shape[:2]
    return F.pad(weight, (0, 1, 0, 1)).reshape(first, second, 3, 2, 3, 2)
