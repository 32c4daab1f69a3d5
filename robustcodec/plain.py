"""Strips of pixels in payloads that need no model: AV1 or WebP where loss is allowed, WebP or deflate where not.

A CLASSICAL chunk holds an AV1 still picture as its two OBUs (sequence header and frame, 4:4:4 or monochrome, BT.601
in full range) or a lossy WebP file; a LOSSLESS chunk a lossless WebP file or `alpha.encode_samples` of the pixels.
What a chunk says about its own size is compared with the header before any decoder sees it, and no decoder sees a
container that was not written here: there is nothing in these formats that could ask for more than the picture needs.
docs/format.md has the same for other implementations.
"""

import struct

from robustcodec.alpha import decode_samples, encode_samples
from robustcodec.errors import CorruptFile, ImageError
from robustcodec.images import compress, decompress
from robustcodec.pixels import Pixels

_LONGEST = 511 * 64
"""Rows of a strip at most: a side that every AV1 decoder takes."""

_AREA = 1 << 22
"""Pixels of a strip, if it has more rows than 64."""

_WIDEST = 16383
"""Columns above which the picture is transposed, so that the shorter side of a large one fits WebP."""

_TEMPORAL_DELIMITER, _SEQUENCE, _FRAME = b"\x12\x00", b"\x0a", b"\x32"
"""First bytes of the OBUs, each of which has its size."""


