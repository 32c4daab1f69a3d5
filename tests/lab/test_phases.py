"""Convolutions on a picture's phases are torch's own, with all their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustcodec.lab.phases import FromPicture, ToPicture


def _agree(layer: nn.Module, x: Tensor, ours: Tensor, plain: Tensor) -> None:
    assert ours.shape == plain.shape
    torch.testing.assert_close(ours, plain)
    arriving = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(2))
    inputs = [x, *layer.parameters()]
    for mine, reference in zip(*(torch.autograd.grad(side, inputs, arriving) for side in (ours, plain)), strict=True):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("size", [(16, 16), (2, 6), (7, 4), (5, 9), (1, 1)])
def test_from_picture(size: tuple[int, int]) -> None:
    layer = FromPicture(6).double()
    x = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    _agree(layer, x, layer(x), F.conv2d(x, layer.weight, layer.bias, stride=2, padding=2))


@pytest.mark.parametrize("size", [(8, 8), (1, 3), (1, 1)])
def test_to_picture(size: tuple[int, int]) -> None:
    layer = ToPicture(6).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    plain = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=2, output_padding=1)
    _agree(layer, x, layer(x), plain)
