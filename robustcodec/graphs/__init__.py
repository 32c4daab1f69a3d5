"""The networks' graphs: small ONNX files without weights, pinned by hash, and how to arrange their weights.

A bundle brings arrays only: an ONNX file from outside could make ONNX Runtime allocate or compute without
limit. The files here are written by `python -m robustcodec.lab.graphs`, one per network, architecture and
size. Networks:

    analysis        x (1, 3, H, W) in [0, 1], H and W multiples of 16 -> y (1, M, H/16, W/16)
    hyper_analysis  y (1, M, h, w) -> z (1, N, h/4, w/4), rounded up
    synthesis       y_hat (1, M, h, w) -> x_hat (1, 3, 16h, 16w), not clipped
    descent         y_hat, target x and weight (1, 1, 16h, 16w) -> the gradient (1, M, h, w) with respect to y_hat of
                    half the sum of weight * (x_hat, clipped to [0, 1], - x)^2, clipping taken for what it lets pass

The graphs of hyper work on the four phases (even and odd rows and columns) of the largest planes instead of the
planes: a transposed convolution then is four plain convolutions without zeros to multiply, the normalisation
runs on arrays a quarter the size, and the largest plane is never put together. Their weights are
rearrangements of the parameters (`initialisers`).

The codec does not run the synthesis of cheng, which `robustcodec.architectures.residual` computes in less time; its
graph is what tests compare that with.
"""

import hashlib
from collections.abc import Iterable, Mapping
from importlib import resources
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcodec.errors import ModelDamaged, ModelError
from robustcodec.graphs import cheng, hyper
from robustcodec.graphs.digests import DIGESTS
from robustcodec.graphs.hyper import Shapes

Float32 = NDArray[np.float32]

UNLIMITED = 2.0**100
"""The `limit` of a normalisation that has none."""

SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "hyper": ((128, 192), (192, 320), (64, 96), (8, 12)),
    "cheng": ((128, 128), (192, 192), (8, 8)),
}
"""The sizes (N, M) of each architecture that there are graphs for, the usual ones first.

64/96 is for experiments, 8/12 and 8/8 are for tests.
"""
NETWORKS = ("analysis", "hyper_analysis", "synthesis", "descent")

_PARTS: Mapping[str, ModuleType] = MappingProxyType({"hyper": hyper, "cheng": cheng})


def parameters(architecture: str, sizes: tuple[int, int], network: str) -> Shapes:
    """Names and shapes of the parameters of one network, in CompressAI's names.

    Convolutions have `weight` and `bias` as in torch (a transposed one's weight has its inputs first). A
    normalisation has its effective `beta` (C,) and `gamma` (C, C, 1, 1), not CompressAI's square roots of
    them; an inverse one its `limit` (C, 1, 1), too: the most that it multiplies a channel by.
    Raises ModelError for an architecture or size without graphs.
    """
    check_size(architecture, sizes)
    if network not in NETWORKS:
        raise ValueError(f"there is no network {network}")
    shapes: Shapes = _PARTS[architecture].parameters(*sizes, network)
    return shapes


def with_limits(tensors: Mapping[str, NDArray[Any]], names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Give a model's tensors and, for each of these names that is the limit of a normalisation, the one it lacks.

    Models are stored without limits where they have none.
    """
    limits = {name: tensors.get(name.replace(".limit", ".beta")) for name in names if name.endswith(".limit")}
    return {
        **{
            name: np.full((*beta.shape, 1, 1), UNLIMITED, np.float32)
            for name, beta in limits.items()
            if beta is not None
        },
        **tensors,
    }


def check_size(architecture: str, sizes: tuple[int, int]) -> None:
    """Raise ModelError unless there are graphs for this architecture and these sizes."""
    if architecture not in SIZES:
        raise ModelError(f"there is no architecture {architecture}; this release has {' and '.join(SIZES)}")
    if sizes not in SIZES[architecture]:
        known = " or ".join(f"{n},{m}" for n, m in SIZES[architecture])
        raise ModelError(
            f"there is no network {architecture} with channels {','.join(map(str, sizes))}; this release has {known}"
        )


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


def initialisers(architecture: str, network: str, tensors: Mapping[str, Float32]) -> dict[str, Float32]:
    """Rearrange a network's parameters into the weights that its graph takes, by name."""
    weights: dict[str, Float32] = _PARTS[architecture].initialisers(network, tensors)
    return {name: np.ascontiguousarray(weight) for name, weight in weights.items()}
