"""Groups of values as range-coded symbols: the order they are coded in, and values beyond their table.

A group is coded in two parts, both in the current message:

1. Symbols, table by table in ascending index, within one table in flattened (C) order. A value v of a table
   that covers low..high has the symbol v - low; any other has the table's last symbol, the escape.
2. The escaped values as bits of probability 1/2, the symbols 0 and 1 of `COIN`. Each value has a sign (0:
   above high, 1: below low) and a distance e = v - high or low - v, 1 <= e < 2^16, of m bits, that is
   2^(m-1) <= e < 2^m. The bits come in planes, each with the values it concerns in flattened order:
     - the sign of every value;
     - for r = 1 to 15: of every value with m >= r, whether m > r (Exp-Golomb's prefix, at most 15 bits);
     - for p = 14 down to 0: of every value with m > p + 1, bit p of e (the top bit of e is never sent).
"""

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustcodec.entropy.tables import LARGEST_VALUE, PRECISION, TOTAL, Table, TableSet
from robustcodec.errors import CorruptFile

COIN = Table(0, np.array([TOTAL // 2, TOTAL // 2]))
"""The table of a bit: 0 and 1 are equally likely."""

_LONGEST = 16
"""Bits of the largest distance: from -32767 to 32767 it is below 2^16."""


class Encoder(Protocol):
    """Turns symbols into one message."""

    def put(self, symbols: NDArray[np.int32], table: Table) -> None:
        """Append symbols (n,), positions in the table; raises ValueError for one outside it."""

    def finish(self) -> bytes:
        """Return the message, a multiple of 4 bytes; nothing may be put after it."""


class Decoder(Protocol):
    """Turns a message back into symbols; damage shows in `take` or `finish` as CorruptFile.

    Nothing taken may be believed before `finish` and the caller's own checksum have passed.
    """

    def take(self, count: int, table: Table) -> NDArray[np.int32]:
        """Return the next `count` symbols, positions in the table; raises CorruptFile."""

    def finish(self) -> None:
        """Check that the message is what the encoder writes for the symbols taken; raises CorruptFile."""


def backend() -> ModuleType:
    """Return the coder's module: `native`, or `pure` where constriction cannot be imported."""
    try:
        return importlib.import_module("robustcodec.entropy.native")
    except ImportError:
        return importlib.import_module("robustcodec.entropy.pure")


def make_encoder() -> Encoder:
    """Return an encoder for one message."""
    encoder: Encoder = backend().Encoder()
    return encoder


def make_decoder(data: bytes) -> Decoder:
    """Return a decoder of one message; raises CorruptFile when its length is not a multiple of 4 bytes."""
    decoder: Decoder = backend().Decoder(data)
    return decoder


def encode_group(
    encoder: Encoder, values: NDArray[np.int32], index: NDArray[np.integer[Any]], tables: TableSet
) -> None:
    """Append values within ±32767, each under the table of its index; both arrays have the same shape.

    Raises ValueError for other values or indexes: clamp first.
    """
    index = _checked(index, tables)
    values = _within_range(values, index)
    symbols, escaped = _symbols(values, index, tables)
    ordered = symbols[np.argsort(index, kind="stable")]
    del symbols  # a strip has millions
    for table, run in _runs(index, tables):
        encoder.put(ordered[run], table)
    del ordered
    if escaped.size:
        below, distance = _beyond(values[escaped], index[escaped], tables)
        _put_distances(encoder, below, distance)


def decode_group(decoder: Decoder, index: NDArray[np.integer[Any]], tables: TableSet) -> NDArray[np.int32]:
    """Return the values that `encode_group` was given with this index, in its shape; raises CorruptFile."""
    shape = index.shape
    index = _checked(index, tables)
    order = np.argsort(index, kind="stable")
    ordered = np.empty(index.size, np.int32)
    for table, run in _runs(index, tables):
        ordered[run] = decoder.take(run.stop - run.start, table)
    symbols = np.empty_like(ordered)
    symbols[order] = ordered
    del order, ordered
    values = symbols + tables.minimums[index]
    escaped = np.flatnonzero(symbols == tables.escapes[index])
    if escaped.size:
        below, distance = _take_distances(decoder, escaped.size)
        low = tables.minimums[index[escaped]]
        high = low + tables.escapes[index[escaped]] - 1
        values[escaped] = np.where(below, low - distance, high + distance)
        if np.abs(values).max() > LARGEST_VALUE:
            raise CorruptFile(f"an entropy-coded message holds a value beyond ±{LARGEST_VALUE}; get the file again")
    return values.reshape(shape)


def ideal_bits(values: NDArray[np.int32], index: NDArray[np.integer[Any]], tables: TableSet) -> NDArray[np.float64]:
    """Return the bits that `encode_group` ideally spends on each value, escapes included; same shape."""
    shape = np.shape(values)
    index = _checked(index, tables)
    values = _within_range(values, index)
    symbols, escaped = _symbols(values, index, tables)
    lengths = tables.escapes.astype(np.int64) + 1
    frequencies = np.concatenate([table.frequencies for table in tables])
    bits: NDArray[np.float64] = PRECISION - np.log2(frequencies)[(np.cumsum(lengths) - lengths)[index] + symbols]
    if escaped.size:
        _, distance = _beyond(values[escaped], index[escaped], tables)
        m = _bit_length(distance)
        bits[escaped] += 1 + np.minimum(m, _LONGEST - 1) + (m - 1)
    return bits.reshape(shape)


def _checked(index: NDArray[np.integer[Any]], tables: TableSet) -> NDArray[np.uint16]:
    if index.size and not (index.min() >= 0 and index.max() < len(tables)):
        raise ValueError(f"a table index outside 0..{len(tables) - 1}")
    return index.astype(np.uint16).ravel()  # 16 bits: numpy sorts them by radix


def _within_range(values: NDArray[np.int32], index: NDArray[np.uint16]) -> NDArray[np.int32]:
    if np.size(values) != index.size:
        raise ValueError(f"{np.size(values)} values for {index.size} table indexes")
    if index.size and not (values.min() >= -LARGEST_VALUE and values.max() <= LARGEST_VALUE):
        raise ValueError(f"a value beyond ±{LARGEST_VALUE}")
    return values.astype(np.int32, copy=False).ravel()


def _symbols(
    values: NDArray[np.int32], index: NDArray[np.uint16], tables: TableSet
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """The values' positions in their tables, and which values are escaped."""
    symbols = values - tables.minimums[index]
    escapes = tables.escapes[index]
    outside = (symbols < 0) | (symbols >= escapes)
    np.copyto(symbols, escapes, where=outside)
    return symbols, np.flatnonzero(outside)


def _runs(index: NDArray[np.uint16], tables: TableSet) -> Iterator[tuple[Table, slice]]:
    """The tables present, and where their symbols lie among all symbols sorted by table."""
    counts = np.bincount(index, minlength=len(tables))
    ends = np.cumsum(counts)
    for i in np.flatnonzero(counts).tolist():
        yield tables[i], slice(int(ends[i] - counts[i]), int(ends[i]))


def _beyond(
    values: NDArray[np.int32], index: NDArray[np.uint16], tables: TableSet
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Whether escaped values lie below their table, and their distance from its nearest value."""
    low = tables.minimums[index]
    high = low + tables.escapes[index] - 1
    below = values < low
    return below, np.where(below, low - values, values - high)


def _bit_length(distance: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.frexp(distance.astype(np.float64))[1]


def _put_distances(encoder: Encoder, below: NDArray[np.bool_], distance: NDArray[np.int32]) -> None:
    m = _bit_length(distance)
    longest = int(m.max())
    encoder.put(below.astype(np.int32), COIN)
    for r in range(1, min(longest + 1, _LONGEST)):
        encoder.put((m > r)[m >= r].astype(np.int32), COIN)
    for p in reversed(range(longest - 1)):
        encoder.put(distance[m > p + 1] >> p & 1, COIN)


def _take_distances(decoder: Decoder, count: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    below = decoder.take(count, COIN).astype(np.bool_)
    m = np.ones(count, np.int32)
    for r in range(1, _LONGEST):
        growing = m == r
        if not growing.any():
            break
        m[growing] += decoder.take(int(np.count_nonzero(growing)), COIN)
    distance = np.ones(count, np.int32)
    for p in reversed(range(int(m.max()) - 1)):
        longer = m > p + 1
        distance[longer] = distance[longer] << 1 | decoder.take(int(np.count_nonzero(longer)), COIN)
    return below, distance
