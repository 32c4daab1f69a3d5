"""What architectures with side information share: the integers that select probabilities, and the networks' calls.

x -> analysis -> y -> hyper analysis -> z -> round -> integers that say what y is like
                 y_hat -> synthesis -> x_hat
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustcodec import networks
from robustcodec.architectures import Float32, Int32, Positions
from robustcodec.bundle import Bundle
from robustcodec.dither import OFFSETS, DitheredScales, offsets
from robustcodec.entropy import LARGEST_VALUE, TableSet
from robustcodec.errors import ImageError, ModelDamaged
from robustcodec.exact import Float64, IntegerLayer, LayerSpec, check_thresholds, layers_from_arrays
from robustcodec.rate import STEP_UNIT
from robustcodec.tiling import scaled, shifted, spans, tiles

HYPER_STRIDE = 4
"""Latents of y per element of z, in each direction."""

MAX_MEDIAN = 1 << 20
"""Bound of z's medians, in units of 1/1024."""

MAX_INPUT = LARGEST_VALUE * STEP_UNIT + MAX_MEDIAN
"""Largest magnitude that enters the integer hyper synthesis."""

DITHER = "dither"
"""Prefix of the tables of dithered latents, eight of each scale from that of number `first` on."""

DEAD_ZONES = "dead_zones"
"""Array beside those of the analysis: uint16, a magnitude for each of y's scales in 1/1024 of a step."""

_ANALYSED = 512
"""Columns of y, 8192 pixels, that the hyper analysis is given at once; only wide pictures have more."""

_ANALYSIS_HALO = 8
"""Latents around them that their z depends on, a multiple of HYPER_STRIDE."""


@dataclass(frozen=True, eq=False)
class Dither:
    """The dither of one strip: `chosen` are the numbers of the offsets of y (M, h, w)."""

    dithered: DitheredScales
    chosen: NDArray[np.uint8]

    def applied(
        self, positions: Positions, levels: NDArray[np.integer[Any]], step: int
    ) -> tuple[NDArray[np.uint16], Int32]:
        """Give the tables of latents with these scales, and what offsets add to their means, at a step R."""
        return self.dithered.applied(levels, self.chosen[positions], step)


class IntegerParameters:
    """Everything that selects probabilities: integers out of a bundle, of the right types and shapes.

    That the layers are exact is for each architecture to prove.
    """

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]], n: int, m: int, specs: Sequence[LayerSpec]) -> None:
        plain = _tables(arrays, "y")
        self.z_tables = _tables(arrays, "z")
        self.dithered = _dithered(arrays, len(plain))
        parts = ("frequencies", "lengths", "minimums")
        expected = {
            *(f"{spec.name}.{part}" for spec in specs for part in ("weight", "bias", "shift")),
            *(f"{latents}.{part}" for latents in "yz" for part in parts),
            *(f"{DITHER}.{part}" for part in (*parts, "first") if self.dithered.tables),
            "thresholds",
            "medians",
        }
        if set(arrays) != expected:
            odd = sorted(set(arrays) ^ expected)[0]
            raise ModelDamaged(f"its entropy parameters have missing or unknown arrays, {odd} among them")
        if len(self.z_tables) != n:
            raise ModelDamaged(f"it has {len(self.z_tables)} tables for the {n} channels of z")
        self.layers: tuple[IntegerLayer, ...] = layers_from_arrays(specs, arrays)
        self.thresholds = check_thresholds(arrays["thresholds"], m, len(plain) - 1)
        medians = arrays["medians"]
        if medians.dtype != np.int32 or medians.shape != (n,) or np.abs(medians.astype(np.int64)).max() > MAX_MEDIAN:
            raise ModelDamaged(f"its medians must be {n} integers of 32 bits within ±{MAX_MEDIAN}")
        self.medians: Int32 = medians.astype(np.int32)
        self.y_tables = TableSet((*plain, *_tables(arrays, DITHER))) if self.dithered.tables else plain

    def dither(self, key: bytes, height: int, width: int) -> Dither | None:
        """Give what a strip's key makes of the quantiser of y (M, height, width)."""
        if not key:
            return None
        return Dither(self.dithered, offsets(key, (len(self.thresholds), height, width)))

    def z_hat(self, z: Int32) -> Float64:
        """Give what z's symbols stand for, in units of 1/1024."""
        return z.astype(np.float64) * STEP_UNIT + self.medians[:, None, None]


def in_windows(
    compute: Callable[[Int32], Float64], z: Int32, height: int, width: int, window: int, halo: int
) -> Iterator[tuple[slice, slice, Float64]]:
    """Compute an integer hyper synthesis in windows, which bounds its memory.

    `compute` makes (C, 4h, 4w) of symbols (N, h, w); `window` is the side in elements of z of what it is asked for at
    once, `halo` what its result depends on around them. Yields rows and columns of y (height, width) and their values.
    """
    for tile in tiles(z.shape[1], z.shape[2], window, halo):
        rows, columns = shifted(tile.rows, tile.inner_rows), shifted(tile.columns, tile.inner_columns)
        own_rows = slice(HYPER_STRIDE * rows.start, min(HYPER_STRIDE * rows.stop, height))
        own_columns = slice(HYPER_STRIDE * columns.start, min(HYPER_STRIDE * columns.stop, width))
        values = compute(z[:, tile.rows, tile.columns])
        values = values[:, scaled(tile.inner_rows, HYPER_STRIDE), scaled(tile.inner_columns, HYPER_STRIDE)]
        shown = values[:, : own_rows.stop - own_rows.start, : own_columns.stop - own_columns.start]
        yield own_rows, own_columns, shown


