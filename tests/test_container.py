"""The file container: exact bytes, round trips, every error, and damage of every kind."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from robustcodec import container
from robustcodec.container import (
    MAX_CHUNK_BYTES,
    MAX_HEADER_BYTES,
    Chunk,
    ChunkType,
    File,
    Flag,
    Header,
    Limits,
    Payload,
    join_strip,
    pack,
    read_header,
    split_strip,
    unpack,
)
from robustcodec.errors import (
    CorruptFile,
    FileFormatError,
    LimitExceeded,
    NotRobustcodec,
    UnsupportedVersion,
)

FINGERPRINT = bytes.fromhex("0123456789abcdef")
FORMAT_PAGE = (Path(__file__).parent.parent / "docs" / "format.md").read_text(encoding="utf-8")

# Written by hand from the field table; the checksums come from `crc` below, not from the module.
HEADER_768x512 = bytes.fromhex("8b52420a 10 00 00 0000 ff05 ff03 0004 0123456789abcdef 6c08a68b")
STRIP_HELLO = bytes.fromhex("90 09 78563412 68656c6c6f b483b774")
SMALLEST = bytes.fromhex("8b52420a 10 00 00 0000 00 00 0004 0123456789abcdef e247ca1e 90 04 00000000 20112459")


def crc(data: bytes) -> bytes:
    """CRC-32 bit by bit, from its definition in docs/format.md."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0xEDB88320 if state & 1 else 0)
    return (state ^ 0xFFFFFFFF).to_bytes(4, "little")


def network(**changes: object) -> Header:
    fields: dict[str, object] = {
        "width": 768,
        "height": 512,
        "payload": Payload.NETWORK,
        "step": 1024,
        "fingerprint": FINGERPRINT,
    }
    return Header(**(fields | changes))  # type: ignore[arg-type]


def classical(**changes: object) -> Header:
    return network(**{"payload": Payload.CLASSICAL, "step": 0, "fingerprint": bytes(8), **changes})


def raw_header(
    *,
    version: int = 0x10,
    flags: int = 0,
    transform: int = 0,
    strip_units: int = 0,
    sides: str = "00 00",
    step: int = 1024,
    fingerprint: bytes = FINGERPRINT,
    seed: bytes = b"",
) -> bytes:
    """A header with a right checksum, whatever its fields say."""
    body = bytes([0x8B, 0x52, 0x42, 0x0A, version, flags, transform]) + strip_units.to_bytes(2, "little")
    body += bytes.fromhex(sides) + step.to_bytes(2, "little") + fingerprint + seed
    return body + crc(body)


def raw_chunk(kind: int, data: bytes, length: str | None = None) -> bytes:
    """A chunk (with LAST where `kind` has it) with a right checksum, and any length bytes."""
    body = bytes([kind]) + (bytes([len(data)]) if length is None else bytes.fromhex(length)) + data
    return body + crc(body)


STRIP = raw_chunk(0x10, b"crc!")
LAST_STRIP = raw_chunk(0x90, b"crc!")


def varint_end(data: bytes, offset: int) -> int:
    while offset < len(data) and data[offset] >= 0x80:
        offset += 1
    return offset + 1


def repaired(data: bytes) -> bytes:
    """The file with all checksums made right, as far as its framing can be followed."""
    fixed = bytearray(data)
    end = first = varint_end(data, varint_end(data, 9)) + 14 + 8 * bool(data[5:6] and data[5] & 0x40)
    while end <= len(fixed):
        start = end
        if start == first:
            fixed[start - 4 : start] = crc(bytes(fixed[: start - 4]))
        body = varint_end(data, start + 1)
        length = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data[start + 1 : body]))
        end = body + length + 4
        if end <= len(fixed):
            fixed[end - 4 : end] = crc(bytes(fixed[start : end - 4]))
    return bytes(fixed)


