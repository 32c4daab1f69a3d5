"""The memory and arithmetic that encoding and decoding take at most, known from a picture's size before any work.

Memory is in bytes of a whole process that does nothing else. docs/reliability.md has the formulas in words, and what
was measured against them.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType

from robustcodec.container import Header, Payload
from robustcodec.errors import LimitExceeded

_PROCESS = 150 << 20
"""Python, numpy, Pillow and ONNX Runtime."""

_SMALL = 16 << 20
"""Bytes of a file that may be read whatever the limit, before ONNX Runtime is there."""

_TILE, _DESCENT_TILE = 1024, 512
"""Pixels along the sides of the tiles that networks see, without what lies around them."""

_LOOKED = 68
"""Bytes for each pixel of a piece whose details the guard counts."""

_COUNTED = 1
"""Bytes for each pixel of the picture that these counts take, and what follows from them."""

_CLASSICAL = 64
"""Bytes for each pixel of a strip that an encoder of AV1 takes."""

_REFINED = 64
"""Bytes for each latent of a strip while it is refined."""

_PLAIN = 24
"""Bytes for each pixel of a strip that needs no model, while it is decoded."""

_RGB, _PILLOW, _ALPHA = 3, 4, 5
"""Bytes for each pixel: of a picture here, and in Pillow, and more of all kinds if it has alpha."""


_READING = MappingProxyType({"JPEG": 3, "AVIF": 8, "WebP": 12})
"""Bytes for each pixel that libraries hold beyond Pillow's own while they read a picture: the coefficients of a
progressive JPEG picture, planes of AVIF, and of WebP, whose reader is made for animations, a canvas three times and the
file twice."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a model takes, whatever the picture.

    `latents` are the channels of y. `weights` counts parameters. `halo` are latents around a tile that the synthesis
    sees, `analysis_halo` pixels around one that the analysis sees. In bytes: `seen` for each pixel of a tile in the
    analysis, `shown` for each of one in the synthesis, `descent` for each of one that goes back through it, `strip` for
    each element of y while it is coded. In multiplications: `synthesis` and `entropy` for each latent, `side` for each
    place of the side information, which `windows` multiplies along each side by what they see twice.
    """

    weights: int
    latents: int
    halo: int
    analysis_halo: int
    seen: int
    shown: int
    descent: int
    strip: int
    synthesis: int
    entropy: int
    side: int
    windows: float


def to_decode(header: Header, size: int, model: Demand, pixels: int | None = None) -> int:
    """Give the bytes that decoding a file of `size` bytes takes, and writing the picture as PNG.

    `model` is what its model takes; `pixels` are those of a region, if no more is wanted.
    """
    width, height = header.coded_width, header.coded_height
    if header.payload is not Payload.NETWORK:
        strip = width * (header.strip_rows or height) * _PLAIN
        return _PROCESS + size + strip + width * height * (2 * _RGB + _PILLOW + 2 * _ALPHA * header.alpha)
    shown = width * height if pixels is None else pixels
    picture = shown * _RGB * (1 + (header.transform != 0)) + width * height * _ALPHA * header.alpha
    strip = _strip(width, header.strip_rows or height, model)
    file = shown * (_PILLOW + _RGB + _ALPHA * header.alpha)
    return _process(model) + size + picture + model.shown * _tile(width, height, model) + max(strip, file)


def to_encode(
    width: int,
    height: int,
    rows: int,
    model: Demand,
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
    tile = (model.seen + model.shown * measures) * _tile(width, height, model)
    networks = tile + _strip(width, rows or height, model)
    if refines:
        side = _DESCENT_TILE + 2 * 16 * model.halo
        networks += model.descent * min(width, side) * min(height, side)
        networks += _REFINED * _latents(width, rows or height, model)
        searches = True  # what is refined is kept
    kept = 4 * _latents(width, height, model) * searches
    if measures:
        kept += _RGB * pixels + _LOOKED * min(_padded(width, 16) * _padded(height, 16), 1 << 20)
        kept += _COUNTED * _padded(width, 64) * _padded(height, 64)
    kept += (_RGB * pixels + _CLASSICAL * min(pixels, 1 << 22)) * falls_back
    source = _RGB * pixels  # PNG of noise is as large
    return _process(model) + source + (_RGB + _ALPHA * alpha) * pixels + max(networks + kept, _PILLOW * pixels)


def excess(format: str, size: int, width: int, height: int) -> int:
    """Give the bytes that a picture file of `size` bytes takes beyond those that `to_encode` counts for it."""
    pixels = width * height
    return max(0, size - _RGB * pixels) + _READING.get(format, 0) * pixels


def readable(max_memory: int) -> int:
    """Give the bytes that may be read of a file: more do not fit, and fewer are worth saying what they need."""
    return max(max_memory - _PROCESS, _SMALL)


def multiplications(width: int, height: int, model: Demand) -> int:
    """Give the multiplications that decoding a picture of this size takes; encoding takes about as many.

    They are those of the networks and the integer layers, of what tiles see twice too. Nothing in a file but its size
    changes them, so that the time which a file can cost is known, and bounded by a limit on pixels.
    """
    latents = -(-width // 16) * -(-height // 16)
    places = -(-width // 64) * -(-height // 64)
    synthesis = model.synthesis * _seen(width, model.halo) * _seen(height, model.halo)
    return synthesis + model.entropy * latents + math.ceil(model.windows**2 * model.side * places)


def check(needed: int, max_memory: int | None) -> None:
    """Raise LimitExceeded for more memory than is allowed."""
    if max_memory is not None and needed > max_memory:
        raise LimitExceeded(
            f"this may take {needed:,} bytes of memory but {max_memory:,} are allowed; raise the limit if you trust it"
        )


def _seen(side: int, halo: int) -> int:
    """Latents along one side that the synthesis sees, those around tiles included."""
    return -(-side // 16) + 2 * halo * ((side - 1) // _TILE)


def _process(model: Demand) -> int:
    return _PROCESS + 16 * model.weights


def _tile(width: int, height: int, model: Demand) -> int:
    """Give the pixels that a network sees at once."""
    largest = _TILE + 2 * max(16 * model.halo, model.analysis_halo)
    columns, rows = (min(_padded(side, 16), largest) for side in (width, height))
    return columns * rows


def _padded(side: int, unit: int) -> int:
    return -(-side // unit) * unit


def _strip(width: int, rows: int, model: Demand) -> int:
    return model.strip * _latents(width, rows, model)


def _latents(width: int, height: int, model: Demand) -> int:
    return model.latents * -(-width // 16) * -(-height // 16)
