"""The hyper synthesis, the masked convolution and the entropy parameters of Cheng 2020's anchor as integers."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcodec.architectures.cheng import (
    CONTEXT,
    LARGEST_Y,
    MEANS,
    SCALES,
    EntropyParameters,
    check_exact,
    layer_specs,
)
from robustcodec.architectures.hyperprior import MAX_INPUT
from robustcodec.architectures.wavefront import TAPS
from robustcodec.exact import (
    S16,
    Float64,
    IntegerLayer,
    LayerSpec,
    quantise_last_layer,
    quantise_layer,
)
from robustcodec.lab.cheng import Cheng
from robustcodec.lab.integers.layers import Rounded, Seen, parameters_of, real_layer, unit_for
from robustcodec.lab.networks import Network
from robustcodec.rate import STEP_UNIT

_SIDE = "h_s.8"
_HYPER = ("h_s.0", "h_s.2", "h_s.4", "h_s.6", _SIDE)
_HIDDEN = ("entropy_parameters.0", "entropy_parameters.2")
_LAST = "entropy_parameters.4"
_SHUFFLED = ("h_s.2", "h_s.6")
"""Layers that torch keeps in a sequence of their own."""

_BEFORE = dict(zip(_HYPER[1:], _HYPER, strict=False)) | {_HIDDEN[1]: _HIDDEN[0], SCALES: _HIDDEN[1], MEANS: _HIDDEN[1]}
"""The layer whose outputs a layer takes, if it is one."""

_FINE = np.full(1, 1 / STEP_UNIT)
"""Unit of what enters from outside: z_hat and y_hat."""


class ChengIntegers:
    """See `Integers`."""

    def specs(self, n: int, m: int) -> Sequence[LayerSpec]:
        """Give the integer layers' shapes."""
        return layer_specs(n, m)

    def rounded(self, network: Network, seen: Sequence[Seen]) -> Rounded:
        """Round all three chains."""
        assert isinstance(network, Cheng)
        real, units = _real_layers(network), _activation_units(network, seen)
        units[MEANS] = _FINE.copy()
        layers = []
        for spec in layer_specs(network.n, network.m):
            inputs = _inputs(spec.name, units, network.m)
            if spec.name == SCALES:
                layer, units[SCALES] = quantise_last_layer(spec, *real[SCALES], float(inputs[0]))
            else:
                largest = {_HYPER[0]: MAX_INPUT, CONTEXT: LARGEST_Y}.get(spec.name, max(map(abs, S16)))
                layer = quantise_layer(spec, *real[spec.name], inputs, float(units[spec.name][0]), largest)
            layers.append(layer)
        check_exact(layers)
        stored = {f"{name}.unit": unit.astype(np.float32) for name, unit in units.items()}
        return Rounded(tuple(layers), stored, units[SCALES])

    def parameters(self, arrays: Mapping[str, NDArray[np.generic]], n: int, m: int) -> EntropyParameters:
        """Check the integers of a bundle."""
        return EntropyParameters(arrays, n, m)

    def real(self, layers: Sequence[IntegerLayer], units: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
        """Undo the rounding."""
        of = {name.removesuffix(".unit"): unit.astype(np.float64) for name, unit in units.items()}
        m = of[SCALES].size
        parts = {
            layer.spec.name: real_layer(layer, _inputs(layer.spec.name, of, m), units[f"{layer.spec.name}.unit"])
            for layer in layers
        }
        weight, context_bias = parts.pop(CONTEXT)
        kernel = torch.zeros(2 * m, m, 5, 5)
        for tap, (row, column) in zip(weight[:, :, 0, 0].chunk(len(TAPS), dim=1), TAPS, strict=True):
            kernel[:, :, row + 2, column + 2] = tap
        scales, means = parts.pop(SCALES), parts.pop(MEANS)
        parts[_LAST] = (torch.cat([scales[0], means[0]]), torch.cat([scales[1], means[1]]))
        parts[CONTEXT] = (kernel, context_bias)
        result: dict[str, Tensor] = {}
        for name, (weight, bias) in parts.items():
            name = f"{name}.0" if name in _SHUFFLED else name
            result |= {f"{name}.weight": weight, f"{name}.bias": bias}
        return result


def _inputs(name: str, units: Mapping[str, Float64], m: int) -> Float64:
    """Give the unit of a layer's inputs (1,), or of each."""
    if name == _HIDDEN[0]:
        return np.concatenate([np.repeat(units[part], 2 * m) for part in (_SIDE, CONTEXT)])
    return units[_BEFORE[name]] if name in _BEFORE else _FINE


def _real_layers(network: Cheng) -> dict[str, tuple[Float64, Float64]]:
    result = {}
    for name in (*_HYPER, *_HIDDEN, _LAST):
        layer = network.get_submodule(f"{name}.0" if name in _SHUFFLED else name)
        assert isinstance(layer, torch.nn.Conv2d)
        result[name] = parameters_of(layer)
    weight, bias = result.pop(_LAST)
    result[SCALES], result[MEANS] = (weight[: network.m], bias[: network.m]), (weight[network.m :], bias[network.m :])
    context = network.context_prediction
    result[CONTEXT] = context.taps().detach().double().numpy()[:, :, None, None], parameters_of(context)[1]
    return result


@torch.no_grad()
def _activation_units(network: Cheng, seen: Sequence[Seen]) -> dict[str, Float64]:
    """Units of all hidden activations."""
    largest = dict.fromkeys((*_HYPER, CONTEXT, *_HIDDEN), 0.0)

    def look(name: str, values: Tensor) -> Tensor:
        largest[name] = max(largest[name], float(values.abs().max()))
        return values

    for each in seen:
        hidden = each.z_hat
        for index, name in enumerate(_HYPER):
            hidden = look(name, network.h_s[2 * index : 2 * index + 2](hidden))
        y_hat = network.rounded(each.z_hat, each.y, torch.ones(1))
        context = look(CONTEXT, network.context_prediction(y_hat))
        hidden = torch.cat([hidden[:, :, : y_hat.shape[2], : y_hat.shape[3]], context], dim=1)
        for index, name in enumerate(_HIDDEN):
            hidden = look(name, network.entropy_parameters[2 * index : 2 * index + 2](hidden))
    return {name: np.full(1, unit_for(value, S16)) for name, value in largest.items()}
