"""The parameters of the scale hyperprior's networks, and how its graphs take them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]

PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Rows and columns that are even (0) or odd (1)."""


def parameters(n: int, m: int, network: str) -> Shapes:
    """Names and shapes of the parameters of one network: see `graphs.parameters`."""
    if network == "hyper_analysis":
        return {
            **convolution("h_a.0", n, (n, m, 3, 3)),
            **convolution("h_a.2", n, (n, n, 5, 5)),
            **convolution("h_a.4", n, (n, n, 5, 5)),
        }
    shapes: Shapes = {}
    if network == "analysis":
        for layer, (inputs, outputs) in enumerate(((3, n), (n, n), (n, n), (n, m))):
            shapes |= convolution(f"g_a.{2 * layer}", outputs, (outputs, inputs, 5, 5))
            shapes |= normalisation(f"g_a.{2 * layer + 1}", n) if layer < 3 else {}
        return shapes
    for layer, (inputs, outputs) in enumerate(((m, n), (n, n), (n, n), (n, 3))):
        shapes |= convolution(f"g_s.{2 * layer}", outputs, (inputs, outputs, 5, 5))
        shapes |= inverse_normalisation(f"g_s.{2 * layer + 1}", n) if layer < 3 else {}
    return shapes


def convolution(name: str, outputs: int, shape: tuple[int, ...]) -> Shapes:
    """Parameters of a convolution."""
    return {f"{name}.weight": shape, f"{name}.bias": (outputs,)}


def normalisation(name: str, channels: int) -> Shapes:
    """Parameters of a normalisation."""
    return {f"{name}.beta": (channels,), f"{name}.gamma": (channels, channels, 1, 1)}


def inverse_normalisation(name: str, channels: int) -> Shapes:
    """Parameters of an inverse normalisation."""
    return {**normalisation(name, channels), f"{name}.limit": (channels, 1, 1)}


def initialisers(network: str, tensors: Mapping[str, Float32]) -> dict[str, Float32]:
    """Rearrange a network's parameters into the weights that its graph takes, by name.

    Phases are written as two digits: `g_s.2.weight.01` makes the even rows and odd columns of the layer's
    output.
    """
    weights = dict(tensors)
    if network == "analysis":
        weights |= _downward_from_phases("g_a.2", weights.pop("g_a.2.weight"))
    elif network in ("synthesis", "descent"):
        if network == "descent":
            weights |= _backward(tensors)
        for name in ("g_s.0", "g_s.2", "g_s.4"):
            weights |= _upward_to_phases(name, weights.pop(f"{name}.weight"))
        weights |= _upward_from_phases("g_s.6", weights.pop("g_s.6.weight"))
        weights["g_s.6.bias"] = np.tile(weights["g_s.6.bias"], 16)
    return weights


def _downward_from_phases(name: str, weight: Float32) -> dict[str, Float32]:
    """Weights (out, in, 3 or 2, 3 or 2) of a convolution (out, in, 5, 5) for each phase of its input."""
    return {f"{name}.weight.{y}{x}": weight[:, :, y::2, x::2] for y, x in PHASES}


def _backward(tensors: Mapping[str, Float32]) -> dict[str, Float32]:
    """Weights that take gradients back: a transposed convolution (in, out, 5, 5) backwards is a convolution with them.

    That reads its output's phases, but for the first layer's, whose gradients come whole; gamma is transposed.
    """
    weights = {"g_s.6.back": tensors["g_s.6.weight"]}
    for name in ("g_s.0", "g_s.2", "g_s.4"):
        shares = _downward_from_phases(name, tensors[f"{name}.weight"])
        weights |= {key.replace(".weight.", ".back."): weight for key, weight in shares.items()}
    for name in ("g_s.1", "g_s.3", "g_s.5"):
        weights[f"{name}.back"] = tensors[f"{name}.gamma"].swapaxes(0, 1)
    return weights


def _upward_to_phases(name: str, weight: Float32) -> dict[str, Float32]:
    """Weights (out, in, 3 or 2, 3 or 2) of a transposed convolution for each phase of its output.

    Even outputs 2r read inputs r-1, r, r+1 with taps 4, 2, 0; odd ones read r, r+1 with taps 3, 1.
    """
    forward = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    return {f"{name}.weight.{y}{x}": forward[:, :, y::2, x::2] for y, x in PHASES}


def _upward_from_phases(name: str, weight: Float32) -> dict[str, Float32]:
    """Weights (16 out, in, 2, 2) of a transposed convolution (in, out, 5, 5) for each phase of its input.

    Each makes a share of all 4x4 phases of the output, (row, column, channel) from the slowest to the
    fastest. The output 4r + s reads the plane at 2r + i with tap s + 2 - 2i; phase 0 gives i = 0, 2, phase 1
    gives i = -1, 1.
    """
    inputs, outputs = weight.shape[:2]
    result: dict[str, Float32] = {}
    for y, x in PHASES:
        share = np.zeros((4, 4, outputs, inputs, 2, 2), np.float32)
        for row, column, down, right in np.ndindex(4, 4, 2, 2):
            tap_y = row + 2 - 2 * (2 * down - y)
            tap_x = column + 2 - 2 * (2 * right - x)
            if 0 <= tap_y < 5 and 0 <= tap_x < 5:
                share[row, column, :, :, down, right] = weight[:, :, tap_y, tap_x].T
        result[f"{name}.weight.{y}{x}"] = share.reshape(16 * outputs, inputs, 2, 2)
    return result
