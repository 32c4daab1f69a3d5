"""The hyper synthesis of the scale hyperprior as integers."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcodec.architectures.hyper import EntropyParameters, layer_specs
from robustcodec.architectures.hyperprior import MAX_INPUT
from robustcodec.exact import U16, IntegerLayer, LayerSpec, check_bounds, quantise_last_layer, quantise_layer
from robustcodec.lab.integers.layers import Rounded, Seen, parameters_of, real_layer, unit_for
from robustcodec.lab.networks import Network, convolutions
from robustcodec.rate import STEP_UNIT


class HyperIntegers:
    """See `Integers`."""

    def specs(self, n: int, m: int) -> Sequence[LayerSpec]:
        """Give the integer layers' shapes."""
        return layer_specs(n, m)

    def rounded(self, network: Network, seen: Sequence[Seen]) -> Rounded:
        """Round the hyper synthesis."""
        first, second, last = layer_specs(network.n, network.m)
        real = [parameters_of(layer) for layer in convolutions(network.h_s)]
        units = _activation_units(network, seen)
        layer_0 = quantise_layer(first, *real[0], 1 / STEP_UNIT, units[0], MAX_INPUT)
        layer_1 = quantise_layer(second, *real[1], units[0], units[1], max(U16))
        layer_2, scale_units = quantise_last_layer(last, *real[2], units[1])
        layers = (layer_0, layer_1, layer_2)
        check_bounds(layers, MAX_INPUT)
        outputs = {"h_s.0": units[:1], "h_s.2": units[1:], "h_s.4": scale_units}
        return Rounded(
            layers, {f"{name}.unit": np.array(unit, np.float32) for name, unit in outputs.items()}, scale_units
        )

    def parameters(self, arrays: Mapping[str, NDArray[np.generic]], n: int, m: int) -> EntropyParameters:
        """Check the integers of a bundle."""
        return EntropyParameters(arrays, n, m)

    def real(self, layers: Sequence[IntegerLayer], units: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
        """Undo the rounding."""
        result: dict[str, Tensor] = {}
        inputs = np.full(1, 1 / STEP_UNIT)
        for layer in layers:
            name = layer.spec.name
            outputs = units[f"{name}.unit"]
            result[f"{name}.weight"], result[f"{name}.bias"] = real_layer(layer, inputs, outputs)
            inputs = outputs.astype(np.float64)
        return result


@torch.no_grad()
def _activation_units(network: Network, seen: Sequence[Seen]) -> tuple[float, float]:
    """Units of the two hidden activations."""
    largest = [0.0, 0.0]
    for each in seen:
        hidden = each.z_hat
        for position, span in enumerate((slice(0, 2), slice(2, 4))):
            hidden = network.h_s[span](hidden)
            largest[position] = max(largest[position], float(hidden.max()))
    return unit_for(largest[0], U16), unit_for(largest[1], U16)
