"""Fits the guard's contract of a model to ordinary pictures: codes crops of them, decodes them, and looks."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from robustcodec.codec import Codec
from robustcodec.container import unpack
from robustcodec.contract import Contract, Result, density, fit
from robustcodec.details import added, block_errors, describe
from robustcodec.errors import ImageError, RobustcodecError
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.metrics import psnr
from robustcodec.rate import DEFAULT_TARGET, Step

CROPS = ((128, 128), (384, 384), (512, 768))
"""Rows and columns of the crops, one of each picture in turn: small pictures scatter more."""

_KINDS = 4
"""Of so many crops one is put through JPEG, as most has been that comes in, and one is of a picture that was halved:
both take more bits than they seem to."""

_JPEG, _HALVED = 1, 3
"""Which ones, of each so many."""

_PER_PICTURE = 2
"""Qualities at which each crop is coded: the one at which nearly all pictures are, and another one."""


def calibrate(codec: Codec, files: Sequence[Path], announce: Callable[[str], None] = lambda text: None) -> Contract:
    """Fit a model's contract to picture files; those that cannot be read are named and left out.

    The same files give the same contract on one machine. Raises ImageError for too few pictures.
    """
    found: list[Result] = []
    for index, path in enumerate(files):
        try:
            pixels = read_picture(path.read_bytes(), 1 << 28).pixels
        except (RobustcodecError, OSError) as error:
            announce(f"left out {path.name}: {error}")
            continue
        found.extend(results(codec, _crop(pixels, index), index))
        if index % 50 == 49:
            announce(f"{index + 1} of {len(files)} pictures")
    try:
        return fit(found)
    except ValueError as error:
        raise ImageError(f"{error}; give a folder of at least {20 // _PER_PICTURE} pictures") from error


def results(codec: Codec, pixels: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]], seed: int) -> Iterator[Result]:
    """Code a picture at some of the model's qualities, and measure it."""
    picture, statistics = Picture(pixels=pixels), describe(pixels)
    usual = codec.bundle.manifest.step(DEFAULT_TARGET.value)
    others = [point.step for point in codec.bundle.manifest.rates if point.step != usual]
    for step in [usual, *np.random.default_rng(seed).permutation(others)[: _PER_PICTURE - 1].tolist()]:
        encoded = codec.encode(picture, Step(step), measure=True)
        assert encoded.reconstruction is not None
        yield Result(
            statistics=statistics,
            step=step,
            psnr=min(psnr(pixels, encoded.reconstruction), 100.0),
            bpp=density(8 * sum(map(len, unpack(encoded.data).payload)), picture.width, picture.height),
            expected_bpp=density(encoded.expected, picture.width, picture.height),
            errors=block_errors(pixels, encoded.reconstruction),
            added=added(pixels, encoded.reconstruction),
            latent=encoded.largest,
        )


def _crop(
    pixels: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]], index: int
) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Cut a crop out of a picture, somewhere; some are made sharper, or blocky, first."""
    if index % _KINDS == _HALVED:
        pixels = _halved(pixels)
    generator = np.random.default_rng(index)
    wanted = CROPS[index % len(CROPS)]
    height, width = (min(side, have) for side, have in zip(wanted, pixels.shape[:2], strict=True))
    top, left = (int(generator.integers(0, pixels.shape[axis] - side + 1)) for axis, side in ((0, height), (1, width)))
    crop = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    if index % _KINDS == _JPEG:
        quality = int(np.random.default_rng(index).integers(60, 96))
        crop = read_picture(write_picture(Picture(pixels=crop), "JPEG", quality), crop.size).pixels
    return crop


def _halved(
    pixels: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Average 2 x 2 pixels; a picture of one row or column stays as it is."""
    height, width = (side // 2 for side in pixels.shape[:2])
    if not height or not width:
        return pixels
    blocks = pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    result: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]] = (
        (blocks.sum(axis=(1, 3), dtype=np.uint16) + 2) // 4
    ).astype(np.uint8)
    return result
