"""Finds the intact chunks of a damaged file, and which strips they are.

A chunk does not say which strip it holds: that follows from how many chunks lie before it, or behind it up to the end.
So strips between two places where an unknown number of chunks is missing are given up.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from robustcodec.container import DEFAULT_LIMITS, LAST, Chunk, ChunkType, Header, Limits, read_header, read_varint
from robustcodec.errors import CorruptFile

_CRC_BYTES = 4
_EFFORT = 64
"""Bytes whose checksums are taken for each byte of the file at most: bounds the time that a search takes."""


@dataclass(frozen=True)
class Recovered:
    """What is intact in a file: for each strip the data of its chunk, None if it is lost, and the other chunks."""

    header: Header
    strips: tuple[bytes | None, ...]
    others: tuple[Chunk, ...]


@dataclass(frozen=True)
class _Found:
    """An intact chunk."""

    kind: int
    data: bytes
    last: bool


@dataclass(frozen=True)
class _Gap:
    """Where chunks are missing: one, or an unknown number."""

    one: bool


_Part: TypeAlias = _Found | _Gap


def recover(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Recovered:
    """Find what is intact behind a file's header, which must be.

    NotRobustcodec, UnsupportedVersion, CorruptFile, or LimitExceeded, for the header and for metadata alone.
    """
    header, offset = read_header(data, limits)
    parts = list(_parts(data, offset))
    placed = _placed(header, parts)
    strips = tuple(placed.get(index) for index in range(header.num_strips))
    others = [part for part in parts if isinstance(part, _Found) and part.kind in (ChunkType.ICC, *_BEHIND)]
    kept = {part.kind: part for part in others}
    if sum(len(part.data) for part in kept.values()) > limits.max_metadata:
        kept = {}
    return Recovered(header, strips, tuple(Chunk(ChunkType(kind), part.data) for kind, part in kept.items()))


_BEHIND = (ChunkType.ALPHA, ChunkType.EXIF, ChunkType.XMP)
_KINDS = frozenset(ChunkType)


def _parts(data: bytes, offset: int) -> Iterator[_Part]:
    """Chunks and gaps from an offset to the last chunk, or to the end."""
    search = _Search(data)
    found: _Found | None = None
    while offset < len(data):
        found, end = search.chunk(offset)
        if found is not None:
            yield found
            if found.last:
                return
            offset = end
        elif end == len(data) or search.chunk(end)[0] is not None:
            # damage that spared the length: the next chunk is where it should be
            yield _Gap(one=True)
            offset = end
        else:
            yield _Gap(one=False)
            offset = search.next_chunk(offset + 1)
    if found is not None:
        yield _Gap(one=False)


class _Search:
    """Looks for intact chunks in a file, until its effort is spent: from then on there are none."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _EFFORT * len(data)

    def chunk(self, offset: int) -> tuple[_Found | None, int]:
        """The chunk at an offset, if it is intact, and where it ends by its own account (0: beyond the file)."""
        data, size = self._data, _extent(self._data, offset)
        if size is None:
            return None, 0
        start, end = size
        self._left -= end - offset
        if self._left < 0:
            return None, end + _CRC_BYTES
        if zlib.crc32(memoryview(data)[offset:end]) != int.from_bytes(data[end : end + _CRC_BYTES], "little"):
            return None, end + _CRC_BYTES
        kind = data[offset]
        return _Found(kind & ~LAST, data[start:end], bool(kind & LAST)), end + _CRC_BYTES

    def next_chunk(self, offset: int) -> int:
        """Where the next intact chunk from an offset on begins, or the end of the data."""
        for at in range(offset, len(self._data)):
            if self.chunk(at)[0] is not None:
                return at
            if self._left < 0:
                break
        return len(self._data)


def _extent(data: bytes, offset: int) -> tuple[int, int] | None:
    """Where the data of a chunk at an offset begins and ends; None if there can be no chunk."""
    if offset >= len(data) or data[offset] & ~LAST not in _KINDS:
        return None
    try:
        length, start = read_varint(data, offset + 1)
    except CorruptFile:
        return None
    return (start, start + length) if start + length + _CRC_BYTES <= len(data) else None


def _placed(header: Header, parts: list[_Part]) -> dict[int, bytes]:
    """Strips by their index; none if their number fits no place that they could have."""
    first, last = dict(_from_start(header, parts)), dict(_from_end(header, parts))
    if _Gap(one=False) in parts:
        fits = max(first, default=-1) < min(last, default=header.num_strips)
    else:
        kinds = [part.kind for part in parts if isinstance(part, _Found)]
        gaps = len(parts) - len(kinds)
        strips = kinds.count(header.strip_type)
        fits = strips <= header.num_strips <= strips + gaps
    return first | last if fits else {}


def _from_start(header: Header, parts: list[_Part]) -> Iterator[tuple[int, bytes]]:
    """Strips up to the first gap of unknown size, with their index."""
    for place, part in enumerate(parts):
        if isinstance(part, _Found):
            if part.kind == header.strip_type:
                yield place - header.icc, part.data
        elif not part.one:
            return


def _from_end(header: Header, parts: list[_Part]) -> Iterator[tuple[int, bytes]]:
    """Strips behind the last gap of unknown size, with their index, if the end of the file is there."""
    index = header.num_strips - 1
    behind: _Found | None = None
    for part in reversed(parts):
        if isinstance(part, _Gap):
            # one missing chunk is a strip if a strip follows it
            if not part.one or behind is None or behind.kind != header.strip_type:
                return
            index -= 1
        else:
            if behind is None and not part.last:
                return
            if part.kind == header.strip_type:
                yield index, part.data
                index -= 1
            behind = part
