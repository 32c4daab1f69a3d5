"""How a picture lies in a file: turned for coding, cut into strips, with what travels beside it; and back again."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustcodec.alpha import decode_alpha
from robustcodec.container import Chunk, ChunkType, Header, Payload, pack
from robustcodec.images import Picture
from robustcodec.pixels import Pixels
from robustcodec.tiling import Region
from robustcodec.transforms import latents_of

Content: TypeAlias = NDArray[Any]
"""What a strip holds: latents int32 (M, h, w) in units of 1/1024, or pixels uint8 (h, w, 1 or 3)."""


def undo(pixels: Pixels, transform: int) -> Pixels:
    """Undo the flips and the transposition that were done before coding (bits 0, 1 and 2, in that order)."""
    if transform & 4:
        pixels = pixels.transpose(1, 0, 2)
    if transform & 2:
        pixels = pixels[::-1]
    if transform & 1:
        pixels = pixels[:, ::-1]
    return pixels


def transformed(pixels: Pixels, transform: int) -> Pixels:
    """Give the coded picture: flip and transpose as a header says (bits 0, 1 and 2, in that order)."""
    if transform & 1:
        pixels = pixels[:, ::-1]
    if transform & 2:
        pixels = pixels[::-1]
    return pixels.transpose(1, 0, 2) if transform & 4 else pixels


def header_of(
    picture: Picture,
    payload: Payload,
    transform: int,
    strip_rows: int,
    step: int = 0,
    fingerprint: bytes = bytes(8),
    seed: bytes = b"",
) -> Header:
    """Make the header of a file that is to hold a picture."""
    return Header(
        width=picture.width,
        height=picture.height,
        payload=payload,
        grey=picture.grey,
        alpha=picture.alpha is not None,
        icc=picture.icc is not None,
        metadata=picture.exif is not None or picture.xmp is not None,
        transform=transform,
        strip_rows=strip_rows,
        step=step,
        fingerprint=fingerprint,
        seed=seed,
    )


def pack_file(header: Header, strips: Iterable[bytes], picture: Picture, alpha: bytes | None) -> bytes:
    """Write a file of the data of its strips and of what travels with the picture."""
    side = [(ChunkType.ALPHA, alpha), (ChunkType.EXIF, picture.exif), (ChunkType.XMP, picture.xmp)]
    chunks = [
        *([Chunk(ChunkType.ICC, picture.icc)] if picture.icc is not None else []),
        *(Chunk(header.strip_type, data) for data in strips),
        *(Chunk(kind, data) for kind, data in side if data is not None),
    ]
    return pack(header, chunks)


def joined(header: Header, read: Callable[[int], Content], region: Region) -> Pixels:
    """Join the pixels of the strips that a region of the coded picture lies in."""
    result = np.empty((region.height, region.width, channels(header)), np.uint8)
    for index in header.strips_of(range(region.rows.start, region.rows.stop)):
        rows = header.rows_of_strip(index)
        first, last = max(rows.start, region.rows.start), min(rows.stop, region.rows.stop)
        part = read(index)[first - rows.start : last - rows.start, region.columns]
        result[first - region.y : last - region.y] = part
    return result


def channels(header: Header) -> int:
    """Give the samples that a file has for each pixel."""
    return 1 if header.grey else 3


def picture_of(pixels: Pixels, chunks: Sequence[Chunk]) -> Picture:
    """Give pixels of 1 or 3 channels the metadata among a file's chunks."""
    found = {chunk.type: chunk.data for chunk in chunks}
    return Picture(
        pixels=rgb(np.ascontiguousarray(pixels)),
        grey=pixels.shape[2] == 1,
        icc=found.get(ChunkType.ICC),
        exif=found.get(ChunkType.EXIF),
        xmp=found.get(ChunkType.XMP),
    )


def alpha_of(header: Header, chunks: Sequence[Chunk], region: Region | None) -> Pixels | None:
    """Decode what a file has of transparency in a region (None: everywhere). Raises CorruptFile."""
    if not header.alpha:
        return None
    data = next((chunk.data for chunk in chunks if chunk.type == ChunkType.ALPHA), b"")
    alpha = decode_alpha(data, header.height, header.width)
    return alpha if region is None else alpha[region.rows, region.columns].copy()


def rgb(pixels: Pixels) -> Pixels:
    """Show one channel of grey as three, without copies."""
    return pixels if pixels.shape[2] == 3 else np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def coded_region(header: Header, region: Region | None) -> Region:
    """Give where a region of the reader's picture (None: all of it) lies in the coded picture."""
    if region is None:
        return Region(0, 0, header.coded_width, header.coded_height)
    region.check_within(header.width, header.height)
    x, y, width, height = region.x, region.y, region.width, region.height
    if header.transform & 1:
        x = header.width - x - width
    if header.transform & 2:
        y = header.height - y - height
    return Region(y, x, height, width) if header.transform & 4 else Region(x, y, width, height)


def lost_region(header: Header, index: int) -> Region:
    """Give where a strip lies in the reader's picture."""
    rows = header.rows_of_strip(index)
    x, y, width, height = 0, rows.start, header.coded_width, len(rows)
    if header.transform & 4:
        x, y, width, height = y, x, height, width
    if header.transform & 2:
        y = header.height - y - height
    if header.transform & 1:
        x = header.width - x - width
    return Region(x, y, width, height)


def latents_of_strip(header: Header, index: int) -> tuple[int, int]:
    """Give rows and columns of a strip's latents."""
    return latents_of(len(header.rows_of_strip(index))), latents_of(header.coded_width)
