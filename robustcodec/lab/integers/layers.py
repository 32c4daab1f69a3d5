"""Between real layers and integer ones: what every architecture's entropy model is rounded with, and rebuilt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcodec.architectures import Conditions, Int32
from robustcodec.entropy import TableSet
from robustcodec.exact import Float64, IntegerLayer, Kind, LayerSpec
from robustcodec.lab.networks import Convolution, Network, bias

Arrays = dict[str, NDArray[Any]]

_HEADROOM = 1.5
"""How far beyond the largest activation on the calibration pictures the integers reach before they saturate."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network makes of a calibration picture: y (1, M, h, w) and z_hat (1, N, h/4, w/4), real."""

    y: Tensor
    z_hat: Tensor


@dataclass(frozen=True, eq=False)
class Rounded:
    """The integer layers of a network, proven exact, and the units that were folded into them.

    `units` has for each layer <name>.unit, float32: one of all its outputs, or of each sum that is given as it is.
    `scale_units` (M,) are those of the scales.
    """

    layers: tuple[IntegerLayer, ...]
    units: Arrays
    scale_units: Float64


class Parameters(Protocol):
    """What the runtime reads out of a bundle."""

    layers: tuple[IntegerLayer, ...]
    medians: Int32
    y_tables: TableSet
    z_tables: TableSet

    def conditions(self, z: Int32, height: int, width: int, key: bytes = b"") -> Conditions:
        """Give what z's symbols, and a strip's key, say about y (M, height, width)."""


class Integers(Protocol):
    """How an architecture's entropy model becomes integers, and real numbers again."""

    def specs(self, n: int, m: int) -> Sequence[LayerSpec]:
        """Give the integer layers' shapes."""

    def rounded(self, network: Network, seen: Sequence[Seen]) -> Rounded:
        """Round a network, with ranges that suit what was seen. Raises ModelDamaged if that cannot be exact."""

    def parameters(self, arrays: Mapping[str, NDArray[np.generic]], n: int, m: int) -> Parameters:
        """Check the integers of a bundle."""

    def real(self, layers: Sequence[IntegerLayer], units: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
        """Undo the rounding of layers into a part of a state dict."""


def unit_shapes(specs: Sequence[LayerSpec]) -> dict[str, tuple[int, ...]]:
    """Give names and shapes of the units that the lab's part of a bundle has."""
    return {f"{spec.name}.unit": (1,) if spec.clip else (spec.outputs,) for spec in specs}


def unit_for(largest: float, clip: tuple[int, int]) -> float:
    """Give the unit in which an activation, with headroom, fills the range of its layer."""
    return max(largest, 1e-3) * _HEADROOM / clip[1]


def parameters_of(layer: Convolution) -> tuple[Float64, Float64]:
    """Give the weight (outputs, inputs, k, k) and the bias of a convolution."""
    weight = layer.weight.detach().double()
    if isinstance(layer, torch.nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)  # torch keeps a transposed one's inputs first
    return weight.numpy(), bias(layer).detach().double().numpy()


def real_layer(layer: IntegerLayer, inputs: Float64, outputs: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Undo `exact.quantise_layer`: integers times the units that were folded into them.

    `inputs` is the unit of all inputs (1,), or of each (inputs,). Gives weight and bias as torch has them.
    """
    unit = np.ldexp(outputs.astype(np.float64), -layer.shift.astype(np.int32))
    weight = layer.weight * (unit[:, None] / inputs)[:, :, None, None]
    if layer.spec.kind is Kind.DECONV:
        weight = weight.swapaxes(0, 1)
    return (
        torch.from_numpy(np.ascontiguousarray(weight, np.float32)),
        torch.from_numpy((layer.bias * unit).astype(np.float32)),
    )
