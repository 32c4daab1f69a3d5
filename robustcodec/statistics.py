"""What a picture's details say about how well a transform codec can do: how many there are of each size, by block."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from robustcodec.metrics import Pixels, column_errors

Float64 = NDArray[np.float64]

BLOCK = 64
"""Side in pixels of the blocks that are described each by itself."""

_LEVELS = 4
_BINS = 32
"""Half octaves of a detail's magnitude, from 1/8 of an 8-bit level upwards."""

_LOWEST = int(np.float32(0.125).view(np.int32)) >> 22
_MAGNITUDES = 0.125 * 2.0 ** (np.arange(_BINS) // 2) * np.where(np.arange(_BINS) % 2, 1.75, 1.25)
"""What the magnitudes in a bin count as: the first bits of a float are its octave and the half of it."""

_BAND = 1 << 20  # pixels that are looked at together

_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32)
_COLOURS /= np.linalg.norm(_COLOURS, axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Counts (rows, columns, bins) of the details in each block, and samples (rows, columns) in each."""

    counts: NDArray[np.int64]
    samples: NDArray[np.int64]

    @cached_property
    def whole(self) -> "Statistics":
        """The same for all blocks together."""
        return Statistics(self.counts.sum((0, 1), keepdims=True), self.samples.sum((0, 1), keepdims=True))

    def features(self, threshold: float) -> Float64:
        """Give (rows, columns, 2) for details that are cut off at a threshold, in 8-bit levels.

        The first is the logarithm of the mean square of what would be lost if each detail were replaced by nothing as
        far as it is below the threshold, the second that of the bits that the rest would take.
        """
        lost = np.minimum(_MAGNITUDES, threshold) ** 2
        bits = np.log2(1 + _MAGNITUDES / threshold)
        means = self.counts @ np.stack([lost, bits], axis=1) / self.samples[..., None]
        result: Float64 = np.log(means + np.array([0.01, 0.001]))
        return result


def describe(pixels: Pixels) -> Statistics:
    """Describe a picture, uint8 (height, width, 3), by its orthonormal Haar details in opponent colours.

    Blocks lie on a grid; what remains at the right and lower edge belongs to the last ones.
    """
    height, width = pixels.shape[:2]
    rows, columns = max(1, height // BLOCK), max(1, width // BLOCK)
    counts = np.zeros((rows, columns, _BINS), np.int64)
    for top, bottom in _bands(height, width):
        for level, details in enumerate(_haar(pixels[top:bottom])):
            size = 2 << level
            row = np.minimum((top + size * np.arange(details.shape[1])) // BLOCK, rows - 1)
            column = np.minimum(size * np.arange(details.shape[2]) // BLOCK, columns - 1)
            bins = np.abs(details, out=details).view(np.int32)
            bins >>= 22
            np.clip(bins, _LOWEST, _LOWEST + _BINS - 1, out=bins)
            bins += (_BINS * (columns * row[:, None] + column) - _LOWEST).astype(np.int32)
            counts += np.bincount(bins.ravel(), minlength=counts.size).reshape(counts.shape)
    return Statistics(counts, 3 * np.outer(_lengths(height, rows), _lengths(width, columns)))


def block_errors(a: Pixels, b: Pixels) -> Float64:
    """Give the mean squared difference (rows, columns) of two pictures in each of the blocks that `describe` has."""
    height, width = a.shape[:2]
    rows, columns = max(1, height // BLOCK), max(1, width // BLOCK)
    errors = np.empty((rows, columns))
    starts = BLOCK * np.arange(columns)
    for row in range(rows):
        span = slice(row * BLOCK, (row + 1) * BLOCK if row < rows - 1 else height)
        errors[row] = np.add.reduceat(column_errors(a[span], b[span]), starts)
    return errors / (3 * np.outer(_lengths(height, rows), _lengths(width, columns)))


def _lengths(length: int, blocks: int) -> NDArray[np.int64]:
    lengths = np.full(blocks, BLOCK, np.int64)
    lengths[-1] = length - BLOCK * (blocks - 1)
    return lengths


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(BLOCK, _BAND // width // BLOCK * BLOCK)
    for top in range(0, height, step):
        yield top, min(top + step, height)


def _haar(pixels: Pixels) -> Iterator[NDArray[np.float32]]:
    """Details (9, h, w) of each level, the finest first; what lacks to whole ones is replicated."""
    unit = 1 << _LEVELS
    missing = [-side % unit for side in pixels.shape[:2]]
    if any(missing):
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    height, width = pixels.shape[:2]
    plane = (_COLOURS @ pixels.reshape(-1, 3).T.astype(np.float32)).reshape(3, height, width)
    for _ in range(_LEVELS):
        up, down = plane[:, ::2], plane[:, 1::2]
        total, difference = up + down, up - down
        smooth, across = total[:, :, ::2] + total[:, :, 1::2], total[:, :, ::2] - total[:, :, 1::2]
        along, both = difference[:, :, ::2] + difference[:, :, 1::2], difference[:, :, ::2] - difference[:, :, 1::2]
        yield np.concatenate([across, along, both]) * np.float32(0.5)
        plane = smooth * np.float32(0.5)
