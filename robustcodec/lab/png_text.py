"""Texts in PNG files: a chunk with a keyword, put in and found again, whatever else the file holds."""

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KIND, _END = b"tEXt", b"IEND"
_FRAME = 12
"""Bytes of a chunk beside its content: length, kind and checksum."""


def with_text(png: bytes, keyword: str, text: str) -> bytes:
    """Put a text of ASCII characters at the end of a whole PNG file."""
    content = _KIND + keyword.encode("ascii") + b"\0" + text.encode("ascii")
    chunk = struct.pack(">I", len(content) - len(_KIND)) + content + struct.pack(">I", zlib.crc32(content))
    return png[:-_FRAME] + chunk + png[-_FRAME:]  # before the last chunk, which is empty


def text_of(data: bytes, keyword: str) -> str | None:
    """Find the first text of a keyword in any bytes; None without one that is whole."""
    wanted = keyword.encode("ascii") + b"\0"
    at = len(_SIGNATURE)
    while data.startswith(_SIGNATURE) and at + _FRAME <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if kind == _END:
            break
        if kind == _KIND and data.startswith(wanted, at + 8, end) and end + 4 <= len(data):
            sound = struct.pack(">I", zlib.crc32(data[at + 4 : end])) == data[end : end + 4]
            return data[at + 8 + len(wanted) : end].decode("latin-1") if sound else None
        at += _FRAME + length
    return None
