"""Cheng 2020's anchor: means and scales of y from side information and from latents already coded, front by front.

x -> analysis -> y -> hyper analysis -> z -> round -> integer hyper synthesis --\
                 y_hat already coded -> masked convolution ----------------------> means and scales of y
                 q = round((y - mean) / step), y_hat = q * step + mean -> synthesis -> x_hat

All that leads to means and scales is integer arithmetic, and y_hat is a whole number of 1/1024: decoders see exactly
the context that the encoder saw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcodec.architectures import Group, Int32, Latents, Schedule
from robustcodec.architectures.hyperprior import (
    MAX_INPUT,
    Dither,
    Hyperprior,
    IntegerParameters,
    in_windows,
    sizes_of,
)
from robustcodec.architectures.residual import Synthesis
from robustcodec.architectures.wavefront import TAPS, Context, fronts
from robustcodec.bundle import Bundle
from robustcodec.errors import ModelDamaged
from robustcodec.exact import (
    S16,
    Float64,
    IntegerLayer,
    Kind,
    LayerSpec,
    apply,
    apply_at,
    check_bounds,
    index_at,
    limits_at,
)
from robustcodec.networks import checked

LARGEST_Y = 1 << 25
"""Largest magnitude of y_hat and of means, in units of 1/1024: what is beyond is cut off."""

CONTEXT = "context_prediction"
SCALES, MEANS = "entropy_parameters.4.scales", "entropy_parameters.4.means"

_HYPER_LAYERS = 5

_WINDOW = 32
"""Side in elements of z, 2048 pixels, of what the hyper synthesis computes at once: bounds its memory."""

_HALO = 4
"""Elements of z around a window that its values depend on."""


def layer_specs(n: int, m: int) -> tuple[LayerSpec, ...]:
    """Give the integer layers, of which there are three chains.

    The hyper synthesis; the masked convolution, as a layer of kernel 1 whose inputs are those of each of `TAPS` in
    turn; and the entropy parameters, whose last layer is split into scales and means. These take what both chains
    before give, which have the same clip.
    """
    wide = m * 3 // 2
    first, second = m * 10 // 3, m * 8 // 3
    return (
        LayerSpec("h_s.0", Kind.CONV, n, m, 3, S16, leaky=True),
        LayerSpec("h_s.2", Kind.SUBPEL, m, m, 3, S16, leaky=True),
        LayerSpec("h_s.4", Kind.CONV, m, wide, 3, S16, leaky=True),
        LayerSpec("h_s.6", Kind.SUBPEL, wide, wide, 3, S16, leaky=True),
        LayerSpec("h_s.8", Kind.CONV, wide, 2 * m, 3, S16),
        LayerSpec(CONTEXT, Kind.CONV, len(TAPS) * m, 2 * m, 1, S16),
        LayerSpec("entropy_parameters.0", Kind.CONV, 4 * m, first, 1, S16, leaky=True),
        LayerSpec("entropy_parameters.2", Kind.CONV, first, second, 1, S16, leaky=True),
        LayerSpec(SCALES, Kind.CONV, second, m, 1, None),
        LayerSpec(MEANS, Kind.CONV, second, m, 1, (-LARGEST_Y, LARGEST_Y)),
    )


def check_exact(layers: Sequence[IntegerLayer]) -> None:
    """Prove each chain of the layers of `layer_specs` exact. Raises ModelDamaged."""
    context, *hidden, scales, means = layers[_HYPER_LAYERS:]
    largest = max(abs(limit) for limit in S16)
    check_bounds(layers[:_HYPER_LAYERS], MAX_INPUT)
    check_bounds([context], LARGEST_Y)
    check_bounds([*hidden, scales], largest)
    check_bounds([means], largest)


class EntropyParameters(IntegerParameters):
    """Everything that selects probabilities: integers out of a bundle, checked."""

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]], n: int, m: int) -> None:
        super().__init__(arrays, n, m, layer_specs(n, m))
        self._hyper_synthesis = self.layers[:_HYPER_LAYERS]
        self._context, *hidden, self._scales, self._means = self.layers[_HYPER_LAYERS:]
        self._hidden = tuple(hidden)
        check_exact(self.layers)

    def hyper_synthesis(self, z: Int32) -> Float64:
        """Give what z's symbols (N, h, w) say about latents: (2 M, 4h, 4w)."""
        values = self.z_hat(z)
        for layer in self._hyper_synthesis:
            values = apply(layer, values)
        return values

    def gaussians(self, side: Float64, context: Float64) -> tuple[Float64, Float64]:
        """Give scales (n, M), in each channel's own unit, and means (n, M) in units of 1/1024, of n latents.

        `side` (n, 2 M) is what z says about them, `context` (n, 12 M) what `Context.around` gives.
        """
        values = np.concatenate([side, apply_at(self._context, context)], axis=1)
        for layer in self._hidden:
            values = apply_at(layer, values)
        return apply_at(self._scales, values), apply_at(self._means, values)

    def conditions(self, z: Int32, height: int, width: int, key: bytes = b"") -> "ChengConditions":
        """Give what z's symbols, and a strip's key, say about y (M, height, width)."""
        return ChengConditions(self, z, height, width, self.dither(key, height, width))


