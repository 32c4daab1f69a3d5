"""3x3 convolutions with a quarter of the multiplications, in numpy: Winograd's F(4x4, 3x3).

A tile of 6x6 values gives 4x4 results. Tiles and kernels are taken to another basis, of 36 values, in which a
convolution is a product for each of these: 36 matrix products do for all tiles what takes a direct convolution 144. The
sums are of other terms, and differ as roundings of float32 do. Which values are summed in which order depends on the
size of a plane, not on the number of threads.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_TILE = 4
_SEEN = _TILE + 2

_VALUES = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
"""Takes six values in a line to the basis (Lavin and Gray 2016, with the points 0, 1, -1, 2, -2 and infinity)."""
_TAPS = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
"""Takes three taps to it."""
_RESULTS = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
"""Takes products back, to four results."""

_TAPS_OF_A_KERNEL = np.kron(_TAPS, _TAPS)
_FORTH = np.kron(_VALUES, _VALUES).astype(np.float32)
_BACK = np.kron(_RESULTS, _RESULTS).astype(np.float32)

_BLOCK = 24
"""Tiles that are worked on together: so few that what they need stays in a processor's cache."""

Finish = Callable[[Float32], None]
"""Changes results (n, K) in place, before they are written."""


class Memory:
    """Room for one plane at a time, which stays as large as the largest was: arrays new to the system cost time."""

    def __init__(self) -> None:
        self._values = np.empty(0, np.float32)

    def of(self, *shape: int) -> Float32:
        """Give an array of a shape, with any values."""
        count = math.prod(shape)
        if self._values.size < count:
            self._values = np.empty(count, np.float32)
        return self._values[:count].reshape(shape)


