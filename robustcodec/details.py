"""What a picture's details say about how well a transform codec can do: how many there are of each size, by block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from robustcodec.metrics import column_errors
from robustcodec.pixels import Pixels

Float64 = NDArray[np.float64]

BLOCK = 64
"""Side in pixels of the blocks that are described each by itself."""

_LEVELS = 4
KINDS = 2 * _LEVELS
"""Of details: those of each level, of brightness and of colour apart."""

_BINS = 32
"""Half octaves of a detail's magnitude, from 1/8 of an 8-bit level upwards."""

_LOWEST = int(np.float32(0.125).view(np.int32)) >> 22
_MAGNITUDES = 0.125 * 2.0 ** (np.arange(_BINS) // 2) * np.where(np.arange(_BINS) % 2, 1.75, 1.25)
"""What the magnitudes in a bin count as: the first bits of a float are its octave and the half of it."""

_PIECE = 1 << 17  # pixels that are looked at together, where a row of blocks has no more: they stay in the cache
_WIDEST = 1 << 12  # columns that are, which bounds the memory

_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32)
_COLOURS /= np.linalg.norm(_COLOURS, axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Counts (rows, columns, kinds, bins) of the details in each block; pixels of the picture."""

    counts: NDArray[np.float32]
    pixels: int

    @cached_property
    def whole(self) -> "Statistics":
        """The same for all blocks together."""
        return Statistics(self.counts.sum((0, 1), keepdims=True, dtype=np.float64).astype(np.float32), self.pixels)

    def features(self, thresholds: Sequence[float]) -> Float64:
        """Give (rows, columns, 2 * kinds * thresholds) for details that are cut off at thresholds, in 8-bit levels.

        For each kind and threshold these are the logarithm of the mean square of what would be lost if each detail
        were replaced by nothing as far as it is below the threshold, and that of the bits that the rest would take.
        """
        number = self.counts.sum(-1)[..., None]
        parts = []
        for threshold in thresholds:
            lost = np.minimum(_MAGNITUDES, threshold) ** 2
            bits = np.log2(1 + _MAGNITUDES / threshold)
            means = self.counts @ np.stack([lost, bits], axis=1).astype(np.float32) / number
            parts.append(np.log(means + np.array([0.05, 0.005])))
        result: Float64 = np.concatenate(parts, axis=-1).reshape(*self.counts.shape[:2], -1)
        return result


def describe(pixels: Pixels) -> Statistics:
    """Describe a picture, uint8 (height, width, 3), by its orthonormal Haar details in opponent colours.

    Blocks lie on a grid; what remains at the right and lower edge belongs to the last ones.
    """
    height, width = pixels.shape[:2]
    rows, columns = _blocks(height, width)
    counts = np.zeros((rows, columns, KINDS, _BINS), np.float32)
    for piece in _pieces(height, width):
        own = counts[_blocks_of(piece)]
        for level, details in enumerate(_haar(_padded(pixels[piece]))[:-1]):
            size = 2 << level
            row = np.minimum(size * np.arange(details.shape[1]) // BLOCK, len(own) - 1)
            column = np.minimum(size * np.arange(details.shape[2]) // BLOCK, own.shape[1] - 1)
            kind = 2 * level + (np.arange(len(details)) % 3 > 0)
            bins = np.abs(details, out=details).view(np.int32)
            bins >>= 22
            np.clip(bins, _LOWEST, _LOWEST + _BINS - 1, out=bins)
            bins += (_BINS * KINDS * (own.shape[1] * row[:, None] + column) - _LOWEST).astype(np.int32)
            bins += (_BINS * kind[:, None, None]).astype(np.int32)
            own += np.bincount(bins.ravel(), minlength=own.size).reshape(own.shape)
    return Statistics(counts, height * width)


def block_errors(a: Pixels, b: Pixels) -> Float64:
    """Give the mean squared difference (rows, columns) of two pictures in each of the blocks that `describe` has."""
    height, width = a.shape[:2]
    rows, columns = _blocks(height, width)
    errors = np.empty((rows, columns))
    for down in _spans(height, BLOCK):
        for across in _spans(width, _WIDEST):
            own = errors[_blocks_of((down, across))]
            own[:] = np.add.reduceat(column_errors(a[down, across], b[down, across]), BLOCK * np.arange(own.shape[1]))
    return errors / _samples(height, width, (rows, columns))


def added(a: Pixels, b: Pixels) -> Float64:
    """Give the mean square (rows, columns), in each of these blocks, of what picture b has and a has not.

    An ordinary result lacks details, more or less of each. What lies beyond that, a detail with another sign or of
    more than its size, and a change of the means of 16 x 16 pixels, comes from the codec.
    """
    height, width = a.shape[:2]
    rows, columns = _blocks(height, width)
    total = np.zeros((rows, columns))
    for piece in _pieces(height, width):
        own = total[_blocks_of(piece)]
        picture, other_pixels = _padded(a[piece]), b[piece]
        result = picture.copy()  # beyond the picture's edges there is nothing to differ
        result[: other_pixels.shape[0], : other_pixels.shape[1]] = other_pixels
        *details, smooth = _haar(picture)
        *others, other_smooth = _haar(result)
        for level, (detail, other) in enumerate(zip(details, others, strict=True)):
            beyond = np.maximum(other - np.maximum(detail, 0), np.minimum(detail, 0) - other)
            _add(own, np.square(np.maximum(beyond, 0, out=beyond), out=beyond), 2 << level)
        _add(own, np.square(smooth - other_smooth), 1 << _LEVELS)
    return total / _samples(height, width, (rows, columns))


def _add(total: Float64, planes: NDArray[np.float32], size: int) -> None:
    """Add planes (n, h, w), whose elements stand for `size` pixels a side, to the blocks that they lie in."""
    plane = planes.sum(0)
    rows, columns = (BLOCK // size * np.arange(count) for count in total.shape)
    total += np.add.reduceat(np.add.reduceat(plane, rows, axis=0, dtype=np.float64), columns, axis=1)


def _blocks(height: int, width: int) -> tuple[int, int]:
    return max(1, height // BLOCK), max(1, width // BLOCK)


def _samples(height: int, width: int, blocks: tuple[int, int]) -> NDArray[np.int64]:
    samples: NDArray[np.int64] = 3 * np.outer(_lengths(height, blocks[0]), _lengths(width, blocks[1]))
    return samples


def _lengths(length: int, blocks: int) -> NDArray[np.int64]:
    lengths = np.full(blocks, BLOCK, np.int64)
    lengths[-1] = length - BLOCK * (blocks - 1)
    return lengths


def _pieces(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Cut a picture between blocks to rows and columns of pixels that are looked at together."""
    columns = max(min(width, _WIDEST), 1 << _LEVELS)
    for down in _spans(height, max(BLOCK, _PIECE // columns // BLOCK * BLOCK)):
        for across in _spans(width, _WIDEST):
            yield down, across


def _spans(length: int, step: int) -> Iterator[slice]:
    """Cut a side between blocks; what remains of it behind the last ones stays with them."""
    for start in range(0, max(1, length // BLOCK) * BLOCK, step):
        yield slice(start, start + step if start + step + BLOCK <= length else length)


def _blocks_of(piece: tuple[slice, slice]) -> tuple[slice, slice]:
    """Give the rows and columns of blocks of a piece."""
    down, across = (slice(span.start // BLOCK, max(span.stop // BLOCK, 1)) for span in piece)
    return down, across


def _padded(pixels: Pixels) -> Pixels:
    """Replicate what lacks to whole details of the coarsest level."""
    missing = [-side % (1 << _LEVELS) for side in pixels.shape[:2]]
    return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else pixels


def _haar(pixels: Pixels) -> list[NDArray[np.float32]]:
    """Give details (9, h, w) of each level, the finest first, and what remains (3, h, w); sides must be whole."""
    height, width = pixels.shape[:2]
    plane = (_COLOURS @ pixels.reshape(-1, 3).T.astype(np.float32)).reshape(3, height, width)
    found = []
    for _ in range(_LEVELS):
        up, down = plane[:, ::2], plane[:, 1::2]
        total, difference = up + down, up - down
        smooth, across = total[:, :, ::2] + total[:, :, 1::2], total[:, :, ::2] - total[:, :, 1::2]
        along, both = difference[:, :, ::2] + difference[:, :, 1::2], difference[:, :, ::2] - difference[:, :, 1::2]
        details = np.concatenate([across, along, both])
        details *= np.float32(0.5)
        found.append(details)
        plane = smooth * np.float32(0.5)
    return [*found, plane]
