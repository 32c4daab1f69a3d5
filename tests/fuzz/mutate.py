"""Makes hostile files out of sound ones: bytes, fields, chunks, messages and latents changed, checksums repaired."""

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from regenerate import GOLDEN, latents

from robustcodec.codec import Codec
from robustcodec.container import LAST, Chunk, ChunkType, File, Header, pack, unpack
from robustcodec.strips import Strip, code_strip

INTERESTING = (0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 255, 256, 1023, 1024, 32767, 32768, 65535)


@dataclass(frozen=True)
class Mutant:
    """A hostile file, how it was made, whether checksums were repaired, and whether only a faulty reader accepts it."""

    data: bytes
    kind: str
    repaired: bool
    wrong: bool = False


@dataclass(frozen=True)
class Seeds:
    """Sound files, what they hold, and a codec to code other latents with."""

    codec: Codec
    files: tuple[bytes, ...]
    parsed: tuple[File, ...]
    latents: tuple[tuple[list[NDArray[np.int32]], list[NDArray[np.int32]]], ...]


def seeds(codec: Codec, folder: Path = GOLDEN) -> Seeds:
    """Read the sound files of a folder."""
    files = tuple(path.read_bytes() for path in sorted(folder.glob("*.rbc")))
    return Seeds(codec, files, tuple(unpack(data) for data in files), tuple(latents(codec, data) for data in files))


def mutant(draw: random.Random, sound: Seeds) -> Mutant:
    """Make one hostile file."""
    names = list(_KINDS)
    name = draw.choices(names, [weight for weight, _ in _KINDS.values()])[0]
    return _KINDS[name][1](draw, sound)


# --- bytes, nothing repaired --------------------------------------------------------------------------------


def _raw(draw: random.Random, sound: Seeds) -> Mutant:
    data = bytearray(draw.choice(sound.files))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        _change(draw, data, sound)
    return Mutant(bytes(data), "bytes", False, bytes(data) not in sound.files)


def _change(draw: random.Random, data: bytearray, sound: Seeds) -> None:
    at = draw.randrange(len(data) + 1)
    how = draw.randrange(7)
    if how == 0 and at < len(data):
        data[at] ^= 1 << draw.randrange(8)
    elif how == 1 and at < len(data):
        data[at] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
    elif how == 2:
        del data[at : at + draw.choice((1, 2, 4, 50, 10_000))]
    elif how == 3:
        data[at:at] = draw.randbytes(draw.choice((1, 2, 4, 50)))
    elif how == 4:
        other = draw.choice(sound.files)
        data[at:] = other[draw.randrange(len(other) + 1) :]
    elif how == 5:
        data += draw.randbytes(draw.choice((1, 4, 100)))
    else:
        end = min(len(data), at + draw.choice((1, 4, 16)))
        data[at:end] = draw.randbytes(end - at)


# --- header and chunks, checksums repaired ------------------------------------------------------------------


def _header(draw: random.Random, sound: Seeds) -> Mutant:
    """Fields of any value, whether they fit one another or not."""
    file = draw.choice(sound.parsed)
    header = _header_bytes(draw, file.header, draw.choice((1, 1, 2, 3)))
    data = header + b"".join(_chunk(chunk.type, chunk.data, chunk is file.chunks[-1]) for chunk in file.chunks)
    return Mutant(data, "header", True)


def _header_bytes(draw: random.Random, header: Header, changes: int) -> bytes:
    flags = header.payload | header.grey << 2 | header.alpha << 3 | header.icc << 4 | header.metadata << 5
    fields = {
        "version": 0x10 | header.minor,
        "flags": int(flags),
        "transform": header.transform,
        "strips": header.strip_rows // 64,
        "width": header.width - 1,
        "height": header.height - 1,
        "step": header.step,
    }
    fingerprint = header.fingerprint
    tops = {"version": 255, "flags": 255, "transform": 255, "strips": 65535, "step": 65535}
    for _ in range(changes):
        name = draw.choice([*fields, "fingerprint"])
        if name == "fingerprint":
            fingerprint = draw.choice((bytes(8), draw.randbytes(8)))
            continue
        top = tops.get(name, 2**28 - 1)
        value = draw.choice((draw.choice(INTERESTING), draw.randint(0, top), fields[name] ^ 1 << draw.randrange(8)))
        fields[name] = min(value, top)
    body = b"\x8bRB\n" + struct.pack("<BBBH", fields["version"], fields["flags"], fields["transform"], fields["strips"])
    long = draw.random() < 0.1
    body += _varint(fields["width"], long) + _varint(fields["height"]) + struct.pack("<H", fields["step"])
    body += fingerprint
    return body + struct.pack("<I", zlib.crc32(body))


def _varint(value: int, long: bool = False) -> bytes:
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value | 128, 0] if long else [*groups, value])


def _chunk(kind: int, data: bytes, last: bool, size: bytes | None = None) -> bytes:
    body = bytes([kind & 127 | LAST * last]) + (_varint(len(data)) if size is None else size) + data
    return body + struct.pack("<I", zlib.crc32(body))


