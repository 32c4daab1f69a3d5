"""Makes hostile files out of sound ones: bytes, fields, chunks, messages and latents changed, checksums repaired."""

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from regenerate import GOLDEN, GOLDEN_CHENG, GOLDEN_DITHERED, PLAIN, latents

from robustcodec.codec import Codec
from robustcodec.container import LAST, Chunk, ChunkType, File, Header, Payload, pack, unpack
from robustcodec.dither import key_of
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
class Seed:
    """A sound file, what it holds, and the symbols of z and y of its strips, none where it needs no model."""

    data: bytes
    file: File
    z: list[NDArray[np.int32]]
    y: list[NDArray[np.int32]]


@dataclass(frozen=True)
class Seeds:
    """Codecs by the fingerprint of their model, and sound files."""

    codecs: dict[bytes, Codec]
    every: tuple[Seed, ...]

    @cached_property
    def files(self) -> tuple[bytes, ...]:
        """All files as they are."""
        return tuple(seed.data for seed in self.every)

    @cached_property
    def networks(self) -> tuple[Seed, ...]:
        """Files that a model made."""
        return tuple(seed for seed in self.every if seed.file.header.payload is Payload.NETWORK)

    @cached_property
    def plain(self) -> tuple[Seed, ...]:
        """Files that need none."""
        return tuple(seed for seed in self.every if seed.file.header.payload is not Payload.NETWORK)


FOLDERS = (GOLDEN, GOLDEN_CHENG, GOLDEN_DITHERED, PLAIN)


def seeds(codecs: Sequence[Codec]) -> Seeds:
    """Read all sound files; the codecs are those of the models that made them."""
    by_fingerprint = {codec.bundle.fingerprint: codec for codec in codecs}

    def read(data: bytes) -> Seed:
        file = unpack(data)
        codec = by_fingerprint.get(file.header.fingerprint)
        return Seed(data, file, *(latents(codec, data) if codec is not None else ([], [])))

    paths = (path for folder in FOLDERS for path in sorted(folder.glob("*.rbc")))
    return Seeds(by_fingerprint, tuple(read(path.read_bytes()) for path in paths))


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
    file = draw.choice(sound.every).file
    header = _header_bytes(draw, file.header, draw.choice((1, 1, 2, 3)), (bytes(8), *sound.codecs))
    data = header + b"".join(_chunk(chunk.type, chunk.data, chunk is file.chunks[-1]) for chunk in file.chunks)
    return Mutant(data, "header", True)


def _header_bytes(draw: random.Random, header: Header, changes: int, known: Sequence[bytes] = ()) -> bytes:
    flags = header.payload | header.grey << 2 | header.alpha << 3 | header.icc << 4 | header.metadata << 5
    flags |= bool(header.seed) << 6
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
            fingerprint = draw.choice((*known, draw.randbytes(8)))
            continue
        top = tops.get(name, 2**28 - 1)
        value = draw.choice((draw.choice(INTERESTING), draw.randint(0, top), fields[name] ^ 1 << draw.randrange(8)))
        fields[name] = min(value, top)
    body = b"\x8bRB\n" + struct.pack("<BBBH", fields["version"], fields["flags"], fields["transform"], fields["strips"])
    long = draw.random() < 0.1
    body += _varint(fields["width"], long) + _varint(fields["height"]) + struct.pack("<H", fields["step"])
    body += fingerprint + (draw.randbytes(8) if fields["flags"] & 0x40 else b"")
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
    file = draw.choice(sound.every).file
    chunks = list(file.chunks)
    how = draw.randrange(6)
    at = draw.randrange(len(chunks))
    if how == 0:
        del chunks[at]
    elif how == 1:
        chunks.insert(draw.randrange(len(chunks) + 1), draw.choice(draw.choice(sound.every).file.chunks))
    elif how == 2:
        draw.shuffle(chunks)
    elif how == 3:
        chunks[at] = Chunk(draw.choice((*ChunkType, draw.randrange(128))), chunks[at].data)
    elif how == 4:
        chunks[at] = draw.choice(draw.choice(sound.every).file.chunks)
    wrong_size = draw.randrange(len(chunks) + 3) if how == 5 or draw.random() < 0.1 else -1
    parts = [_header_bytes(draw, file.header, 0)]
    for index, chunk in enumerate(chunks):
        size = _varint(draw.choice((*INTERESTING, 2**28 - 1, len(chunk.data))), True) if index == wrong_size else None
        parts.append(_chunk(chunk.type, chunk.data, (index == len(chunks) - 1) ^ (draw.random() < 0.02), size))
    return Mutant(b"".join(parts), "chunks", True)