def outcome(data: bytes) -> File | None:
    """What `unpack` makes of the data; only our own errors may come out, and what it accepts is canonical."""
    try:
        file = unpack(data)
    except (FileFormatError, LimitExceeded) as error:
        assert str(error)
        assert "\n" not in str(error)
        return None
    assert pack(file.header, file.chunks) == data
    assert sum(file.sections.values()) == len(data)
    assert len(file.payload) == file.header.num_strips
    return file


@st.composite
def files(draw: st.DrawFn) -> File:
    """Valid files of all payloads, also of later minor versions."""
    payload = draw(st.sampled_from(Payload))
    is_network = payload is Payload.NETWORK
    sides = st.one_of(st.integers(1, 200), st.integers(1, 2**14))
    width, height, transform = draw(sides), draw(sides), draw(st.integers(0, 7))
    coded_height = width if transform & 4 else height
    unit = draw(st.integers(1, 4)) * -(-coded_height // 256)
    strip_rows = unit * 64 if unit * 64 < coded_height and draw(st.booleans()) else 0
    coded_width = height if transform & 4 else width
    if is_network and coded_height > 64 and (strip_rows or coded_height) * coded_width > 2**24:
        strip_rows = 64
    data = st.binary(min_size=4, max_size=200)
    icc, alpha, exif, xmp = (draw(st.booleans()) for _ in range(4))
    minor = draw(st.sampled_from([0, 0, 1, 15]))
    header = Header(
        width=width,
        height=height,
        payload=payload,
        grey=draw(st.booleans()),
        alpha=alpha,
        icc=icc,
        metadata=exif or xmp,
        transform=transform,
        strip_rows=strip_rows,
        step=draw(st.integers(8, 65535)) if is_network else 0,
        fingerprint=draw(st.binary(min_size=8, max_size=8)) if is_network else bytes(8),
        seed=draw(st.binary(min_size=8, max_size=8)) if is_network and draw(st.booleans()) else b"",
        minor=minor,
    )
    kind = {0: ChunkType.STRIP, 1: ChunkType.CLASSICAL, 2: ChunkType.LOSSLESS}[payload]
    kinds = [int(kind)] * header.num_strips
    kinds = [ChunkType.ICC] * icc + kinds + [ChunkType.ALPHA] * alpha + [ChunkType.EXIF] * exif
    kinds += [ChunkType.XMP] * xmp
    if minor:
        kinds += sorted(draw(st.sets(st.integers(0x43, 0x7F), max_size=2)))
    return File(header=header, chunks=tuple(Chunk(kind, draw(data)) for kind in kinds))


SAMPLE_FILE = File(
    header=Header(
        width=100,
        height=150,
        payload=Payload.NETWORK,
        alpha=True,
        icc=True,
        metadata=True,
        transform=3,
        strip_rows=64,
        step=300,
        fingerprint=FINGERPRINT,
    ),
    chunks=(
        Chunk(ChunkType.ICC, b"profile"),
        Chunk(ChunkType.STRIP, join_strip(1, b"top")),
        Chunk(ChunkType.STRIP, join_strip(2, b"")),
        Chunk(ChunkType.STRIP, join_strip(3, bytes(130))),
        Chunk(ChunkType.ALPHA, b"opaque"),
        Chunk(ChunkType.EXIF, b"Exif\0\0"),
    ),
)
SAMPLE = pack(SAMPLE_FILE.header, SAMPLE_FILE.chunks)


# Exact bytes


def test_golden_header_and_strip() -> None:
    chunk = Chunk(ChunkType.STRIP, join_strip(0x12345678, b"hello"))
    data = HEADER_768x512 + STRIP_HELLO
    assert pack(network(), [chunk]) == data
    assert unpack(data) == File(header=network(), chunks=(chunk,))
    assert read_header(HEADER_768x512) == (network(), 27)
    assert split_strip(chunk.data) == (0x12345678, b"hello")
    assert unpack(data).sections == {"header": 27, "strip": 15}


def test_header_with_a_seed() -> None:
    header, end = read_header(raw_header(flags=0x40, seed=b"01234567"))
    assert (header.seed, end) == (b"01234567", 33)
    assert header == network(width=1, height=1, seed=b"01234567")
    with pytest.raises(ValueError, match="a seed of 7 bytes"):
        network(seed=b"0123456")


def test_smallest_file() -> None:
    file = unpack(SMALLEST)
    assert (file.header.width, file.header.height, len(SMALLEST)) == (1, 1, 35)
    assert file.payload == (bytes(4),)
    assert pack(file.header, file.chunks) == SMALLEST


def test_header_with_every_field() -> None:
    # 391x100, mirrored columns and transposed (so 391 coded rows), strips of 192 rows, all flags.
    body = bytes.fromhex("8b52420a 10 3d 05 0300 8603 63 0000 0000000000000000")
    header, end = read_header(body + crc(body))
    assert end == len(body) + 4 == 26
    assert header == Header(
        width=391,
        height=100,
        payload=Payload.CLASSICAL,
        grey=True,
        alpha=True,
        icc=True,
        metadata=True,
        transform=5,
        strip_rows=192,
    )
    assert (header.coded_width, header.coded_height, header.num_strips) == (100, 391, 3)
    assert [header.rows_of_strip(i) for i in range(3)] == [range(192), range(192, 384), range(384, 391)]


def test_overhead_of_an_ordinary_picture() -> None:
    for message_bytes, overhead in ((16379, 38), (16380, 39), (24_000, 39)):
        data = pack(network(), [Chunk(ChunkType.STRIP, join_strip(0, bytes(message_bytes)))])
        assert len(data) - message_bytes == overhead


def test_header_is_at_most_39_bytes() -> None:
    roomy = Limits(max_pixels=2**60)
    header = classical(width=2**28, height=2**28, strip_rows=0xFFFF * 64)
    data = pack(header, [Chunk(ChunkType.CLASSICAL, bytes(4))] * header.num_strips)
    assert read_header(data[:31], roomy) == (header, 31)
    longest = raw_header(flags=0x40, sides="ffffff7f ffffff7f", strip_units=1, seed=bytes(8))
    seeded = network(width=2**28, height=2**28, strip_rows=64, seed=bytes(8))
    assert read_header(longest, roomy) == (seeded, MAX_HEADER_BYTES)


def test_numbers_on_disk_are_pinned() -> None:
    assert {p.name: p.value for p in Payload} == {"NETWORK": 0, "CLASSICAL": 1, "LOSSLESS": 2}
    assert {f.name: f.value for f in Flag} == {"GREY": 4, "ALPHA": 8, "ICC": 16, "METADATA": 32, "DITHER": 64}
    assert {c.name: c.value for c in ChunkType} == {
        "ICC": 1,
        "STRIP": 16,
        "CLASSICAL": 17,
        "LOSSLESS": 18,
        "ALPHA": 32,
        "EXIF": 65,
        "XMP": 66,
    }
    assert (container.LAST, container.MAY_SKIP, container.MAGIC) == (0x80, 0x40, b"\x8bRB\n")


# Round trips


@settings(deadline=None, derandomize=True, max_examples=150)
@given(files())
def test_round_trip(file: File) -> None:
    data = pack(file.header, file.chunks)
    assert outcome(data) == file
    assert repaired(data) == data
    assert read_header(data[:MAX_HEADER_BYTES])[0] == file.header


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(1, 2**28), st.integers(0, 0xFFFF))
def test_strips_tile_the_picture(height: int, strip_units: int) -> None:
    assume(strip_units * 64 < height)
    header = classical(height=height, strip_rows=strip_units * 64)
    ends = {0, 1, header.num_strips - 1, max(header.num_strips - 2, 0)} & set(range(header.num_strips))
    assert header.rows_of_strip(0).start == 0
    assert header.rows_of_strip(header.num_strips - 1).stop == height
    assert all(len(header.rows_of_strip(i)) > 0 for i in ends)
    assert all(header.rows_of_strip(i).start == header.rows_of_strip(i - 1).stop for i in ends - {0})
    for outside in (-1, header.num_strips):
        with pytest.raises(IndexError):
            header.rows_of_strip(outside)


