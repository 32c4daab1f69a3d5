"""The real-valued transforms on pictures of any size: tile by tile, so that memory is bounded and no seam can exist."""

from collections.abc import Callable

import numpy as np

from robustcodec.architectures import Architecture, Float32, Int32
from robustcodec.errors import CorruptFile
from robustcodec.networks import STRIDE
from robustcodec.pixels import Pixels
from robustcodec.rate import STEP_UNIT
from robustcodec.tiling import Region, scaled, shifted, spans

TILE = 1024
"""Side in pixels of the tiles that networks see at once: bounds their memory."""

ReadLatents = Callable[[int, int], Int32]
"""Gives rows of latents (M, last - first, w) in units of 1/1024, from `first` to before `last`."""


def analyse(architecture: Architecture, pixels: Pixels, top: int, bottom: int) -> Float32:
    """Give y (M, h, w) of a picture's rows from `top`, a multiple of 16, to before `bottom`.

    The networks see the rows around them, too. Beyond the right and lower edge the picture is replicated to whole
    latents.
    """
    height, width = latents_of(pixels.shape[0]) * STRIDE, latents_of(pixels.shape[1]) * STRIDE
    halo, stop = architecture.analysis_halo, latents_of(bottom) * STRIDE
    y: Float32 | None = None
    for rows, inner_rows in spans(height, TILE, halo, top, stop):
        for columns, inner_columns in spans(width, TILE, halo):
            part = architecture.analyse(network_input(pixels, rows, columns))
            if y is None:
                y = np.empty((part.shape[0], (stop - top) // STRIDE, width // STRIDE), np.float32)
            start = rows.start + inner_rows.start - top
            place = slice(start, start + inner_rows.stop - inner_rows.start)
            y[:, scaled(place, divide=STRIDE), scaled(shifted(columns, inner_columns), divide=STRIDE)] = part[
                :, scaled(inner_rows, divide=STRIDE), scaled(inner_columns, divide=STRIDE)
            ]
    assert y is not None
    return y


def network_input(pixels: Pixels, rows: slice, columns: slice) -> Float32:
    """Give a tile as (3, rows, columns) in [0, 1], with what the picture lacks of it replicated."""
    tile = pixels[rows, columns]
    missing = rows.stop - rows.start - tile.shape[0], columns.stop - columns.start - tile.shape[1]
    if any(missing):
        tile = np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    x = tile.transpose(2, 0, 1).astype(np.float32)
    x *= np.float32(1 / 255)
    return x


def synthesise(
    architecture: Architecture, read: ReadLatents, height: int, width: int, region: Region, *, grey: bool = False
) -> Pixels:
    """Give the pixels of a region of a picture of `height` x `width`: uint8 (region.height, region.width, 3).

    A grey picture has 1 channel instead, the mean of the three. The pixels are what they would be in any other region,
    since tiles lie on one grid. `read` is asked for no more rows than the region needs, and never for earlier ones
    again. Raises CorruptFile if they decode to no finite picture.
    """
    result = np.empty((region.height, region.width, 1 if grey else 3), np.uint8)
    halo = architecture.synthesis_halo
    for rows, inner_rows in spans(latents_of(height), TILE // STRIDE, halo, *_on_grid(region.rows, height)):
        y_hat = read(rows.start, rows.stop)
        rows_shown, rows_taken = _shown(region.rows, rows, inner_rows)
        for columns, inner_columns in spans(latents_of(width), TILE // STRIDE, halo, *_on_grid(region.columns, width)):
            x = architecture.synthesise(y_hat[:, :, columns].astype(np.float32) * np.float32(1 / STEP_UNIT))
            columns_shown, columns_taken = _shown(region.columns, columns, inner_columns)
            _to_pixels(x[:, rows_taken, columns_taken], result[rows_shown, columns_shown])
    return result


def latent_rows(architecture: Architecture, rows: slice, height: int) -> range:
    """Give the rows of latents that synthesising these rows of a picture of `height` rows reads."""
    first, last = _on_grid(rows, height)
    halo = architecture.synthesis_halo
    return range(max(0, first - halo), min(latents_of(height), last + halo))


def _on_grid(side: slice, length: int) -> tuple[int, int]:
    """Give the first latent of the tiles that show these pixels of one side, and the one after the last."""
    return side.start // TILE * TILE // STRIDE, min(latents_of(length), -(-side.stop // TILE) * TILE // STRIDE)


def _shown(side: slice, tile: slice, inner: slice) -> tuple[slice, slice]:
    """Give where a tile's pixels lie in the region's and which of the tile's pixels those are, along one side."""
    origin = tile.start * STRIDE
    first = max(side.start, origin + inner.start * STRIDE)
    last = min(side.stop, origin + inner.stop * STRIDE)
    return slice(first - side.start, last - side.start), slice(first - origin, last - origin)


def _to_pixels(x: Float32, result: Pixels) -> None:
    if not np.isfinite(x).all():
        raise CorruptFile("the latents of this file decode to no finite picture; it was made to do harm")
    if result.shape[2] == 1:  # the mean of the three has less error than any of them, or than their luminance
        x = np.clip(x, 0, 1).mean(axis=0, keepdims=True)
    for channel, plane in enumerate(x):  # a plane fits the cache, which makes this twice as fast
        # clipped first, since hostile latents give numbers that overflow when multiplied
        result[:, :, channel] = np.clip(plane, 0, 1) * np.float32(255) + np.float32(0.5)


def latents_of(pixels: int) -> int:
    """Give the number of latents along a side of so many pixels."""
    return -(-pixels // STRIDE)
