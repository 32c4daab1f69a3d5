"""The `.rbc` file: a checked header, then checksummed chunks, one way to write each, and limits on what is read.

Little endian; CRC is CRC-32 as in zlib and PNG; varint is LEB128, at most 4 bytes, the shortest form only.

    offset  bytes  field         range
    0       4      magic         8B 52 42 0A
    4       1      version       high nibble: major, 1; low nibble: minor, 0 to 15
    5       1      flags         bits 0-1 payload, 2 grey, 3 alpha, 4 ICC, 5 EXIF or XMP, 6 dither; 7 zero
    6       1      transform     bits 0-2 mirror columns, mirror rows, transpose; 3-7 zero
    7       2      strip units   strip height in units of 64 coded rows; 0: one strip
    9       1-4    width - 1     varint, of the reader's picture
    .       1-4    height - 1    varint, of the reader's picture
    .       2      step R        8 to 65535 (network), 0 (other payloads)
    .       8      fingerprint   of the bundle (network), zeros (other payloads)
    .       0 or 8 seed          of the dither, if flag 6 is set
    .       4      header CRC    of all bytes before it

Then one or more chunks up to the end of the file, in ascending order of type:

    bytes  field   range
    1      type    bit 7: the last chunk; bit 6: may be skipped by a reader that does not know it
    1-4    length  varint: bytes of data
    .      data
    4      CRC     of type, length and data

docs/format.md has the same in full, for other implementations.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag, unique
from itertools import pairwise

from robustcodec.errors import CorruptFile, LimitExceeded, NotRobustcodec, UnsupportedVersion

MAGIC = b"\x8bRB\n"
MAJOR_VERSION = 1
MAX_HEADER_BYTES = 39  # this many bytes from the start of a file are always enough for `read_header`
MAX_SIDE = 2**28  # pixels; what a varint of 4 bytes can say
MAX_CHUNK_BYTES = 2**28 - 1
STRIP_UNIT = 64  # coded rows
MAX_STRIP_PIXELS = 2**24  # of a network payload's strip, if it has more than STRIP_UNIT rows
MIN_STEP, MAX_STEP = 8, 65535
SEED_BYTES = 8
LAST = 0x80  # bit of the type byte: no chunk follows
MAY_SKIP = 0x40  # bit of the type byte, and part of the type: readers ignore such a type if it is new to them

# What text-mode transfers make of the magic: LF to CR LF, 7 bits, UTF-8 with and without replacement.
_MANGLED_MAGIC = (b"\x8bRB\r", b"\x0bRB\n", b"\xc2\x8bRB\n", b"\xef\xbf\xbdRB\n")
_FIXED_START = 9  # bytes before the first varint
_FIXED_END = 14  # bytes after the second varint, without a seed
_BEFORE_SEED = 10  # of which before the seed
_CRC_BYTES = 4
_NUM_SINGLE_TYPES = 66  # ICC, alpha and the 64 types that may be skipped occur at most once each


@unique
class Payload(IntEnum):
    """How the pixels are coded: bits 0 and 1 of the flags."""

    NETWORK = 0
    CLASSICAL = 1
    LOSSLESS = 2


@unique
class Flag(IntFlag):
    """Bits 2 to 6 of the flags."""

    GREY = 0x04
    ALPHA = 0x08
    ICC = 0x10
    METADATA = 0x20
    DITHER = 0x40


@unique
class ChunkType(IntEnum):
    """The type byte of a chunk without its `LAST` bit; chunks stand in this order."""

    ICC = 0x01
    STRIP = 0x10
    CLASSICAL = 0x11
    LOSSLESS = 0x12
    ALPHA = 0x20
    EXIF = 0x41
    XMP = 0x42


_KNOWN_TYPES = frozenset(ChunkType)
_PAYLOAD_TYPE = {
    Payload.NETWORK: ChunkType.STRIP,
    Payload.CLASSICAL: ChunkType.CLASSICAL,
    Payload.LOSSLESS: ChunkType.LOSSLESS,
}
_METADATA_TYPES = frozenset({ChunkType.EXIF, ChunkType.XMP})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a reader accepts before it allocates anything.

    `max_pixels` counts the coded picture with both sides padded to multiples of 16; `max_metadata` is in
    bytes, for the ICC profile and all chunks that may be skipped together; `max_memory` is in bytes, for the whole
    process by the formula of docs/reliability.md, None for no limit.
    """

    max_pixels: int = 2**28
    max_metadata: int = 2**24
    max_memory: int | None = None


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Header:
    """All that a file says about itself; there is no invalid one (ValueError).

    `width` and `height` (1 to 2^28) are those of the reader's picture. `transform` (0 to 7) made the coded
    picture from it: mirror the columns if bit 0 is set, then mirror the rows if bit 1 is, then transpose if
    bit 2 is. `strip_rows` (a multiple of 64, 0 for one strip) cuts the coded picture; as 0 is the only way
    to say "one strip", it is below the coded height; a strip of the network payload that has more than 64 rows
    has at most 2^24 pixels. `step` (8 to 65535) and `fingerprint` (8 bytes) belong
    to the network payload and are zero for the others. `seed` (8 bytes) is that of the dither, empty if there is none.
    `minor` is the minor version of the format.
    """

    width: int
    height: int
    payload: Payload
    grey: bool = False
    alpha: bool = False
    icc: bool = False
    metadata: bool = False
    transform: int = 0
    strip_rows: int = 0
    step: int = 0
    fingerprint: bytes = bytes(8)
    seed: bytes = b""
    minor: int = 0

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if not 1 <= side <= MAX_SIDE:
                raise ValueError(f"{name} {side} is outside 1..{MAX_SIDE}")
        if not 0 <= self.transform <= 7:
            raise ValueError(f"transform {self.transform} is outside 0..7")
        if not 0 <= self.minor <= 15:
            raise ValueError(f"minor version {self.minor} is outside 0..15")
        if len(self.fingerprint) != 8:
            raise ValueError(f"a fingerprint of {len(self.fingerprint)} bytes instead of 8")
        if len(self.seed) not in (0, SEED_BYTES):
            raise ValueError(f"a seed of {len(self.seed)} bytes instead of {SEED_BYTES}")
        if self.payload is Payload.NETWORK:
            if not MIN_STEP <= self.step <= MAX_STEP:
                raise ValueError(f"step {self.step} is outside {MIN_STEP}..{MAX_STEP}")
        elif self.step != 0 or self.fingerprint != bytes(8) or self.seed:
            raise ValueError(f"a {self.payload.name.lower()} payload has a step, a fingerprint or a seed")
        if self.strip_rows % STRIP_UNIT or not 0 <= self.strip_rows <= 0xFFFF * STRIP_UNIT:
            raise ValueError(f"strip height {self.strip_rows} is not a multiple of {STRIP_UNIT} in 16 bits")
        if self.strip_rows >= self.coded_height:
            raise ValueError(f"strips of {self.strip_rows} rows in {self.coded_height} coded rows")
        rows = self.strip_rows or self.coded_height
        if self.payload is Payload.NETWORK and rows > STRIP_UNIT and rows * self.coded_width > MAX_STRIP_PIXELS:
            raise ValueError(
                f"strips of {rows} rows and {self.coded_width} columns have more than {MAX_STRIP_PIXELS} pixels"
            )

    @property
    def strip_type(self) -> ChunkType:
        """Type of the chunks that hold the strips."""
        return _PAYLOAD_TYPE[self.payload]

    @property
    def coded_width(self) -> int:
        """Columns of the picture that is coded."""
        return self.height if self.transform & 4 else self.width

    @property
    def coded_height(self) -> int:
        """Rows of the picture that is coded."""
        return self.width if self.transform & 4 else self.height

    @property
    def num_strips(self) -> int:
        """How many strips the coded picture is cut into, at least 1."""
        return -(-self.coded_height // self.strip_rows) if self.strip_rows else 1

    def rows_of_strip(self, index: int) -> range:
        """Coded rows of one strip, before any padding; IndexError outside 0..num_strips-1."""
        if not 0 <= index < self.num_strips:
            raise IndexError(f"strip {index} of {self.num_strips}")
        height = self.strip_rows or self.coded_height
        return range(index * height, min((index + 1) * height, self.coded_height))

    def strips_of(self, rows: range) -> range:
        """Strips that these coded rows, at least one, lie in; what is beyond the picture counts as its last row."""
        height = self.strip_rows or self.coded_height
        return range(rows.start // height, min(-(-rows.stop // height), self.num_strips))


@dataclass(frozen=True)
class Chunk:
    """Data with its type: a `ChunkType`, or in a file of a later minor version another type to skip."""

    type: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class File:
    """A whole file that passed every check of this module."""

    header: Header
    chunks: tuple[Chunk, ...]

    @property
    def payload(self) -> tuple[bytes, ...]:
        """Data of the pixels, one entry for each strip."""
        wanted = _PAYLOAD_TYPE[self.header.payload]
        return tuple(chunk.data for chunk in self.chunks if chunk.type == wanted)

    def get(self, wanted: ChunkType) -> bytes | None:
        """Data of the first chunk of a type, None if there is none."""
        return next((chunk.data for chunk in self.chunks if chunk.type == wanted), None)

    @property
    def sections(self) -> dict[str, int]:
        """Bytes of header and chunks with their framing, in the order of the file; the sum is its size."""
        sizes = {"header": len(_header_bytes(self.header))}
        for index, chunk in enumerate(self.chunks):
            name = _name(chunk.type)
            if chunk.type == _PAYLOAD_TYPE[self.header.payload] and self.header.num_strips > 1:
                name = f"{name} {index - self.header.icc}"
            sizes[name] = 1 + len(_varint_bytes(len(chunk.data))) + len(chunk.data) + _CRC_BYTES
        return sizes


def join_strip(latents_crc: int, message: bytes) -> bytes:
    """Data of a STRIP chunk: the CRC-32 of the strip's latents, then its entropy-coded message."""
    return latents_crc.to_bytes(_CRC_BYTES, "little") + message


def split_strip(data: bytes) -> tuple[int, bytes]:
    """CRC-32 of the latents and entropy-coded message of a STRIP chunk; CorruptFile if it is too short."""
    if len(data) < _CRC_BYTES:
        raise CorruptFile(f"the file is damaged: a strip has {len(data)} bytes, too few for its checksum")
    return int.from_bytes(data[:_CRC_BYTES], "little"), data[_CRC_BYTES:]


def pack(header: Header, chunks: Sequence[Chunk]) -> bytes:
    """Write a file. `unpack` gives the same header and chunks back, whatever they are.

    ValueError if the chunks do not belong to the header, or are out of order. LimitExceeded if the data of
    one is longer than the format can say (2^28 - 1 bytes).
    """
    _check_chunks(header, [(chunk.type, len(chunk.data)) for chunk in chunks])
    parts = [_header_bytes(header)]
    for index, chunk in enumerate(chunks):
        size = len(chunk.data)
        if size > MAX_CHUNK_BYTES:
            raise LimitExceeded(
                f"the {_name(chunk.type)} takes {size} bytes but the format allows {MAX_CHUNK_BYTES}; "
                "cut the picture into more strips, or strip its metadata"
            )
        last = LAST if index == len(chunks) - 1 else 0
        start = bytes([chunk.type | last]) + _varint_bytes(size)
        crc = zlib.crc32(chunk.data, zlib.crc32(start))
        parts += [start, chunk.data, crc.to_bytes(_CRC_BYTES, "little")]
    return b"".join(parts)


def read_header(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[Header, int]:
    """Read the header from the first bytes of a file (`MAX_HEADER_BYTES` suffice), and say where it ends.

    NotRobustcodec, UnsupportedVersion, CorruptFile, or LimitExceeded.
    """
    if not data:
        raise NotRobustcodec("an empty file is not a robustcodec file; give one that encode wrote")
    if data.startswith(_MANGLED_MAGIC):
        raise CorruptFile("the file is damaged by a transfer in text mode; copy it again in binary mode")
    if not data.startswith(MAGIC):
        raise NotRobustcodec(
            f"this is not a robustcodec file, since it begins with {data[:4].hex(' ')} instead of {MAGIC.hex(' ')}; "
            "give one that encode wrote"
        )
    _need(data, len(MAGIC) + 1)
    major, minor = divmod(data[len(MAGIC)], 16)
    if major > MAJOR_VERSION:
        raise _newer(f"it has format {major}.{minor} and this release reads {MAJOR_VERSION}")
    if major < MAJOR_VERSION:
        raise _damaged(f"there is no format version {major}.{minor}")
    _need(data, _FIXED_START)
    flags, transform, strip_units = struct.unpack_from("<BBH", data, len(MAGIC) + 1)
    width_less_1, offset = read_varint(data, _FIXED_START)
    height_less_1, offset = read_varint(data, offset)
    end = offset + _FIXED_END + SEED_BYTES * bool(flags & Flag.DITHER)
    _need(data, end)
    step, fingerprint = struct.unpack_from("<H8s", data, offset)
    seed, crc = data[offset + _BEFORE_SEED : end - _CRC_BYTES], int.from_bytes(data[end - _CRC_BYTES : end], "little")
    if crc != zlib.crc32(data[: end - _CRC_BYTES]):
        raise _damaged("the checksum of the header is wrong")
    if flags >> 7 or transform >> 3:
        raise _damaged("reserved bits of the header are set")
    try:
        header = Header(
            width=width_less_1 + 1,
            height=height_less_1 + 1,
            payload=Payload(flags & 3),
            grey=bool(flags & Flag.GREY),
            alpha=bool(flags & Flag.ALPHA),
            icc=bool(flags & Flag.ICC),
            metadata=bool(flags & Flag.METADATA),
            transform=transform,
            strip_rows=strip_units * STRIP_UNIT,
            step=step,
            fingerprint=fingerprint,
            seed=bytes(seed),
            minor=minor,
        )
    except ValueError as error:
        raise _damaged(str(error)) from None
    pixels = _pad16(header.coded_width) * _pad16(header.coded_height)
    if pixels > limits.max_pixels:
        raise LimitExceeded(
            f"the picture of {header.width}x{header.height} has {pixels} pixels with padding but "
            f"{limits.max_pixels} are allowed; raise the limit if you trust the file"
        )
    return header, end


def unpack(data: bytes, limits: Limits = DEFAULT_LIMITS, strips: range | None = None) -> File:
    """Read a whole file; `pack` of the result gives exactly `data` again.

    With `strips`, the data of all other strips is neither verified nor copied, and is empty in the result. Copies
    nothing before all is checked. NotRobustcodec, UnsupportedVersion, CorruptFile, or LimitExceeded.
    """
    header, offset = read_header(data, limits)
    view = memoryview(data)
    spans: list[tuple[int, int, int, bool]] = []
    last = False
    while not last:
        # Without this bound a file of tiny chunks would keep the loop busy long before it is refused.
        if len(spans) == header.num_strips + _NUM_SINGLE_TYPES:
            raise _damaged("it has more chunks than its picture can need")
        _need(data, offset + 1)
        last, kind = bool(data[offset] & LAST), data[offset] & ~LAST
        length, start = read_varint(data, offset + 1)
        end = start + length
        _need(data, end + _CRC_BYTES, exact=last)
        wanted = strips is None or kind not in _PAYLOAD_TYPE.values() or len(spans) - header.icc in strips
        if wanted and zlib.crc32(view[offset:end]) != int.from_bytes(view[end : end + _CRC_BYTES], "little"):
            raise _damaged(f"the checksum of chunk {len(spans)} ({_name(kind)}) is wrong")
        if header.minor and kind not in _KNOWN_TYPES and not kind & MAY_SKIP:
            raise _newer(f"it needs chunk type {kind:#04x}")
        spans.append((kind, start, end, wanted))
        offset = end + _CRC_BYTES
    if offset != len(data):
        raise CorruptFile(f"the file should end after {offset} bytes but has {len(data)}; remove what was appended")
    try:
        _check_chunks(header, [(kind, end - start) for kind, start, end, _ in spans])
    except ValueError as error:
        raise _damaged(str(error)) from None
    metadata = sum(end - start for kind, start, end, _ in spans if kind == ChunkType.ICC or kind & MAY_SKIP)
    if metadata > limits.max_metadata:
        raise LimitExceeded(
            f"the file has {metadata} bytes of metadata but {limits.max_metadata} are allowed: "
            "raise the limit if you trust the file"
        )
    chunks = (
        Chunk(ChunkType(kind) if kind in _KNOWN_TYPES else kind, data[start:end] if wanted else b"")
        for kind, start, end, wanted in spans
    )
    return File(header=header, chunks=tuple(chunks))


def _check_chunks(header: Header, chunks: Sequence[tuple[int, int]]) -> None:
    """Check types and lengths of data against each other and the header; ValueError says what is wrong."""
    payload = _PAYLOAD_TYPE[header.payload]
    types = [kind for kind, _ in chunks]
    for kind, length in chunks:
        if kind in _KNOWN_TYPES:
            if length < (_CRC_BYTES if kind == ChunkType.STRIP else 1):
                raise ValueError(f"a chunk ({_name(kind)}) has only {length} bytes")
        elif not (header.minor and MAY_SKIP <= kind < LAST):
            raise ValueError(f"there is no chunk type {kind:#04x} in format {MAJOR_VERSION}.{header.minor}")
    for before, after in pairwise(types):
        if after < before or (after == before and after != payload):
            raise ValueError(f"a chunk ({_name(after)}) follows a chunk ({_name(before)})")
    for other in _PAYLOAD_TYPE.values():
        expected = header.num_strips if other is payload else 0
        if (count := types.count(other)) != expected:
            raise ValueError(f"{count} chunks ({_name(other)}) where the header says {expected}")
    for flag, said, found in (
        ("alpha", header.alpha, ChunkType.ALPHA in types),
        ("ICC", header.icc, ChunkType.ICC in types),
        ("metadata", header.metadata, not _METADATA_TYPES.isdisjoint(types)),
    ):
        if said != found:
            raise ValueError(f"the {flag} flag of the header disagrees with the chunks")


def _header_bytes(header: Header) -> bytes:
    flags = (
        header.payload
        | header.grey * Flag.GREY
        | header.alpha * Flag.ALPHA
        | header.icc * Flag.ICC
        | header.metadata * Flag.METADATA
        | bool(header.seed) * Flag.DITHER
    )
    start = struct.pack(
        "<4sBBBH",
        MAGIC,
        MAJOR_VERSION << 4 | header.minor,
        flags,
        header.transform,
        header.strip_rows // STRIP_UNIT,
    )
    sides = _varint_bytes(header.width - 1) + _varint_bytes(header.height - 1)
    body = start + sides + struct.pack("<H8s", header.step, header.fingerprint) + header.seed
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def _varint_bytes(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Value of the varint at `offset`, and where it ends; CorruptFile."""
    value = 0
    for index in range(4):
        _need(data, offset + index + 1)
        byte = data[offset + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise _damaged(f"the number at byte {offset} is longer than it needs to be")
            return value, offset + index + 1
    raise _damaged(f"the number at byte {offset} has more than 4 bytes")


def _need(data: bytes, size: int, *, exact: bool = False) -> None:
    if len(data) < size:
        at_least = "" if exact else "at least "
        raise CorruptFile(f"the file is truncated: {len(data)} of {at_least}{size} bytes are there; get a whole copy")


def _damaged(finding: str) -> CorruptFile:
    return CorruptFile(f"the file is damaged: {finding}; get another copy or encode the picture again")


def _newer(finding: str) -> UnsupportedVersion:
    return UnsupportedVersion(f"the file was made by a newer release of robustcodec: {finding}; update robustcodec")


def _name(kind: int) -> str:
    return ChunkType(kind).name.lower() if kind in _KNOWN_TYPES else f"type {kind:#04x}"


def _pad16(side: int) -> int:
    return -(-side // 16) * 16