def test_parts_of_a_file() -> None:
    file = unpack(SAMPLE)
    assert file == SAMPLE_FILE
    assert [split_strip(data) for data in file.payload] == [(1, b"top"), (2, b""), (3, bytes(130))]
    assert file.get(ChunkType.ICC) == b"profile"
    assert file.get(ChunkType.XMP) is None
    assert all(isinstance(chunk.type, ChunkType) for chunk in file.chunks)
    assert list(file.sections) == ["header", "icc", "strip 0", "strip 1", "strip 2", "alpha", "exif"]
    assert file.sections["strip 2"] == 1 + 2 + 134 + 4


# Versions


def test_later_minor_version_may_add_chunks_to_skip() -> None:
    data = raw_header(version=0x13) + STRIP + raw_chunk(0xFF, b"new")
    file = unpack(data)
    assert (file.header.minor, file.chunks[-1]) == (3, Chunk(0x7F, b"new"))
    assert pack(file.header, file.chunks) == data
    assert list(file.sections) == ["header", "strip", "type 0x7f"]


def test_later_minor_version_with_a_chunk_that_is_needed() -> None:
    data = raw_header(version=0x11) + STRIP + raw_chunk(0xA1, b"new")
    with pytest.raises(UnsupportedVersion, match=r"newer release.*0x21.*update"):
        unpack(data)
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(CorruptFile, match="checksum of chunk 1"):
        unpack(damaged)