@dataclass(frozen=True, eq=False)
class Plane:
    """Values (height, width, C) in an array with room for whole tiles, and zeros around them."""

    padded: Float32
    height: int
    width: int

    @classmethod
    def empty(cls, memory: Memory, height: int, width: int, channels: int, scale: int = 1) -> "Plane":
        """Make room for `scale` times the values in each direction, yet to be written."""
        rows, columns = (scale * _TILE * -(-side // _TILE) + 2 for side in (height, width))
        padded = memory.of(rows, columns, channels)
        padded[0], padded[:, 0] = 0, 0
        return cls(padded, scale * height, scale * width)

    @classmethod
    def of(cls, memory: Memory, values: Float32) -> "Plane":
        """Make a plane of values (C, height, width)."""
        channels, height, width = values.shape
        plane = cls.empty(memory, height, width, channels)
        plane.values[...] = values.transpose(1, 2, 0)
        plane.clear_rest()
        return plane

    @property
    def values(self) -> Float32:
        """The values themselves, to read and to write."""
        return self.padded[1 : self.height + 1, 1 : self.width + 1]

    def clear_rest(self) -> None:
        """Write zeros behind the values."""
        self.padded[self.height + 1 :] = 0
        self.padded[:, self.width + 1 :] = 0


class Convolution:
    """A convolution of kernel 3x3 that keeps the size of a plane, or doubles it.

    One that doubles it has four results for each of its channels, for the places of a 2x2 square.
    """

    def __init__(self, weight: Float32, bias: Float32, *, doubles: bool = False) -> None:
        """Take weight (K, C, 3, 3) and bias (K,), in the order of torch's PixelShuffle if it doubles."""
        self._scale = 2 if doubles else 1
        kernel = (weight.reshape(-1, 9) @ _TAPS_OF_A_KERNEL.T).astype(np.float32)
        self._kernels = self._of_places(kernel.reshape(*weight.shape[:2], -1).transpose(2, 1, 0))
        self._biases = self._of_places(bias)

    def _of_places(self, array: Float32) -> list[Float32]:
        """Cut the last axis, by the place in a square that results are for."""
        return [np.ascontiguousarray(array[..., place :: self._scale**2]) for place in range(self._scale**2)]

    def __call__(self, plane: Plane, onto: Plane | Memory, threads: int, finish: Finish | None = None) -> Plane:
        """Convolve a plane on so many threads, each of which needs numpy's BLAS for itself alone.

        The results, which `finish` changes, are added to a plane, or make a new one.
        """
        if adds := isinstance(onto, Plane):
            result = onto
        else:
            result = Plane.empty(onto, plane.height, plane.width, self._biases[0].size, self._scale)
        rows, columns = (-(-side // _TILE) for side in (plane.height, plane.width))
        sources, targets = _sources(plane.padded, rows, columns), _targets(result.padded, rows, columns, self._scale)
        blocks = list(_blocks(rows, columns))
        threads = min(threads, len(blocks))

        @np.errstate(all="ignore")  # what comes of hostile latents is infinite, and then no number
        def work(first: int) -> None:
            scratch = _Scratch.of(*self._kernels[0].shape[1:])
            for block in blocks[first::threads]:
                values = scratch.change(sources[block])
                for place, (kernel, bias) in enumerate(zip(self._kernels, self._biases, strict=True)):
                    found = scratch.multiply(values, kernel)
                    found += bias
                    if finish is not None:
                        finish(found)
                    target = targets[(*block, slice(None), slice(None), *divmod(place, self._scale))]
                    # from places in a tile and tiles
                    found = found.reshape(_TILE, _TILE, *target.shape[:2], -1).transpose(2, 3, 0, 1, 4)
                    if adds:
                        target += found
                    else:
                        target[...] = found

        if threads == 1:  # to start one takes longer than a small picture
            work(0)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, range(threads)))
        result.clear_rest()
        return result


@dataclass(frozen=True, eq=False)
class _Scratch:
    """What one thread takes for a block: its tiles, these in the basis, the products and the results."""

    tiles: Float32
    values: Float32
    products: Float32
    results: Float32

    @classmethod
    def of(cls, inputs: int, outputs: int) -> "_Scratch":
        """Make room for blocks of so many channels."""
        sizes = (_SEEN**2 * inputs, _SEEN**2 * inputs, _SEEN**2 * outputs, _TILE**2 * outputs)
        return cls(*(np.empty(_BLOCK * size, np.float32) for size in sizes))

    def change(self, source: Float32) -> Float32:
        """Take tiles (rows, columns, 6, 6, C) to the basis: (36, rows * columns, C)."""
        rows, columns, _, _, channels = source.shape
        shape = (_SEEN**2, rows * columns, channels)
        tiles, values = (each[: math.prod(shape)].reshape(_SEEN**2, -1) for each in (self.tiles, self.values))
        tiles.reshape(_SEEN, _SEEN, rows, columns, channels)[...] = source.transpose(2, 3, 0, 1, 4)
        return np.matmul(_FORTH, tiles, out=values).reshape(shape)

    def multiply(self, values: Float32, kernel: Float32) -> Float32:
        """Give the results (16 * tiles, K) of values in the basis (36, tiles, C) and a kernel (36, C, K)."""
        shape = (_SEEN**2, values.shape[1], kernel.shape[2])
        products = np.matmul(values, kernel, out=self.products[: math.prod(shape)].reshape(shape))
        results = self.results[: _TILE**2 * math.prod(shape[1:])].reshape(_TILE**2, -1)
        return np.matmul(_BACK, products.reshape(_SEEN**2, -1), out=results).reshape(-1, shape[2])


def _sources(padded: Float32, rows: int, columns: int) -> Float32:
    """View a plane as overlapping tiles (rows, columns, 6, 6, C)."""
    down, right, channel = padded.strides
    shape = (rows, columns, _SEEN, _SEEN, padded.shape[2])
    return as_strided(padded, shape, (_TILE * down, _TILE * right, down, right, channel), writeable=False)


def _targets(padded: Float32, rows: int, columns: int, scale: int) -> Float32:
    """View a plane as tiles (rows, columns, 4, 4, scale, scale, C), of which each place is a square."""
    down, right, channel = padded.strides
    shape = (rows, columns, _TILE, _TILE, scale, scale, padded.shape[2])
    steps = (_TILE * scale * down, _TILE * scale * right, scale * down, scale * right, down, right, channel)
    return as_strided(padded[1:, 1:], shape, steps)


def _blocks(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Cut so many rows and columns of tiles into blocks of at most `_BLOCK`."""
    wide = min(columns, _BLOCK)
    high = _BLOCK // wide
    for row in range(0, rows, high):
        for column in range(0, columns, wide):
            yield slice(row, min(row + high, rows)), slice(column, min(column + wide, columns))
