"""One strip of a file: latents and their checksum to the data of its chunk and back, one walk for both."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustcodec.architectures import Architecture, Conditions, Float32, Group, Int32, Latents, Schedule
from robustcodec.container import join_strip, split_strip
from robustcodec.entropy import LARGEST_VALUE, TableSet, decode_group, encode_group, make_decoder, make_encoder
from robustcodec.errors import CorruptFile
from robustcodec.rate import STEP_UNIT


@dataclass(frozen=True, eq=False)
class Strip:
    """Latents y (M, h, w) of a strip, z's symbols and what they say about y.

    `dead_zones` are those of the architecture, or others where whatever rounds to a symbol is to be one.
    """

    y: Float32
    z: Int32
    conditions: Conditions
    dead_zones: Float32


class Coded(NamedTuple):
    """A strip's data, the latents (M, h, w) in units of 1/1024 that it decodes to, and the bits it might have taken.

    `expected` are the bits that its probability tables expect of symbols that are distributed as they say.
    """

    data: bytes
    y_hat: Int32
    expected: float


def prepare_strip(architecture: Architecture, y: Float32, key: bytes = b"") -> Strip:
    """Give latents what coding them takes, whatever the step; `key` dithers them.

    Raises ImageError if they are not finite.
    """
    z = architecture.side_information(y)
    height, width = y.shape[1:]
    return Strip(y, z, architecture.conditions(z, height, width, key), architecture.dead_zones)


def code_strip(architecture: Architecture, strip: Strip, step: int) -> Coded:
    """Code a strip's latents at a step."""
    encoder = make_encoder()
    index = architecture.side_index(*strip.y.shape[1:])
    encode_group(encoder, strip.z, index, architecture.z_tables)
    expected = _expected(index, architecture.z_tables)

    def code(group: Group) -> Int32:
        nonlocal expected
        symbols = quantised(strip.y, group, step, strip.dead_zones)
        encode_group(encoder, symbols, group.table, architecture.y_tables)
        expected += _expected(group.table, architecture.y_tables)
        return symbols

    latents = walk(strip.conditions.schedule(step), code)
    return Coded(join_strip(_checksum(strip.z, latents), encoder.finish()), latents.y_hat, expected)


def read_strip(architecture: Architecture, data: bytes, height: int, width: int, step: int, key: bytes = b"") -> Int32:
    """Decode a strip to latents (M, height, width) in units of 1/1024. Raises CorruptFile."""
    if bool(key) != (architecture.dithered.tables > 0):
        raise CorruptFile("the file is damaged: it has a seed and its model does not dither, or the other way round")
    crc, message = split_strip(data)
    decoder = make_decoder(message)
    z = decode_group(decoder, architecture.side_index(height, width), architecture.z_tables)
    latents = walk(
        architecture.conditions(z, height, width, key).schedule(step),
        lambda group: decode_group(decoder, group.table, architecture.y_tables),
    )
    decoder.finish()
    if _checksum(z, latents) != crc:
        raise CorruptFile("the file is damaged: its latents do not have their checksum; get the file again")
    return latents.y_hat


def quantised(y: Float32, group: Group, step: int, dead_zones: Float32) -> Int32:
    """Round the latents of a group to symbols, to zero within the dead zone of their table."""
    symbols = in_steps(y, group, step)
    symbols[np.abs(symbols) < dead_zones[group.table]] = 0
    np.rint(symbols, out=symbols)
    # beyond the largest value a latent is cut off: only hostile pictures come near it
    clamped: Int32 = np.clip(symbols, -LARGEST_VALUE, LARGEST_VALUE, out=symbols).astype(np.int32)
    return clamped


def in_steps(y: Float32, group: Group, step: int) -> Float32:
    """Give how far the latents of a group are from their means, in steps."""
    values = y[group.positions]
    if group.mean.ndim:
        values = values - np.divide(group.mean, STEP_UNIT, dtype=np.float32)
    return values * np.float32(STEP_UNIT / step)


def walk(schedule: Schedule, code: Callable[[Group], Int32]) -> Latents:
    """Walk a schedule: `code` encodes or decodes each group's symbols."""
    try:
        group = next(schedule)
        while True:
            group = schedule.send(code(group))
    except StopIteration as end:
        latents: Latents = end.value
        return latents


def _expected(index: NDArray[np.integer[Any]], tables: TableSet) -> float:
    return float(np.bincount(index.ravel(), minlength=len(tables)) @ tables.entropies)


def _checksum(z: Int32, latents: Latents) -> int:
    """CRC-32 of a strip's latents: z's symbols as int16, then what the architecture adds, little endian."""
    crc = zlib.crc32(z.astype("<i2").tobytes())
    for array in latents.checked:
        crc = zlib.crc32(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(), crc)
    return crc
