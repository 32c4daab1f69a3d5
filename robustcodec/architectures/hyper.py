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

from robustcodec import networks
from robustcodec.architectures import Float32, Group, Int32, Latents, Schedule
from robustcodec.bundle import Bundle
from robustcodec.entropy import LARGEST_VALUE, TableSet
from robustcodec.errors import ImageError, ModelDamaged
from robustcodec.exact import (
    U16,
    IntegerLayer,
    Kind,
    LayerSpec,
    apply,
    check_bounds,
    check_thresholds,
    layers_from_arrays,
    scale_index,
)
from robustcodec.rate import STEP_UNIT
from robustcodec.tiling import scaled, shifted, spans, tiles

HYPER_STRIDE = 4
"""Latents of y per element of z, in each direction."""

MAX_MEDIAN = 1 << 20
"""Bound of z's medians, in units of 1/1024."""

MAX_INPUT = LARGEST_VALUE * STEP_UNIT + MAX_MEDIAN
"""Largest magnitude that enters the integer hyper synthesis."""

_WINDOW = 32
"""Side in elements of z, 2048 pixels, of what the hyper synthesis computes at once: bounds its memory."""

_HALO = 2
"""Elements of z around a window that its scales depend on."""

_ANALYSED = 512
"""Columns of y, 8192 pixels, that the hyper analysis is given at once; only wide pictures have more."""

_ANALYSIS_HALO = 8
"""Latents around them that their z depends on, a multiple of HYPER_STRIDE."""


def layer_specs(n: int, m: int) -> tuple[LayerSpec, ...]:
    """Give the integer layers of the hyper synthesis for N and M channels."""
    return (
        LayerSpec("h_s.0", Kind.DECONV, n, n, 5, U16),
        LayerSpec("h_s.2", Kind.DECONV, n, n, 5, U16),
        LayerSpec("h_s.4", Kind.CONV, n, m, 3, None),
    )


class EntropyParameters:
    """Everything that selects probabilities: integers out of a bundle, checked."""

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]], n: int, m: int) -> None:
        specs = layer_specs(n, m)
        self.y_tables = _tables(arrays, "y")
        self.z_tables = _tables(arrays, "z")
        expected = {
            *(f"{spec.name}.{part}" for spec in specs for part in ("weight", "bias", "shift")),
            *(f"{latents}.{part}" for latents in "yz" for part in ("frequencies", "lengths", "minimums")),
            "thresholds",
            "medians",
        }
        if set(arrays) != expected:
            odd = sorted(set(arrays) ^ expected)[0]
            raise ModelDamaged(f"its entropy parameters have missing or unknown arrays, {odd} among them")
        if len(self.z_tables) != n:
            raise ModelDamaged(f"it has {len(self.z_tables)} tables for the {n} channels of z")
        self.layers: tuple[IntegerLayer, ...] = layers_from_arrays(specs, arrays)
        check_bounds(self.layers, MAX_INPUT)
        self.thresholds = check_thresholds(arrays["thresholds"], m, len(self.y_tables) - 1)
        medians = arrays["medians"]
        if medians.dtype != np.int32 or medians.shape != (n,) or np.abs(medians.astype(np.int64)).max() > MAX_MEDIAN:
            raise ModelDamaged(f"its medians must be {n} integers of 32 bits within ±{MAX_MEDIAN}")
        self.medians: Int32 = medians.astype(np.int32)

    def scales(self, z: Int32, height: int, width: int) -> NDArray[np.float64]:
        """Give the scales of y (M, height, width) as integers, in each channel's own unit.

        The ReLU that ends the hyper synthesis is left out: no threshold is negative, so none can tell.
        """
        values = z.astype(np.float64) * STEP_UNIT + self.medians[:, None, None]
        for layer in self.layers:
            values = apply(layer, values)
        return values[:, :height, :width]


