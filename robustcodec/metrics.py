"""How far apart two pictures are and what a file costs per pixel, with numpy alone.

Pictures are uint8 (height, width, 3) RGB, both of one size.
"""

import math
from typing import Any, TypeAlias

import numpy as np

from robustcodec.pixels import Pixels

_Plane: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_BAND_PIXELS = 1 << 18  # differences are taken on bands of rows that stay in the cache
_MOST_ROWS = 1 << 15  # squares of so many rows add up to less than 2^31

# Wang, Simoncelli, Bovik 2003: an 11-tap Gaussian of sigma 1.5 and five scales.
_TAPS = 11
_WINDOW = np.exp(-((np.arange(_TAPS, dtype=np.float64) - _TAPS // 2) ** 2) / (2 * 1.5**2))
_WINDOW /= _WINDOW.sum()
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2


def mse(a: Pixels, b: Pixels) -> float:
    """Mean squared difference of all samples, in units of 8-bit levels; summed exactly, as integers."""
    _check(a, b)
    return int(column_errors(a, b).sum()) / a.size


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB over all samples; infinite for equal pictures."""
    return _decibels(mse(a, b))


def worst_block(a: Pixels, b: Pixels, size: int = 64) -> float:
    """The lowest PSNR in dB of the blocks of `size` x `size` pixels that cover the picture.

    Blocks at the right and lower edge are moved inwards so that they are whole; blocks are as small as the
    picture where that is smaller.
    """
    _check(a, b)
    height, width = min(size, a.shape[0]), min(size, a.shape[1])
    lefts = np.array(_starts(a.shape[1], width))
    worst = 0
    for top in _starts(a.shape[0], height):
        rows = slice(top, top + height)
        upto = np.concatenate(([0], np.cumsum(column_errors(a[rows], b[rows]))))
        worst = max(worst, int((upto[lefts + width] - upto[lefts]).max()))
    return _decibels(worst / (height * width * 3))


def column_errors(a: Pixels, b: Pixels) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Give the sum of squared differences (width,) of each column of pixels, exactly."""
    total = np.zeros(a.shape[1] * 3, np.int64)
    step = min(max(1, _BAND_PIXELS // a.shape[1]), _MOST_ROWS)
    for top in range(0, a.shape[0], step):
        difference = a[top : top + step].astype(np.int32) - b[top : top + step]
        # rows are added up as one long vector each, which is several times as fast as pixels of three
        total += np.square(difference, out=difference).reshape(len(difference), -1).sum(axis=0, dtype=np.int32)
    columns: np.ndarray[Any, np.dtype[np.int64]] = total.reshape(-1, 3).sum(axis=1)
    return columns


def ms_ssim(a: Pixels, b: Pixels) -> float:
    """Multi-scale structural similarity, 1 for equal pictures: each channel apart, then their mean.

    Agrees with pytorch-msssim (data_range 255) to 1e-4 where that is defined, above 160 pixels on the shorter
    side. Smaller pictures use as many of the five scales as keep a whole window, the weights of the others
    spread over them; sides below 11 pixels are first extended by repeating the last row or column.
    """
    _check(a, b)
    sides = [max(0, _TAPS - side) for side in a.shape[:2]]
    if any(sides):
        widths = ((0, sides[0]), (0, sides[1]), (0, 0))
        a, b = np.pad(a, widths, mode="edge"), np.pad(b, widths, mode="edge")
    shorter = min(a.shape[:2])
    scales = sum(shorter > (_TAPS - 1) << k for k in range(len(_SCALE_WEIGHTS)))
    kept = _SCALE_WEIGHTS[:scales]
    weights = [weight * sum(_SCALE_WEIGHTS) / sum(kept) for weight in kept]
    channels = [_ms_ssim(a[..., c], b[..., c], weights) for c in range(3)]
    return sum(channels) / 3


def bits_per_pixel(num_bytes: int, width: int, height: int) -> float:
    """Bits of the whole file per pixel of the picture."""
    return 8 * num_bytes / (width * height)


def _check(a: Pixels, b: Pixels) -> None:
    for pixels in (a, b):
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise ValueError(f"pictures must be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}")
    if a.shape != b.shape:
        raise ValueError(f"the pictures differ in size: {a.shape} and {b.shape}")


def _decibels(error: float) -> float:
    return 10 * math.log10(255**2 / error) if error > 0 else math.inf


def _starts(length: int, size: int) -> list[int]:
    return [*range(0, length - size, size), length - size]


def _ms_ssim(a: Pixels, b: Pixels, weights: list[float]) -> float:
    x, y = a.astype(np.float32), b.astype(np.float32)
    value = 1.0
    for scale, weight in enumerate(weights):
        luminance_and_structure, structure = _ssim(x, y)
        last = scale == len(weights) - 1
        value *= max(0.0, luminance_and_structure if last else structure) ** weight
        if not last:
            x, y = _halve(x), _halve(y)
    return value


def _ssim(x: _Plane, y: _Plane) -> tuple[float, float]:
    mean_x, mean_y = _blur(x), _blur(y)
    variances = _blur(x * x + y * y) - mean_x**2 - mean_y**2
    structure = (2 * (_blur(x * y) - mean_x * mean_y) + _C2) / (variances + _C2)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return float((luminance * structure).mean(dtype=np.float64)), float(structure.mean(dtype=np.float64))


def _blur(plane: _Plane) -> _Plane:
    """The separable Gaussian on the positions where the whole window lies inside."""
    for axis in (0, 1):
        plane = plane.swapaxes(0, axis)
        length = plane.shape[0] - _TAPS + 1
        middle = _TAPS // 2
        total = plane[middle : middle + length] * np.float32(_WINDOW[middle])
        for tap in range(middle):  # the window is symmetric: one product for two taps
            pair = plane[tap : tap + length] + plane[_TAPS - 1 - tap : _TAPS - 1 - tap + length]
            pair *= np.float32(_WINDOW[tap])
            total += pair
        plane = total.swapaxes(0, axis)
    return plane


def _halve(plane: _Plane) -> _Plane:
    """Mean of 2 x 2 samples; an odd side first gets a zero in front, which is what torch's pooling does."""
    plane = np.pad(plane, [(side % 2, 0) for side in plane.shape])
    blocks = plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2)
    halved: _Plane = blocks.mean(axis=(1, 3), dtype=np.float32)
    return halved
