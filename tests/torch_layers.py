"""Integer layers by torch's float64 convolutions."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustcodec.architectures.hyperprior import MAX_INPUT
from robustcodec.exact import IntegerLayer, Kind, apply


def check(layers: Sequence[IntegerLayer], largest: Mapping[str, int]) -> None:
    """Compare layers on inputs of their whole range, which is that of the outputs before it if `largest` lacks it."""
    generator = np.random.default_rng(3)
    low, high = -MAX_INPUT, MAX_INPUT
    for layer in layers:
        bound = largest.get(layer.spec.name)
        low, high = (low, high) if bound is None else (-bound, bound)
        values = generator.integers(low, high + 1, (layer.spec.inputs, 5, 7)).astype(np.float64)
        assert np.array_equal(apply(layer, values), in_torch(layer, torch.from_numpy(values)).numpy()), layer.spec.name
        low, high = layer.spec.clip or (low, high)


def in_torch(layer: IntegerLayer, values: Tensor) -> Tensor:
    """Apply a layer to (inputs, H, W)."""
    weight, bias, shift = (
        torch.from_numpy(each.astype(np.float64)) for each in (layer.weight, layer.bias, layer.shift)
    )
    if layer.spec.kind is Kind.DECONV:
        sums = F.conv_transpose2d(values, weight.transpose(0, 1), bias, stride=2, padding=2, output_padding=1)
    else:
        sums = F.conv2d(values, weight, bias, padding=layer.spec.kernel // 2)
    if layer.spec.clip is None:
        return sums
    if layer.spec.leaky:
        sums = torch.where(sums < 0, 41 * sums * 2.0**-12, sums)
    result = (sums * 2.0 ** -shift[:, None, None] + 0.5).floor().clamp(*layer.spec.clip)
    return F.pixel_shuffle(result, 2) if layer.spec.kind is Kind.SUBPEL else result