@dataclass(frozen=True, eq=False)
class HyperConditions:
    """The scales of y (M, height, width), as z's symbols say."""

    entropy: EntropyParameters
    z: Int32
    height: int
    width: int

    @cached_property
    def scales(self) -> NDArray[np.float64]:
        """All of them, kept for other steps."""
        return self.entropy.scales(self.z, self.height, self.width)

    def schedule(self, step: int) -> Schedule:
        """Walk y in one group with means of zero."""
        symbols = yield Group(..., self._tables(step), np.zeros((), np.int32))
        return Latents(symbols * np.int32(step), (symbols.astype(np.int16),))

    def _tables(self, step: int) -> NDArray[np.uint8]:
        """Give the table index of each latent; scales of a large strip are computed again for each step, in parts."""
        thresholds = self.entropy.thresholds
        if max(self.z.shape[1:]) <= _WINDOW:
            return scale_index(self.scales, thresholds, step)
        index = np.empty((thresholds.shape[0], self.height, self.width), np.uint8)
        for tile in tiles(self.z.shape[1], self.z.shape[2], _WINDOW, _HALO):
            z = self.z[:, tile.rows, tile.columns]
            scales = self.entropy.scales(z, HYPER_STRIDE * z.shape[1], HYPER_STRIDE * z.shape[2])
            scales = scales[:, scaled(tile.inner_rows, HYPER_STRIDE), scaled(tile.inner_columns, HYPER_STRIDE)]
            rows, columns = shifted(tile.rows, tile.inner_rows), shifted(tile.columns, tile.inner_columns)
            part = index[:, scaled(rows, HYPER_STRIDE), scaled(columns, HYPER_STRIDE)]
            part[:] = scale_index(scales[:, : part.shape[1], : part.shape[2]], thresholds, step)
        return index


class Hyper:
    """An opened hyper model."""

    analysis_halo = 32
    synthesis_halo = 2

    def __init__(self, bundle: Bundle, threads: int) -> None:
        sizes = bundle.manifest.sizes
        if len(sizes) != 2:
            raise ModelDamaged(f"it has {len(sizes)} sizes, but hyper has two, N and M")
        self._bundle = bundle
        self._threads = threads
        self._n, self._m = sizes
        self.channels = self._m
        self.entropy = EntropyParameters(bundle.entropy, *sizes)
        self.z_tables = self.entropy.z_tables
        self.y_tables = self.entropy.y_tables

    @cached_property
    def _encoder(self) -> networks.Networks:
        return self._networks(self._bundle.analysis, "analysis", "hyper_analysis")

    @cached_property
    def _decoder(self) -> networks.Networks:
        return self._networks(self._bundle.synthesis, "synthesis")

    @cached_property
    def _refiner(self) -> networks.Networks:
        return self._networks(self._bundle.synthesis, "descent")

    def _networks(self, tensors: Mapping[str, NDArray[np.generic]], *names: str) -> networks.Networks:
        return networks.load("hyper", (self._n, self._m), tensors, self._threads, names)

    def check(self) -> None:
        """Check the real-valued networks' arrays."""
        _ = self._encoder, self._decoder

    def analyse(self, x: Float32) -> Float32:
        """Give y (M, H/16, W/16) of x (3, H, W) in [0, 1]."""
        return self._encoder.analyse(x)

    def side_information(self, y: Float32) -> Int32:
        """Give z's symbols (N, h/4, w/4), rounded up, of y (M, h, w)."""
        parts = [
            self._encoder.hyper_analyse(y[:, :, columns])[
                :, :, inner.start // HYPER_STRIDE : -(-inner.stop // HYPER_STRIDE)
            ]
            for columns, inner in spans(y.shape[2], _ANALYSED, _ANALYSIS_HALO)
        ]
        z = np.concatenate(parts, axis=2)
        if not np.isfinite(z).all():
            raise ImageError("the model gives no finite latents for this picture; use another model")
        symbols = np.rint(z - self.entropy.medians[:, None, None] / np.float32(STEP_UNIT))
        clipped: Int32 = np.clip(symbols, -LARGEST_VALUE, LARGEST_VALUE).astype(np.int32)
        return clipped

    def side_index(self, height: int, width: int) -> NDArray[np.integer[Any]]:
        """Give the table index of z's symbols: a table per channel."""
        shape = (self._n, -(-height // HYPER_STRIDE), -(-width // HYPER_STRIDE))
        return np.broadcast_to(np.arange(self._n, dtype=np.uint16)[:, None, None], shape)

    def conditions(self, z: Int32, height: int, width: int) -> HyperConditions:
        """Give what z's symbols say about y (M, height, width)."""
        return HyperConditions(self.entropy, z, height, width)

    def synthesise(self, y_hat: Float32) -> Float32:
        """Give x_hat (3, 16h, 16w)."""
        return self._decoder.synthesise(y_hat)

    def descend(self, y_hat: Float32, target: Float32, weight: Float32) -> Float32:
        """Give the gradient of half the weighted squared error with respect to y_hat."""
        return self._refiner.descend(y_hat, target, weight)


def _tables(arrays: Mapping[str, NDArray[np.generic]], latents: str) -> TableSet:
    parts = ("frequencies", "lengths", "minimums")
    missing = [f"{latents}.{part}" for part in parts if f"{latents}.{part}" not in arrays]
    if missing:
        raise ModelDamaged(f"its entropy parameters lack {missing[0]}")
    return TableSet.from_arrays(**{part: arrays[f"{latents}.{part}"] for part in parts})