@pytest.mark.parametrize("version", [0x20, 0x2F, 0xF0])
def test_newer_major_version(version: int) -> None:
    with pytest.raises(UnsupportedVersion, match=r"made by a newer release of robustcodec.*update"):
        unpack(container.MAGIC + bytes([version]) + b"anything")


# One test for each cause of refusal


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty file"),
        (b"\x89PNG\r\n\x1a\n", "begins with 89 50 4e 47 instead of 8b 52 42 0a"),
        (container.MAGIC[:3], "begins with 8b 52 42 instead"),
    ],
)
def test_not_robustcodec(data: bytes, says: str) -> None:
    with pytest.raises(NotRobustcodec, match=says):
        unpack(data)


@pytest.mark.parametrize(
    "mangle",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: bytes(byte & 0x7F for byte in data),
        lambda data: data.decode("latin-1").encode(),
        lambda data: data.decode(errors="replace").encode(),
    ],
)
def test_text_mode_transfer(mangle: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CorruptFile, match="text mode"):
        unpack(mangle(SAMPLE))


CORRUPT = {
    "magic only": (container.MAGIC, "truncated: 4 of at least 5 bytes"),
    "no size": (SMALLEST[:8], "truncated: 8 of at least 9 bytes"),
    "half a size": (HEADER_768x512[:10], "truncated: 10 of at least 11 bytes"),
    "half a header": (HEADER_768x512[:26], "truncated: 26 of at least 27 bytes"),
    "no chunk": (HEADER_768x512, "truncated: 27 of at least 28 bytes"),
    "half a length": (HEADER_768x512 + b"\x90\x80", "truncated: 29 of at least 30 bytes"),
    "half the last chunk": (HEADER_768x512 + STRIP_HELLO[:9], "truncated: 36 of 42 bytes"),
    "half another chunk": (raw_header() + STRIP[:5], "truncated: 30 of at least 35 bytes"),
    "no last chunk": (raw_header() + STRIP, "truncated: 35 of at least 36 bytes"),
    "appended": (SMALLEST + b"\0", "should end after 35 bytes but has 36"),
    "version 0": (raw_header(version=0x0F) + LAST_STRIP, "no format version 0.15"),
    "header checksum": (HEADER_768x512[:-1] + b"\0" + STRIP_HELLO, "checksum of the header"),
    "chunk checksum": (SMALLEST[:-1] + b"\0", r"checksum of chunk 0 \(strip\)"),
    "reserved flag": (raw_header(flags=0x80) + LAST_STRIP, "reserved bits"),
    "flag of a seed that is not there": (raw_header(flags=0x40) + LAST_STRIP, "checksum of the header"),
    "seed without its flag": (raw_header(seed=bytes(8)) + LAST_STRIP, "checksum of the header"),
    "seed of classical": (
        raw_header(flags=0x41, step=0, fingerprint=bytes(8), seed=bytes(8)) + raw_chunk(0x91, b"x"),
        "a fingerprint or a seed",
    ),
    "reserved transform": (raw_header(transform=8) + LAST_STRIP, "reserved bits"),
    "payload 3": (raw_header(flags=3) + LAST_STRIP, "3 is not a valid Payload"),
    "long width": (raw_header(sides="8000 00") + LAST_STRIP, "at byte 9 is longer than it needs"),
    "long height": (raw_header(sides="00 ff80808000") + LAST_STRIP, "at byte 10 has more than 4 bytes"),
    "long chunk length": (raw_header() + raw_chunk(0x90, b"crc!", "8400"), "at byte 26 is longer than it"),
    "longer chunk length": (raw_header() + raw_chunk(0x90, b"crc!", "8480808000"), "more than 4 bytes"),
    "step 7": (raw_header(step=7) + LAST_STRIP, "step 7 is outside 8..65535"),
    "step of lossless": (
        raw_header(flags=2, fingerprint=bytes(8)) + raw_chunk(0x92, b"x"),
        "lossless payload has a step",
    ),
    "fingerprint of classical": (raw_header(flags=1, step=0) + raw_chunk(0x91, b"x"), "a fingerprint or a seed"),
    "strip as high as the picture": (
        raw_header(strip_units=1, sides="00 3f") + LAST_STRIP,
        "strips of 64 rows in 64 coded rows",
    ),
    "too few strips": (
        raw_header(strip_units=1, sides="00 40") + LAST_STRIP,
        r"1 chunks \(strip\) where the header says 2",
    ),
    "too many strips": (raw_header() + STRIP + LAST_STRIP, r"2 chunks \(strip\) where the header says 1"),
    "far too many chunks": (raw_header() + STRIP * 70 + LAST_STRIP, "more chunks than its picture can need"),
    "strip without room for its checksum": (raw_header() + raw_chunk(0x90, b"crc"), "has only 3 bytes"),
    "empty profile": (
        raw_header(flags=0x10) + raw_chunk(0x01, b"") + LAST_STRIP,
        r"a chunk \(icc\) has only 0 bytes",
    ),
    "other payload": (raw_header() + raw_chunk(0x92, b"data"), r"0 chunks \(strip\) where the header says 1"),
    "two payloads": (
        raw_header() + STRIP + raw_chunk(0x92, b"data"),
        r"1 chunks \(lossless\) where the header says 0",
    ),
    "order": (
        raw_header(flags=0x10) + STRIP + raw_chunk(0x81, b"profile"),
        r"a chunk \(icc\) follows a chunk \(strip\)",
    ),
    "repeated": (
        raw_header(flags=0x10) + raw_chunk(0x01, b"profile") * 2 + LAST_STRIP,
        r"a chunk \(icc\) follows a chunk \(icc\)",
    ),
    "repeated unknown": (
        raw_header(version=0x11) + STRIP + raw_chunk(0x50, b"") + raw_chunk(0xD0, b""),
        r"a chunk \(type 0x50\) follows",
    ),
    "unknown chunk to skip": (
        raw_header() + STRIP + raw_chunk(0xFF, b"new"),
        "no chunk type 0x7f in format 1.0",
    ),
    "unknown chunk": (raw_header() + STRIP + raw_chunk(0xA1, b"new"), "no chunk type 0x21 in format 1.0"),
    "alpha without flag": (
        raw_header() + STRIP + raw_chunk(0xA0, b"a"),
        "alpha flag of the header disagrees",
    ),
    "alpha flag alone": (raw_header(flags=8) + LAST_STRIP, "alpha flag of the header disagrees"),
    "profile without flag": (
        raw_header() + raw_chunk(0x01, b"p") + LAST_STRIP,
        "ICC flag of the header disagrees",
    ),
    "profile flag alone": (raw_header(flags=0x10) + LAST_STRIP, "ICC flag of the header disagrees"),
    "EXIF without flag": (
        raw_header() + STRIP + raw_chunk(0xC1, b"e"),
        "metadata flag of the header disagrees",
    ),
    "metadata flag alone": (raw_header(flags=0x20) + LAST_STRIP, "metadata flag of the header disagrees"),
}