def _chunks(draw: random.Random, sound: Seeds) -> Mutant:
    """Chunks dropped, doubled, exchanged, of other types, with other lengths, with or without an end."""
    file = draw.choice(sound.parsed)
    chunks = list(file.chunks)
    how = draw.randrange(6)
    at = draw.randrange(len(chunks))
    if how == 0:
        del chunks[at]
    elif how == 1:
        chunks.insert(draw.randrange(len(chunks) + 1), draw.choice(draw.choice(sound.parsed).chunks))
    elif how == 2:
        draw.shuffle(chunks)
    elif how == 3:
        chunks[at] = Chunk(draw.choice((*ChunkType, draw.randrange(128))), chunks[at].data)
    elif how == 4:
        chunks[at] = draw.choice(draw.choice(sound.parsed).chunks)
    wrong_size = draw.randrange(len(chunks) + 3) if how == 5 or draw.random() < 0.1 else -1
    parts = [_header_bytes(draw, file.header, 0)]
    for index, chunk in enumerate(chunks):
        size = _varint(draw.choice((*INTERESTING, 2**28 - 1, len(chunk.data))), True) if index == wrong_size else None
        parts.append(_chunk(chunk.type, chunk.data, (index == len(chunks) - 1) ^ (draw.random() < 0.02), size))
    return Mutant(b"".join(parts), "chunks", True)


# --- what is inside a chunk ---------------------------------------------------------------------------------


def _message(draw: random.Random, sound: Seeds) -> Mutant:
    """A strip's message changed, with the checksum of the latents that it had."""
    file = draw.choice(sound.parsed)
    places = [index for index, chunk in enumerate(file.chunks) if chunk.type == ChunkType.STRIP]
    at = draw.choice(places)
    before = file.chunks[at].data
    crc, message = before[:4], bytearray(before[4:])
    for _ in range(draw.choice((1, 1, 2, 5))):
        _change(draw, message, sound)
    if draw.random() < 0.9:
        del message[len(message) // 4 * 4 :]
    if draw.random() < 0.05:
        crc = draw.randbytes(4)
    content = bytes(crc) + bytes(message)
    chunks = [*file.chunks[:at], Chunk(ChunkType.STRIP, content), *file.chunks[at + 1 :]]
    return Mutant(pack(file.header, chunks), "message", True, content != before)


def _other_size(draw: random.Random, sound: Seeds) -> Mutant:
    """A sound message under a header of another size or step."""
    file = draw.choice([each for each in sound.parsed if each.header.num_strips == 1])
    header = replace(
        file.header,
        width=draw.randint(1, 255),
        height=draw.randint(1, 255),
        step=draw.choice((8, 65535, draw.randint(8, 65535), file.header.step)),
        transform=draw.randrange(8),
    )
    return Mutant(pack(header, file.chunks), "size", True)


def _latents(draw: random.Random, sound: Seeds) -> Mutant:
    """Other latents, coded as an encoder would: nothing is wrong with the file but what it shows."""
    which = draw.randrange(len(sound.files))
    file, (all_z, all_y) = sound.parsed[which], sound.latents[which]
    step = draw.choice((8, 65535, 1024, draw.randint(8, 65535)))
    architecture, contents = sound.codec._architecture, []
    for z, y in zip(all_z, all_y, strict=True):
        z, y = z.copy(), y.copy()
        for planes in (z, y):
            count = draw.choice((0, 1, 5, planes.size // 4))
            where = [draw.randrange(planes.size) for _ in range(count)]
            reach = draw.choice((1, 3, 40, 1000, 32767))
            planes.ravel()[where] = [draw.randint(-reach, reach) for _ in range(count)]
        conditions = architecture.conditions(z, *y.shape[1:])
        strip = Strip((y * (step / 1024)).astype(np.float32), z, conditions)
        contents.append(Chunk(ChunkType.STRIP, code_strip(architecture, strip, step)[0]))
    rest = [chunk for chunk in file.chunks if chunk.type != ChunkType.STRIP]
    chunks = sorted([*rest, *contents], key=lambda chunk: chunk.type)
    return Mutant(pack(replace(file.header, step=step), chunks), "latents", True)


def _alpha(draw: random.Random, sound: Seeds) -> Mutant:
    """Transparency that is damaged, of another size, or a bomb."""
    file = draw.choice([each for each in sound.parsed if each.header.alpha])
    before = file.get(ChunkType.ALPHA) or b""
    how = draw.randrange(4)
    if how == 0:
        content = bytearray(before)
        _change(draw, content, sound)
        after = bytes(content) or b"\0"
    elif how == 1:
        size = draw.choice((0, 1, 100, file.header.width * file.header.height + draw.randint(-2, 2)))
        after = bytes([draw.randrange(6)]) + zlib.compress(draw.randbytes(max(0, size)))
    elif how == 2 and draw.random() < 0.1:
        after = bytes([draw.randrange(4)]) + _bomb()
    else:
        after = draw.randbytes(draw.choice((1, 2, 40)))
    chunks = [Chunk(chunk.type, after) if chunk.type == ChunkType.ALPHA else chunk for chunk in file.chunks]
    return Mutant(pack(file.header, chunks), "alpha", True)


@cache
def _bomb() -> bytes:
    """A zlib stream of 512 MiB of zeros, made without holding them."""
    stream, block = zlib.compressobj(9), bytes(1 << 20)
    return b"".join(stream.compress(block) for _ in range(512)) + stream.flush()


_KINDS: dict[str, tuple[int, Callable[[random.Random, Seeds], Mutant]]] = {
    "bytes": (25, _raw),
    "header": (8, _header),
    "chunks": (8, _chunks),
    "message": (28, _message),
    "size": (8, _other_size),
    "latents": (20, _latents),
    "alpha": (3, _alpha),
}