# --- what is inside a chunk ---------------------------------------------------------------------------------


def _message(draw: random.Random, sound: Seeds) -> Mutant:
    """A strip's message changed, with the checksum of the latents that it had."""
    file = draw.choice(sound.networks).file
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
    file = draw.choice([seed for seed in sound.networks if seed.file.header.num_strips == 1]).file
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
    seed = draw.choice(sound.networks)
    file = seed.file
    step = draw.choice((8, 65535, 1024, draw.randint(8, 65535)))
    architecture, contents = sound.codecs[file.header.fingerprint]._architecture, []
    for index, (z, y) in enumerate(zip(seed.z, seed.y, strict=True)):
        z, y = z.copy(), y.copy()
        for planes in (z, y):
            count = draw.choice((0, 1, 5, planes.size // 4))
            where = [draw.randrange(planes.size) for _ in range(count)]
            reach = draw.choice((1, 3, 40, 1000, 32767))
            planes.ravel()[where] = [draw.randint(-reach, reach) for _ in range(count)]
        conditions = architecture.conditions(z, *y.shape[1:], key_of(file.header.seed, index))
        strip = Strip((y * (step / 1024)).astype(np.float32), z, conditions, architecture.dead_zones)
        contents.append(Chunk(ChunkType.STRIP, code_strip(architecture, strip, step)[0]))
    rest = [chunk for chunk in file.chunks if chunk.type != ChunkType.STRIP]
    chunks = sorted([*rest, *contents], key=lambda chunk: chunk.type)
    return Mutant(pack(replace(file.header, step=step), chunks), "latents", True)


def _alpha(draw: random.Random, sound: Seeds) -> Mutant:
    """Transparency that is damaged, of another size, or a bomb."""
    file = draw.choice([seed for seed in sound.every if seed.file.header.alpha]).file
    before = file.get(ChunkType.ALPHA) or b""
    how = draw.randrange(4)
    if how == 0:
        content = bytearray(before)
        _change(draw, content, sound)
        after = bytes(content) or b"\0"
    elif how == 1:
        size = draw.choice((0, 1, 100, file.header.width * file.header.height + draw.randint(-2, 2)))
        after = bytes([draw.randrange(6)]) + zlib.compress(draw.randbytes(max(0, size)))
    elif how == 2 and draw.random() < 0.5:
        after = bytes([draw.randrange(4)]) + _bomb(draw.randint(1, 1024))
    else:
        after = draw.randbytes(draw.choice((1, 2, 40)))
    chunks = [Chunk(chunk.type, after) if chunk.type == ChunkType.ALPHA else chunk for chunk in file.chunks]
    return Mutant(pack(file.header, chunks), "alpha", True)


def _bomb(size: int) -> bytes:
    """A zlib stream of so many MiB of zeros."""
    first, other = _zeros()
    checksum = (size << 20) % 65521 << 16 | 1  # the Adler-32 of so many zeros
    return first + (size - 1) * other + b"\x03\x00" + checksum.to_bytes(4, "big")


@cache
def _zeros() -> tuple[bytes, bytes]:
    """The beginning of a zlib stream of a MiB of zeros, and what has it go on with another one."""
    stream, zeros = zlib.compressobj(9), bytes(1 << 20)
    first, other = (stream.compress(zeros) + stream.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first, other


def _plain(draw: random.Random, sound: Seeds) -> Mutant:
    """What AV1, WebP and deflate hold changed: anywhere, with sizes repaired, or of another size than it was."""
    file = draw.choice(sound.plain).file
    header, chunks = file.header, list(file.chunks)
    at = draw.choice([index for index, chunk in enumerate(chunks) if chunk.type == header.strip_type])
    content = bytearray(chunks[at].data)
    how = draw.randrange(6)
    if how == 0:
        content = bytearray(draw.choice(draw.choice(sound.plain).file.chunks).data)
    elif how == 1 and draw.random() < 0.3:
        _resize(content, *(draw.choice((1, 64, 255, 1024, 16384, 65536)) for _ in range(2)))
    elif how == 1 and header.num_strips == 1:
        width, height = draw.choice((1, draw.randint(1, 255))), draw.choice((1, 65536, draw.randint(1, 255)))
        header = replace(header, width=width, height=height, transform=draw.randrange(8))
        _resize(content, header.coded_width, header.coded_height)
    elif how == 2:
        content = bytearray([draw.randrange(5)]) + zlib.compress(draw.randbytes(draw.choice((0, 1, 351, 352))))
    for _ in range(draw.choice((0, 1)) if how < 3 else draw.choice((1, 1, 2, 5))):
        # the front has what says how the rest is coded
        front = min(len(content), draw.choice((16, 48, len(content))))
        part = content[:front]
        _change(draw, part, sound)
        content[:front] = part
    if draw.random() < 0.7:
        _repair(content)
    chunks[at] = Chunk(chunks[at].type, bytes(content) or b"\0")
    if draw.random() < 0.1:
        header = replace(header, grey=not header.grey)
    if draw.random() < 0.05:
        payload = Payload.LOSSLESS if header.payload is Payload.CLASSICAL else Payload.CLASSICAL
        of_strips, header = header.strip_type, replace(header, payload=payload)
        chunks = [Chunk(header.strip_type, each.data) if each.type == of_strips else each for each in chunks]
    return Mutant(pack(header, chunks), "plain", True)


def _resize(content: bytearray, width: int, height: int) -> None:
    """Have a picture of AV1 or WebP say that it has another size, as far as its header has place for that."""
    if content[:1] == b"\x0a":
        # profile, two flags and level; how many bits either side has; the sides; what follows stays
        size = 2 + content[1]
        bits, end = int.from_bytes(content[2:size], "big"), 8 * len(content[2:size])
        rest = end - 18 - (bits >> end - 14 & 15) - (bits >> end - 18 & 15) - 2
        if rest >= 0:
            bits = (bits >> end - 10) << 40 + rest | 0xFF << 32 + rest | bits & (1 << rest) - 1
            bits |= (width - 1 & 0xFFFF) << 16 + rest | (height - 1 & 0xFFFF) << rest
            changed = (bits << -(50 + rest) % 8).to_bytes(-(-(50 + rest) // 8), "big")
            content[1:size] = bytes([len(changed)]) + changed
    elif content[12:16] == b"VP8 ":
        content[26:30] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    elif content[12:16] == b"VP8L":
        content[21:25] = struct.pack("<I", (width - 1 & 0x3FFF) | (height - 1 & 0x3FFF) << 14)


def _repair(content: bytearray) -> None:
    """Put the lengths right that AV1 and WebP have of their parts."""
    if content[:4] == b"RIFF" and len(content) > 20:
        content += b"\0" * (len(content) & 1)
        content[4:8], content[16:20] = (struct.pack("<I", len(content) - less) for less in (8, 20))
    elif content[:1] == b"\x0a" and (frame := content.find(b"\x32", 3)) > 0 and content[frame + 2 :]:
        # a sequence header has less than 128 bytes
        content[1] = min(frame - 2, 127)
        body = content[frame + 2 + (content[frame + 1] > 127) :]
        content[frame + 1 :] = _varint(len(body)) + body


_KINDS: dict[str, tuple[int, Callable[[random.Random, Seeds], Mutant]]] = {
    "bytes": (22, _raw),
    "header": (8, _header),
    "chunks": (8, _chunks),
    "message": (26, _message),
    "size": (8, _other_size),
    "latents": (18, _latents),
    "alpha": (3, _alpha),
    "plain": (10, _plain),
}