@pytest.mark.parametrize("cause", CORRUPT)
def test_corrupt(cause: str) -> None:
    data, says = CORRUPT[cause]
    with pytest.raises(CorruptFile, match=says) as caught:
        unpack(data)
    assert type(caught.value) is CorruptFile


def test_short_strip_data() -> None:
    with pytest.raises(CorruptFile, match="a strip has 3 bytes"):
        split_strip(b"abc")


# Limits


@pytest.mark.parametrize("transform", [0, 4])
def test_pixel_limit_counts_the_padding(transform: int) -> None:
    header = network(width=17, height=1, transform=transform)
    data = pack(header, [Chunk(ChunkType.STRIP, bytes(4))])
    assert unpack(data, Limits(max_pixels=512)).header == header
    with pytest.raises(LimitExceeded, match=r"17x1 has 512 pixels with padding but 511 are allowed"):
        read_header(data, Limits(max_pixels=511))


def test_default_pixel_limit() -> None:
    assert read_header(raw_header(sides="ff7f ff7f", strip_units=1))[0].width == 2**14
    with pytest.raises(LimitExceeded):
        read_header(raw_header(sides="ff7f 808001", strip_units=1))
    with pytest.raises(LimitExceeded, match=str(2**56)):
        unpack(raw_header(flags=1, sides="ffffff7f ffffff7f", step=0, fingerprint=bytes(8)))


