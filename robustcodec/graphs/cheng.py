"""The parameters of the networks of Cheng 2020's anchor, and how its graphs take them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from robustcodec.graphs.hyper import Shapes, convolution, inverse_normalisation, normalisation

Float32 = NDArray[np.float32]

HYPER_STRIDES = (1, 1, 2, 1, 2)
"""Strides of the layers of the hyper analysis, h_a.0 to h_a.8."""


def parameters(n: int, m: int, network: str) -> Shapes:
    """Names and shapes of the parameters of one network: see `graphs.parameters`."""
    if network == "hyper_analysis":
        layers = [convolution(f"h_a.{2 * index}", n, (n, n, 3, 3)) for index in range(len(HYPER_STRIDES))]
    elif network == "analysis":
        layers = [
            *(_down(f"g_a.{index}", n if index else 3, n) for index in (0, 2, 4)),
            *(_residual(f"g_a.{index}", n) for index in (1, 3, 5)),
            convolution("g_a.6", n, (n, n, 3, 3)),
        ]
    else:
        layers = [
            *(_residual(f"g_s.{index}", n) for index in (0, 2, 4, 6)),
            *(_up(f"g_s.{index}", n) for index in (1, 3, 5)),
            convolution("g_s.7.0", 12, (12, n, 3, 3)),
        ]
    return {name: shape for layer in layers for name, shape in layer.items()}


def _residual(name: str, n: int) -> Shapes:
    return convolution(f"{name}.conv1", n, (n, n, 3, 3)) | convolution(f"{name}.conv2", n, (n, n, 3, 3))


def _down(name: str, inputs: int, n: int) -> Shapes:
    return {
        **convolution(f"{name}.conv1", n, (n, inputs, 3, 3)),
        **convolution(f"{name}.conv2", n, (n, n, 3, 3)),
        **normalisation(f"{name}.gdn", n),
        **convolution(f"{name}.skip", n, (n, inputs, 1, 1)),
    }


def _up(name: str, n: int) -> Shapes:
    return {
        **convolution(f"{name}.subpel_conv.0", 4 * n, (4 * n, n, 3, 3)),
        **convolution(f"{name}.conv", n, (n, n, 3, 3)),
        **inverse_normalisation(f"{name}.igdn", n),
        **convolution(f"{name}.upsample.0", 4 * n, (4 * n, n, 3, 3)),
    }


def initialisers(network: str, tensors: Mapping[str, Float32]) -> dict[str, Float32]:
    """Give the weights that a network's graph takes, by name: its parameters, and `.back` what takes gradients back."""
    weights = dict(tensors)
    if network == "descent":
        for name, tensor in tensors.items():
            if name.endswith(".gamma"):
                weights[name.replace(".gamma", ".back")] = tensor.swapaxes(0, 1)
            elif name.endswith(".weight"):
                weights[name.replace(".weight", ".back")] = _backward(tensor, doubles=name.endswith(".0.weight"))
    return weights


def _backward(weight: Float32, doubles: bool) -> Float32:
    """Weight of the convolution that takes gradients back through one of stride 1.

    Of one to twice the size they come as SpaceToDepth gives them, phase by phase, where its outputs have their phases
    side by side.
    """
    if doubles:
        weight = weight.reshape(-1, 4, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)
    return weight[:, :, ::-1, ::-1].swapaxes(0, 1)
