"""The scale hyperprior (Ballé 2018): scales of y from side information z, all latents in one group.

x -> analysis -> y -> |.| -> hyper analysis -> z -> round -> integer hyper synthesis -> scales of y
                 y -> round(y / step) * step -> synthesis -> x_hat
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcodec.architectures import Group, Int32, Latents, Schedule
from robustcodec.architectures.hyperprior import (
    HYPER_STRIDE,
    MAX_INPUT,
    Dither,
    Hyperprior,
    IntegerParameters,
    in_windows,
    sizes_of,
)
from robustcodec.bundle import Bundle
from robustcodec.exact import U16, Float64, Kind, LayerSpec, apply, check_bounds, scale_index

_WINDOW = 32
"""Side in elements of z, 2048 pixels, of what the hyper synthesis computes at once: bounds its memory."""

_HALO = 2
"""Elements of z around a window that its scales depend on."""


def layer_specs(n: int, m: int) -> tuple[LayerSpec, ...]:
    """Give the integer layers of the hyper synthesis for N and M channels."""
    return (
        LayerSpec("h_s.0", Kind.DECONV, n, n, 5, U16),
        LayerSpec("h_s.2", Kind.DECONV, n, n, 5, U16),
        LayerSpec("h_s.4", Kind.CONV, n, m, 3, None),
    )


class EntropyParameters(IntegerParameters):
    """Everything that selects probabilities: integers out of a bundle, checked."""

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]], n: int, m: int) -> None:
        super().__init__(arrays, n, m, layer_specs(n, m))
        check_bounds(self.layers, MAX_INPUT)

    def scales(self, z: Int32, height: int, width: int) -> Float64:
        """Give the scales of y (M, height, width) as integers, in each channel's own unit.

        The ReLU that ends the hyper synthesis is left out: no threshold is negative, so none can tell.
        """
        values = self.z_hat(z)
        for layer in self.layers:
            values = apply(layer, values)
        return values[:, :height, :width]

    def conditions(self, z: Int32, height: int, width: int, key: bytes = b"") -> "HyperConditions":
        """Give what z's symbols, and a strip's key, say about y (M, height, width)."""
        return HyperConditions(self, z, height, width, self.dither(key, height, width))


@dataclass(frozen=True, eq=False)
class HyperConditions:
    """The scales of y (M, height, width), as z's symbols say."""

    entropy: EntropyParameters
    z: Int32
    height: int
    width: int
    dither: Dither | None = None

    @cached_property
    def scales(self) -> Float64:
        """All of them, kept for other steps."""
        return self.entropy.scales(self.z, self.height, self.width)

    def schedule(self, step: int) -> Schedule:
        """Walk y in one group with means of zero, or those of its dither."""
        tables: NDArray[np.integer[Any]] = self._levels(step)
        means = np.zeros((), np.int32)
        if self.dither is not None:
            tables, means = self.dither.applied(..., tables, step)
        symbols = yield Group(..., tables, means)
        y_hat = symbols * np.int32(step)
        y_hat += means
        of_symbols = symbols.astype(np.int16)
        # symbols of other offsets are another picture
        return Latents(y_hat, (of_symbols,) if self.dither is None else (of_symbols, y_hat))

    def _levels(self, step: int) -> NDArray[np.uint8]:
        """Give the number of each latent's scale; those of a large strip are computed again for each step, in parts."""
        thresholds = self.entropy.thresholds
        if max(self.z.shape[1:]) <= _WINDOW:
            return scale_index(self.scales, thresholds, step)
        index = np.empty((thresholds.shape[0], self.height, self.width), np.uint8)

        def compute(z: Int32) -> Float64:
            return self.entropy.scales(z, HYPER_STRIDE * z.shape[1], HYPER_STRIDE * z.shape[2])

        for rows, columns, scales in in_windows(compute, self.z, self.height, self.width, _WINDOW, _HALO):
            index[:, rows, columns] = scale_index(scales, thresholds, step)
        return index


class Hyper(Hyperprior):
    """An opened hyper model."""

    name = "hyper"
    analysis_halo = 32
    synthesis_halo = 2

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self.entropy = EntropyParameters(bundle.entropy, *sizes_of(bundle, self.name))
        super().__init__(bundle, threads, self.entropy)

    def conditions(self, z: Int32, height: int, width: int, key: bytes = b"") -> HyperConditions:
        """Give what z's symbols, and a strip's key, say about y (M, height, width)."""
        return self.entropy.conditions(z, height, width, key)