def test_metadata_limit_is_for_the_sum() -> None:
    assert unpack(SAMPLE, Limits(max_metadata=13)) == SAMPLE_FILE
    with pytest.raises(LimitExceeded, match="13 bytes of metadata but 12 are allowed"):
        unpack(SAMPLE, Limits(max_metadata=12))


def test_metadata_limit_covers_unknown_chunks() -> None:
    data = raw_header(version=0x11) + STRIP + raw_chunk(0xFF, bytes(9))
    with pytest.raises(LimitExceeded, match="9 bytes of metadata"):
        unpack(data, Limits(max_metadata=8))


def test_declared_sizes_cost_nothing() -> None:
    # A chunk that says 2^28 - 1 bytes, and a picture with 2^18 strips: refused by what is there, at once.
    with pytest.raises(CorruptFile, match=f"truncated: 34 of {30 + MAX_CHUNK_BYTES + 4} bytes"):
        unpack(raw_header() + bytes.fromhex("90 ffffff7f 00000000"))
    with pytest.raises(CorruptFile, match=r"1 chunks \(strip\) where the header says 262144"):
        unpack(raw_header(strip_units=1, sides="00 ffffff07") + LAST_STRIP)


# Writing


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 0}, "width 0"),
        ({"height": 2**28 + 1}, "height 268435457"),
        ({"transform": 8}, "transform 8"),
        ({"transform": -1}, "transform -1"),
        ({"step": 7}, "step 7"),
        ({"step": 65536}, "step 65536"),
        ({"fingerprint": bytes(7)}, "7 bytes"),
        ({"strip_rows": 65}, "strip height 65"),
        ({"strip_rows": -64}, "strip height -64"),
        ({"width": 16385, "height": 1024}, "strips of 1024 rows and 16385 columns"),
        ({"width": 2**18, "height": 65}, "strips of 65 rows and 262144 columns"),
        ({"width": 2048, "height": 16385, "strip_rows": 1024, "transform": 4}, "more than 16777216 pixels"),
        ({"strip_rows": 0x10000 * 64, "height": 2**28}, "strip height 4194304"),
        ({"strip_rows": 512}, "strips of 512 rows"),
        ({"minor": 16}, "minor version 16"),
        ({"payload": Payload.CLASSICAL}, "classical payload"),
        ({"payload": Payload.LOSSLESS, "step": 0}, "fingerprint"),
    ],
)
def test_there_is_no_invalid_header(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        network(**changes)


@pytest.mark.parametrize(
    ("header", "chunks"),
    [
        (network(), []),
        (network(alpha=True), [Chunk(ChunkType.STRIP, bytes(4))]),
        (network(), [Chunk(ChunkType.STRIP, bytes(4)), Chunk(0x7F, b"")]),
        (network(minor=1), [Chunk(ChunkType.STRIP, bytes(4)), Chunk(0xFF, b"")]),
    ],
)
def test_pack_refuses_what_unpack_would_refuse(header: Header, chunks: list[Chunk]) -> None:
    with pytest.raises(ValueError):
        pack(header, chunks)


def test_low_strips_may_be_as_wide_as_can_be() -> None:
    assert network(width=2**28, height=2**28, strip_rows=64).num_strips == 2**22
    assert network(width=2**28, height=64).num_strips == network(width=2**14, height=2**10).num_strips == 1


def test_pack_refuses_data_that_no_length_can_say() -> None:
    with pytest.raises(LimitExceeded, match="the lossless takes 268435456 bytes"):
        pack(Header(width=1, height=1, payload=Payload.LOSSLESS), [Chunk(ChunkType.LOSSLESS, bytes(2**28))])


# Damage


def test_every_bit_flip_is_refused() -> None:
    for position in range(8 * len(SAMPLE)):
        damaged = bytearray(SAMPLE)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(FileFormatError):
            unpack(bytes(damaged))


def test_every_truncation_is_refused() -> None:
    for size in range(len(SAMPLE)):
        with pytest.raises(CorruptFile if size >= 4 else NotRobustcodec):
            unpack(SAMPLE[:size])


def test_every_extension_is_refused() -> None:
    for byte in range(256):
        with pytest.raises(CorruptFile, match="appended"):
            unpack(SAMPLE + bytes([byte]))


def test_every_header_byte_with_repaired_checksums() -> None:
    accepted = 0
    for position in range(25):
        for byte in range(256):
            changed = SAMPLE[:position] + bytes([byte]) + SAMPLE[position + 1 :]
            accepted += outcome(repaired(changed)) is not None
    assert accepted > 1000  # the repair gets past the checksums: fingerprint, step and others are free


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=80), st.sampled_from([b"", container.MAGIC, SMALLEST[:25], HEADER_768x512]))
def test_arbitrary_bytes(tail: bytes, start: bytes) -> None:
    outcome(start + tail)
    outcome(repaired(start + tail))


