"""The networks' graphs: small ONNX files without weights, pinned by hash, and how to arrange their weights.

A bundle brings arrays only: an ONNX file from outside could make ONNX Runtime allocate or compute without
limit. The files here are written by `python -m robustcodec.lab.graphs`, one per network, architecture and
size. Networks:

    analysis        x (1, 3, H, W) in [0, 1], H and W multiples of 16 -> y (1, M, H/16, W/16)
    hyper_analysis  y (1, M, h, w) -> z (1, N, h/4, w/4), rounded up
    synthesis       y_hat (1, M, h, w) -> x_hat (1, 3, 16h, 16w), not clipped
    descent         y_hat, target x and weight (1, 1, 16h, 16w) -> the gradient (1, M, h, w) with respect to y_hat of
                    half the sum of weight * (x_hat, clipped to [0, 1], - x)^2, clipping taken for what it lets pass

The graphs work on the four phases (even and odd rows and columns) of the largest planes instead of the
planes: a transposed convolution then is four plain convolutions without zeros to multiply, the normalisation
runs on arrays a quarter the size, and the largest plane is never put together. Their weights are
rearrangements of the parameters (`initialisers`).
"""

import hashlib
from collections.abc import Mapping
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from robustcodec.errors import ModelDamaged, ModelError
from robustcodec.graphs.digests import DIGESTS

Float32 = NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]

SIZES: dict[str, tuple[tuple[int, int], ...]] = {"hyper": ((128, 192), (192, 320), (64, 96), (8, 12))}
"""The sizes (N, M) of each architecture that there are graphs for; 64/96 is for experiments, 8/12 for tests."""
NETWORKS = ("analysis", "hyper_analysis", "synthesis", "descent")

PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Rows and columns that are even (0) or odd (1)."""


def parameters(architecture: str, sizes: tuple[int, int], network: str) -> Shapes:
    """Names and shapes of the parameters of one network, in CompressAI's names.

    Convolutions have `weight` and `bias` as in torch (a transposed one's weight has its inputs first). A
    normalisation has its effective `beta` (C,) and `gamma` (C, C, 1, 1), not CompressAI's square roots of
    them.
    Raises ModelError for an architecture or size without graphs.
    """
    check_size(architecture, sizes)
    n, m = sizes
    if network == "hyper_analysis":
        return {
            **_convolution("h_a.0", n, (n, m, 3, 3)),
            **_convolution("h_a.2", n, (n, n, 5, 5)),
            **_convolution("h_a.4", n, (n, n, 5, 5)),
        }
    shapes: Shapes = {}
    if network == "analysis":
        for layer, (inputs, outputs) in enumerate(((3, n), (n, n), (n, n), (n, m))):
            shapes |= _convolution(f"g_a.{2 * layer}", outputs, (outputs, inputs, 5, 5))
            shapes |= _normalisation(f"g_a.{2 * layer + 1}", n) if layer < 3 else {}
    elif network in ("synthesis", "descent"):
        for layer, (inputs, outputs) in enumerate(((m, n), (n, n), (n, n), (n, 3))):
            shapes |= _convolution(f"g_s.{2 * layer}", outputs, (inputs, outputs, 5, 5))
            shapes |= _normalisation(f"g_s.{2 * layer + 1}", n) if layer < 3 else {}
    else:
        raise ValueError(f"there is no network {network}")
    return shapes


def check_size(architecture: str, sizes: tuple[int, int]) -> None:
    """Raise ModelError unless there are graphs for this architecture and these sizes."""
    if sizes not in SIZES.get(architecture, ()):
        known = ", ".join(f"{arch} {n}/{m}" for arch, each in SIZES.items() for n, m in each)
        raise ModelError(f"there is no network {architecture} {'/'.join(map(str, sizes))}; this release has {known}")


def _convolution(name: str, outputs: int, shape: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": (outputs,)}


def _normalisation(name: str, channels: int) -> Shapes:
    return {f"{name}.beta": (channels,), f"{name}.gamma": (channels, channels, 1, 1)}


def file_name(architecture: str, sizes: tuple[int, int], network: str) -> str:
    """Name of a graph's file in this folder."""
    return f"{architecture}-{sizes[0]}-{sizes[1]}-{network}.onnx"


def read_graph(architecture: str, sizes: tuple[int, int], network: str) -> bytes:
    """Read a graph; raises ModelError if there is none of that size, ModelDamaged if it was altered."""
    check_size(architecture, sizes)
    name = file_name(architecture, sizes, network)
    data = resources.files(__name__).joinpath(name).read_bytes()
    if hashlib.sha256(data).hexdigest() != DIGESTS[name]:
        raise ModelDamaged(f"the file {name} of this installation has been altered; install robustcodec again")
    return data


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
    return {name: np.ascontiguousarray(weight) for name, weight in weights.items()}


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