def arrangement(width: int, height: int) -> tuple[int, int]:
    """Give the transform and the strip height (0: one strip) that a picture is cut with."""
    transform = 4 if width > _WIDEST else 0
    columns, coded = (height, width) if transform else (width, height)
    rows = min(max(64, _AREA // columns // 64 * 64), _LONGEST)
    return transform, rows if rows < coded else 0


def write_classical(pixels: Pixels, quality: int) -> bytes | None:
    """Encode pixels (h, w, 1 or 3) at a quality from 0 to 100; None if nothing here can encode this size."""
    samples = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    avif = compress(samples, "AVIF", quality)
    if avif is not None:
        at = avif.find(b"mdat") + 4
        data = avif[at:].removeprefix(_TEMPORAL_DELIMITER)
        if _av1_size(data) == (pixels.shape[1], pixels.shape[0], pixels.shape[2] == 1):
            return data
    return compress(samples, "WebP", quality)


def read_classical(data: bytes, height: int, width: int, channels: int) -> Pixels:
    """Decode pixels (height, width, channels). Raises CorruptFile for anything but a picture of this size."""
    if data.startswith(b"RIFF"):
        return _read_webp(data, height, width, channels, b"VP8 ")
    if _av1_size(data) != (width, height, channels == 1):
        raise _damaged("it is no AV1 picture of the size that the header says")
    return _decoded(_avif(data, width, height, channels), "AVIF", height, width, channels)


def write_lossless(pixels: Pixels) -> bytes:
    """Encode pixels (h, w, 1 or 3), in at most 0.04 % and 15 bytes more than they have."""
    webp = compress(pixels[..., 0] if pixels.shape[2] == 1 else pixels, "WebP", None)
    return webp if webp is not None and len(webp) <= pixels.size else encode_samples(pixels)


def read_lossless(data: bytes, height: int, width: int, channels: int) -> Pixels:
    """Decode pixels (height, width, channels). Raises CorruptFile for anything but pixels of this size."""
    if data.startswith(b"RIFF"):
        return _read_webp(data, height, width, channels, b"VP8L")
    return decode_samples(data, (height, width, channels), "picture")


def _read_webp(data: bytes, height: int, width: int, channels: int, kind: bytes) -> Pixels:
    if _webp_size(data, kind) != (width, height):
        raise _damaged("it is no WebP picture of the size that the header says")
    return _decoded(data, "WebP", height, width, channels)


def _decoded(data: bytes, kind: str, height: int, width: int, channels: int) -> Pixels:
    try:
        samples = decompress(data, kind)
    except ImageError as error:
        raise _damaged(str(error)) from error
    pixels = samples[..., None] if samples.ndim == 2 else samples
    if pixels.shape[:2] != (height, width) or pixels.shape[2] not in (1, 3):
        raise _damaged("it does not have the size of the picture")
    # a grey WebP picture is three times the same; colours rounded on the way differ least in green
    return pixels if pixels.shape[2] == channels else pixels[..., 1:2]


def _webp_size(data: bytes, kind: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP file that is one chunk of this kind and nothing else; None for any other."""
    if len(data) < 30 or data[8:16] != b"WEBP" + kind:
        return None
    file, chunk = struct.unpack("<4xI8xI", data[:20])
    if file != len(data) - 8 or chunk + (chunk & 1) != len(data) - 20:
        return None
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        # the alpha hint must be off, and the version 0
        sides = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return sides if data[20] == 0x2F and not bits >> 28 else None
    if data[23:26] != b"\x9d\x01\x2a" or data[20] & 1:
        return None
    width, height = struct.unpack("<HH", data[26:30])
    return (width, height) if not (width | height) >> 14 else None


def _av1_size(data: bytes) -> tuple[int, int, bool] | None:
    """Width, height and whether it is monochrome of a sequence header and one frame; None for anything else.

    The reduced header of a still picture leaves a frame no way to have another size than the sequence.
    """
    sequence = _obu(data, 0, _SEQUENCE)
    if sequence is None:
        return None
    frame = _obu(data, sequence[1], _FRAME)
    if frame is None or frame[1] != len(data):
        return None
    content = data[sequence[0] : sequence[1]]
    bits = _Bits(content)
    profile, still, reduced, _level = bits.take(3), bits.take(1), bits.take(1), bits.take(5)
    if not still or not reduced or profile > 1:
        return None
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    return width, height, profile == 0


def _obu(data: bytes, offset: int, kind: bytes) -> tuple[int, int] | None:
    """Where the content of an OBU begins and ends; None if there is none of this kind."""
    if data[offset : offset + 1] != kind:
        return None
    size = 0
    for index in range(4):
        byte = data[offset + 1 + index] if offset + 1 + index < len(data) else 0x80
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            start = offset + 2 + index
            return (start, start + size) if start + size <= len(data) else None
    return None


class _Bits:
    """Reads numbers of some bits, the high ones first; zeros follow the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:16].ljust(16, b"\0"), "big")
        self._left = 128

    def take(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & (1 << count) - 1


def _avif(data: bytes, width: int, height: int, channels: int) -> bytes:
    """Put OBUs into the AVIF file that an 8-bit picture of this size has."""
    level = data[2:4]
    profile_and_level = (0x20 if channels == 3 else 0) | (level[0] & 7) << 2 | level[1] >> 6
    properties = _box(
        b"ipco",
        _box(b"ispe", struct.pack(">III", 0, width, height)),
        _box(b"pixi", bytes(4), bytes([channels]) + b"\x08" * channels),
        _box(b"av1C", bytes([0x81, profile_and_level, 0 if channels == 3 else 0x1C, 0])),
        _box(b"colr", b"nclx", bytes.fromhex("0001000d000680")),
    )
    associations = _box(b"ipma", bytes.fromhex("000000000000000100010401028304"))
    media = _TEMPORAL_DELIMITER + data
    start = _box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")

    def meta(offset: int) -> bytes:
        return _box(
            b"meta",
            bytes(4),
            _box(b"hdlr", bytes(8), b"pict", bytes(13)),
            _box(b"pitm", bytes(4), b"\x00\x01"),
            _box(b"iloc", bytes.fromhex("0000000044000001000100000001"), struct.pack(">II", offset, len(media))),
            _box(b"iinf", bytes.fromhex("000000000001"), _box(b"infe", b"\x02\0\0\0\0\x01\0\0av01Color\0")),
            _box(b"iprp", properties, associations),
        )

    offset = len(start) + len(meta(0)) + 8
    return start + meta(offset) + _box(b"mdat", media)


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


def _damaged(finding: str) -> CorruptFile:
    return CorruptFile(f"the file is damaged: {finding.rstrip('.')}; get the file again")