@settings(deadline=None, derandomize=True, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(files(), files(), st.data())
def test_mutated_files(file: File, other: File, data: st.DataObject) -> None:
    sound, second = pack(file.header, file.chunks), pack(other.header, other.chunks)
    mutated = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        # Positions near the start are the interesting ones.
        at = data.draw(st.one_of(st.integers(0, min(40, len(mutated))), st.integers(0, len(mutated))))
        stop = min(len(mutated), at + data.draw(st.integers(0, 20)))
        splice = st.integers(0, len(second)).map(lambda i: second[i : i + 40])
        mutated[at:stop] = data.draw(st.one_of(st.binary(max_size=4), splice))
    changed = bytes(mutated)
    outcome(repaired(changed))
    outcome(changed)
    # Chunks in any order, number and company, each with a right checksum.
    chunks = data.draw(st.lists(st.sampled_from(file.chunks + other.chunks), min_size=1, max_size=6))
    header = sound[: file.sections["header"]]
    outcome(header + b"".join(raw_chunk_of(c, last=i == len(chunks) - 1) for i, c in enumerate(chunks)))


def raw_chunk_of(chunk: Chunk, *, last: bool) -> bytes:
    size = len(chunk.data)
    length = f"{size:02x}" if size < 128 else f"{size & 127 | 128:02x}{size >> 7:02x}"
    return raw_chunk(chunk.type | (0x80 if last else 0), chunk.data, length)


# docs/format.md


def rows(heading: str) -> list[list[str]]:
    """Cells of the table in docs/format.md whose first heading is given."""
    lines = iter(FORMAT_PAGE.splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            next(lines)
            break
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    assert table, f"no table begins with {heading}"
    return table


def test_page_has_the_numbers_of_the_module() -> None:
    assert {name: int(value) for name, value, *_ in rows("payload")} == {p.name: p.value for p in Payload}
    assert {name: int(value, 16) for name, value, _ in rows("flag")} == {f.name: f.value for f in Flag}
    assert [(name, int(value, 16)) for name, value, *_ in rows("chunk type")] == [
        (c.name, c.value) for c in sorted(ChunkType)
    ]
    for name, value, how_many, least, _ in rows("chunk type"):
        kind = ChunkType[name]
        payload = next((Payload[p] for p, _, chunk, _ in rows("payload") if chunk == name), None)
        assert int(value, 16) == kind
        assert (how_many == "one for each strip, or 0") == (payload is not None)
        with pytest.raises(ValueError, match=f"has only {int(least) - 1} bytes"):
            pack(network(), [Chunk(kind, bytes(int(least) - 1))])
    assert f"`{container.LAST:#04x}`" in FORMAT_PAGE
    assert f"`{container.MAY_SKIP:#04x}`" in FORMAT_PAGE
    limits = [int(n) for n in re.findall(r"at most (\d+)(?: bytes)? by default", FORMAT_PAGE)]
    assert limits == [Limits().max_pixels, Limits().max_metadata]
    assert f"strips + {container._NUM_SINGLE_TYPES}" in FORMAT_PAGE


def test_page_and_module_have_the_same_header_table() -> None:
    page = {field.replace("−", "-"): (offset, size) for offset, size, field, _ in rows("offset")}
    assert container.__doc__ is not None
    pattern = re.compile(r"^ {4}(\d|\.) +(0 or 8|[\d-]+) +(.+?) {2,}\S", re.MULTILINE)
    module = {
        field: (offset.replace(".", "…"), size.replace("-", " to "))
        for offset, size, field in pattern.findall(container.__doc__)
        if field in page
    }
    assert module == page
    assert page["magic"] == ("0", "4")
    assert rows("offset")[0][3] == f"`{container.MAGIC.hex(' ').upper()}`"


def test_page_example_is_the_golden_file() -> None:
    block = re.search(r"```hex\n(.*?)```", FORMAT_PAGE, re.DOTALL)
    assert block is not None
    hexes = (re.match(r"(?:[0-9a-f]{2} {1,2})+", line) for line in block[1].splitlines())
    assert b"".join(bytes.fromhex(found[0]) for found in hexes if found) == HEADER_768x512 + STRIP_HELLO


@pytest.mark.parametrize("row", rows("transform"))
def test_page_defines_transforms_as_the_bits_say(row: list[str]) -> None:
    transform, formula, size, _, orientation = row
    p = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3)
    c = p
    bits = int(transform)
    c = c[:, ::-1] if bits & 1 else c
    c = c[::-1] if bits & 2 else c
    c = c.T if bits & 4 else c
    header = network(width=3, height=2, transform=bits)
    assert c.shape == (header.coded_height, header.coded_width)
    assert c.shape == tuple({"H": 2, "W": 3}[side] for side in size.split(" × "))
    names = {"p": p, "H": 2, "W": 3}
    pixels = [
        [eval(formula.strip("`"), {}, names | {"i": i, "j": j}) for j in range(c.shape[1])] for i in range(c.shape[0])
    ]
    assert np.array_equal(c, pixels)
    # A viewer that knows EXIF shows the reader's picture (Pillow's rules, not ours).
    coded = Image.fromarray(np.ascontiguousarray(c))
    coded.getexif()[0x0112] = int(orientation)
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(coded)), p)