class Synthesiser(Protocol):
    """Makes pictures of latents."""

    def synthesise(self, y_hat: Float32) -> Float32:
        """Give x_hat (3, 16h, 16w) of y_hat (M, h, w), neither clipped nor sure to be finite."""


class Hyperprior:
    """An opened model with side information; `name` is its architecture's."""

    name: str

    def __init__(self, bundle: Bundle, threads: int, entropy: IntegerParameters) -> None:
        self._bundle = bundle
        self._threads = threads
        self._n, self.channels = sizes_of(bundle, self.name)
        self._medians = entropy.medians
        self.z_tables = entropy.z_tables
        self.y_tables = entropy.y_tables
        self.dithered = entropy.dithered

    @cached_property
    def dead_zones(self) -> Float32:
        """Half widths (tables of y,), in quantisation steps; what is dithered has none."""
        zones = dead_zones_in(self._bundle.analysis, self.dithered.scales)
        return np.append(zones, np.full(len(self.y_tables) - zones.size, 0.5, np.float32))

    @cached_property
    def _encoder(self) -> networks.Networks:
        return self._networks(transforms_in(self._bundle.analysis), "analysis", "hyper_analysis")

    @cached_property
    def _decoder(self) -> Synthesiser:
        return self._networks(self._bundle.synthesis, "synthesis")

    @cached_property
    def _refiner(self) -> networks.Networks:
        return self._networks(self._bundle.synthesis, "descent")

    def _networks(self, tensors: Mapping[str, NDArray[np.generic]], *names: str) -> networks.Networks:
        return networks.load(self.name, (self._n, self.channels), tensors, self._threads, names)

    def check(self) -> None:
        """Check the real-valued networks' arrays."""
        _ = self._encoder, self._decoder, self.dead_zones

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
        symbols = np.rint(z - self._medians[:, None, None] / np.float32(STEP_UNIT))
        clipped: Int32 = np.clip(symbols, -LARGEST_VALUE, LARGEST_VALUE).astype(np.int32)
        return clipped

    def side_index(self, height: int, width: int) -> NDArray[np.integer[Any]]:
        """Give the table index of z's symbols: a table per channel."""
        shape = (self._n, -(-height // HYPER_STRIDE), -(-width // HYPER_STRIDE))
        return np.broadcast_to(np.arange(self._n, dtype=np.uint16)[:, None, None], shape)

    def synthesise(self, y_hat: Float32) -> Float32:
        """Give x_hat (3, 16h, 16w)."""
        return self._decoder.synthesise(y_hat)

    def descend(self, y_hat: Float32, target: Float32, weight: Float32) -> Float32:
        """Give the gradient of half the weighted squared error with respect to y_hat."""
        return self._refiner.descend(y_hat, target, weight)


def sizes_of(bundle: Bundle, name: str) -> tuple[int, int]:
    """Give N and M. Raises ModelDamaged."""
    sizes = bundle.manifest.sizes
    if len(sizes) != 2:
        raise ModelDamaged(f"it has {len(sizes)} sizes, but {name} has two, N and M")
    return sizes[0], sizes[1]


def transforms_in(analysis: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """Give the arrays of a bundle's analysis part that are those of its networks."""
    return {name: array for name, array in analysis.items() if name != DEAD_ZONES}


def dead_zones_in(analysis: Mapping[str, NDArray[np.generic]], tables: int) -> Float32:
    """Give the dead zones of a bundle's analysis part, in steps; without any they are what rounds to zero."""
    zones = analysis.get(DEAD_ZONES, np.full(tables, STEP_UNIT // 2, np.uint16))
    if zones.dtype != np.uint16 or zones.shape != (tables,) or zones.astype(np.uint16).min() < STEP_UNIT // 2:
        raise ModelDamaged(f"its dead zones must be {tables} integers of 16 bits, none below {STEP_UNIT // 2}")
    return zones.astype(np.float32) / np.float32(STEP_UNIT)


def _dithered(arrays: Mapping[str, NDArray[np.generic]], scales: int) -> DitheredScales:
    """Give the scales that have tables for each offset; none without such tables."""
    first, lengths = arrays.get(f"{DITHER}.first"), arrays.get(f"{DITHER}.lengths")
    if first is None or lengths is None:
        return DitheredScales(scales, 0, 0)
    if first.dtype != np.int32 or first.shape != (1,) or lengths.ndim != 1 or lengths.size % OFFSETS:
        raise ModelDamaged(f"its tables of dithered latents must be {OFFSETS} for each scale from a first one on")
    begin = int(first.astype(np.int64)[0])
    return DitheredScales(scales, begin, begin + lengths.size // OFFSETS)


def _tables(arrays: Mapping[str, NDArray[np.generic]], latents: str) -> TableSet:
    parts = ("frequencies", "lengths", "minimums")
    missing = [f"{latents}.{part}" for part in parts if f"{latents}.{part}" not in arrays]
    if missing:
        raise ModelDamaged(f"its entropy parameters lack {missing[0]}")
    return TableSet.from_arrays(**{part: arrays[f"{latents}.{part}"] for part in parts})