@dataclass(frozen=True, eq=False)
class ChengConditions:
    """What z's symbols say about y (M, height, width), to be completed by the latents already coded."""

    entropy: EntropyParameters
    z: Int32
    height: int
    width: int
    dither: Dither | None = None

    @cached_property
    def side(self) -> NDArray[np.int16]:
        """What z says, (height, width, 2 M): the same for all steps."""
        entropy = self.entropy
        result = np.empty((self.height, self.width, 2 * len(entropy.thresholds)), np.int16)
        for rows, columns, values in in_windows(
            entropy.hyper_synthesis, self.z, self.height, self.width, _WINDOW, _HALO
        ):
            result[rows, columns] = values.transpose(1, 2, 0)
        return result

    def schedule(self, step: int) -> Schedule:
        """Walk y front by front."""
        channels = len(self.entropy.thresholds)
        limits = limits_at(self.entropy.thresholds, step)
        context = Context(channels)
        symbols = np.empty((channels, self.height, self.width), np.int16)
        y_hat = np.empty(symbols.shape, np.int32)
        for front in fronts(self.height, self.width):
            rows, columns = front.rows, front.columns
            side = self.side[rows, columns].astype(np.float64)
            scales, means = self.entropy.gaussians(side, context.around(front))
            positions = (slice(None), rows, columns)
            tables: NDArray[np.integer[Any]] = index_at(scales, limits).T
            if self.dither is not None:
                tables, more = self.dither.applied(positions, tables, step)
                means += more.T
            coded = yield Group(positions, tables, means.T.astype(np.int32))
            values = np.clip(coded.T * np.float64(step) + means, -LARGEST_Y, LARGEST_Y)
            context.add(front, values)
            symbols[positions] = coded
            y_hat[positions] = values.T
        return Latents(y_hat, (symbols, y_hat))


class Cheng(Hyperprior):
    """An opened cheng model."""

    name = "cheng"
    analysis_halo = 64
    synthesis_halo = 7

    def __init__(self, bundle: Bundle, threads: int) -> None:
        n, m = sizes_of(bundle, self.name)
        if n != m:
            raise ModelDamaged(f"it has sizes {n} and {m}, but those of cheng are equal")
        self.entropy = EntropyParameters(bundle.entropy, n, m)
        super().__init__(bundle, threads, self.entropy)

    @cached_property
    def _decoder(self) -> Synthesis:
        sizes = self._n, self.channels
        return Synthesis(checked(self.name, sizes, self._bundle.synthesis, ["synthesis"]), self._threads)

    def conditions(self, z: Int32, height: int, width: int, key: bytes = b"") -> ChengConditions:
        """Give what z's symbols, and a strip's key, say about y (M, height, width)."""
        return self.entropy.conditions(z, height, width, key)
