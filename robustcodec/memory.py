"""The memory and arithmetic that encoding and decoding take at most, known from a picture's size before any work.

Memory is in bytes of a whole process that does nothing else. docs/reliability.md has the formulas in words, and what
was measured against them.
"""

import math
from collections.abc import Sequence

from robustcodec.container import Header, Payload
from robustcodec.errors import LimitExceeded

USUAL_SIZES = (128, 192)
"""Channel counts of the models that come with the package."""

_PROCESS = 150 << 20
"""Python, numpy, Pillow and ONNX Runtime."""

_HALO = 2
"""Latents around a tile of 1024 pixels that a hyper model's synthesis sees."""

_WINDOWS = (36 / 32) ** 2
"""What the hyper synthesis computes of a large strip, with what its windows see twice."""

_TILE_SIDE = 1024 + 2 * 64
"""Pixels that a network sees at once in each direction, the halo of any architecture included."""

_TILE, _TILE_RGB = 2, 40
"""Bytes for each pixel of a tile that one network takes: for each of its channels N, and for the picture's own."""

_DESCENT, _DESCENT_SIDE = 9, 512 + 2 * 64
"""Bytes for each pixel and channel of a tile that goes back through the synthesis, and pixels along its sides."""

_LOOKED = 64
"""Bytes for each pixel of a band whose details the guard counts."""

_CLASSICAL = 64
"""Bytes for each pixel of a strip that an encoder of AV1 takes."""

_REFINED = 64
"""Bytes for each latent of a strip while it is refined."""

_STRIP = 48
"""Bytes for each latent of a strip while it is coded."""

_PLAIN = 24
"""Bytes for each pixel of a strip that needs no model, while it is decoded."""

_RGB, _PILLOW, _ALPHA = 3, 4, 5
"""Bytes for each pixel: of a picture here, and in Pillow, and more of all kinds if it has alpha."""


def to_decode(header: Header, size: int, sizes: Sequence[int], pixels: int | None = None) -> int:
    """Give the bytes that decoding a file of `size` bytes takes, and writing the picture as PNG.

    `sizes` are the channel counts of its model; `pixels` are those of a region, if no more is wanted.
    """
    width, height = header.coded_width, header.coded_height
    if header.payload is not Payload.NETWORK:
        strip = width * (header.strip_rows or height) * _PLAIN
        return _PROCESS + size + strip + width * height * (2 * _RGB + _PILLOW + 2 * _ALPHA * header.alpha)
    shown = width * height if pixels is None else pixels
    picture = shown * _RGB * (1 + (header.transform != 0)) + width * height * _ALPHA * header.alpha
    strip = _strip(width, header.strip_rows or height, sizes)
    file = shown * (_PILLOW + _RGB + _ALPHA * header.alpha)
    return _process(sizes) + size + picture + _tile(width, height, sizes) + max(strip, file)


def to_encode(
    width: int,
    height: int,
    rows: int,
    sizes: Sequence[int],
    *,
    searches: bool,
    measures: bool,
    alpha: bool = False,
    refines: bool = False,
    falls_back: bool = False,
) -> int:
    """Give the bytes that reading a picture file and encoding it in strips of `rows` rows (0: one strip) takes.

    `searches` says that a target other than a quality is to be met, `measures` that the result is decoded, too,
    `alpha` that the picture has transparency, `refines` that its latents are made better, and `falls_back` that it may
    be encoded without the model in the end.
    """
    pixels = width * height
    networks = _tile(width, height, sizes) * (1 + measures) + _strip(width, rows or height, sizes)
    if refines:
        columns, lines = min(width, _DESCENT_SIDE), min(height, _DESCENT_SIDE)
        networks += (_DESCENT * sizes[0] + _TILE_RGB) * columns * lines
        networks += _REFINED * _latents(width, rows or height, sizes)
        searches = True  # what is refined is kept
    kept = 4 * _latents(width, height, sizes) * searches + _RGB * pixels * measures
    kept += _LOOKED * min(pixels, 1 << 20) * measures + (_RGB * pixels + _CLASSICAL * min(pixels, 1 << 22)) * falls_back
    source = _RGB * pixels  # PNG of noise is as large
    return _process(sizes) + source + (_RGB + _ALPHA * alpha) * pixels + max(networks + kept, _PILLOW * pixels)


def multiplications(width: int, height: int, sizes: Sequence[int]) -> int:
    """Give the multiplications that decoding a picture of this size takes; encoding takes about as many.

    They are those of the networks and the integer layers, of what tiles see twice too. Nothing in a file but its size
    changes them, so that the time which a file can cost is known, and bounded by a limit on pixels.
    """
    n, m = sizes[0], sizes[-1]
    transposed = 25 * (n * m + 4 * n * n + 16 * n * n + 64 * n * 3)  # for each latent
    normalised = (4 + 16 + 64) * n * n
    scales = 25 * n * n + 4 * 25 * n * n + 16 * 9 * n * m  # for each place of the side information
    places = -(-width // 64) * -(-height // 64)
    return (transposed + normalised) * _seen(width) * _seen(height) + math.ceil(_WINDOWS * scales * places)


def check(needed: int, max_memory: int | None) -> None:
    """Raise LimitExceeded for more memory than is allowed."""
    if max_memory is not None and needed > max_memory:
        raise LimitExceeded(
            f"this may take {needed:,} bytes of memory but {max_memory:,} are allowed; raise the limit if you trust it"
        )


def _seen(side: int) -> int:
    """Latents along one side that the synthesis sees, those around tiles included."""
    return -(-side // 16) + 2 * _HALO * ((side - 1) // 1024)


def _process(sizes: Sequence[int]) -> int:
    n, m = sizes[0], sizes[-1]
    weights = 200 * n * n + 68 * n * m  # the number of them in a hyper model
    return _PROCESS + 16 * weights


def _tile(width: int, height: int, sizes: Sequence[int]) -> int:
    columns, rows = (min(-(-side // 16) * 16, _TILE_SIDE) for side in (width, height))
    return (_TILE * sizes[0] + _TILE_RGB) * columns * rows


def _strip(width: int, rows: int, sizes: Sequence[int]) -> int:
    return _STRIP * _latents(width, rows, sizes)


def _latents(width: int, height: int, sizes: Sequence[int]) -> int:
    return sizes[-1] * -(-width // 16) * -(-height // 16)
