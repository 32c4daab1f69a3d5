"""The range coder in plain Python: reference for the bitstream, and coder where constriction is missing.

A message is a number in [0, 1) whose digits are 32-bit words, most significant first, each stored little
endian. The coder narrows an interval, symbol by symbol, to the part that the table gives to the symbol:

    lower = 0, range = 2^64 - 1                       (both scaled by 2^64, the first two words)
    for each symbol, whose frequency f follows entries of sum c:
        scale = floor(range / 2^24)
        lower = lower + scale * c
        range = scale * f
        if range < 2^32: move on by one word, that is multiply lower and range by 2^32

The message is the words moved past (with carries), then floor((lower + 2^32 - 1) / 2^32), then a zero word if
floor((lower + range) / 2^32) is that word as well. No symbols give no bytes.

A decoder accepts this message for the symbols it decodes and no other: nothing missing, nothing appended, no
second spelling. Damage within shows as other symbols, which a checksum must catch.
"""

from bisect import bisect_right
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from robustcodec.entropy.tables import PRECISION, TOTAL, Table
from robustcodec.errors import CorruptFile

_WHOLE = (1 << 64) - 1
_WORD = 1 << 32


class Encoder:
    """Turns symbols into one message."""

    def __init__(self) -> None:
        self._lower = 0
        self._range = _WHOLE
        # Words moved past. Each may have a 33rd bit, a carry into the word before it, until `finish`.
        self._words: list[int] = []
        self._models: dict[Table, tuple[list[int], list[int]]] = {}

    def put(self, symbols: NDArray[np.int32], table: Table) -> None:
        """Append symbols (n,), positions in the table; raises ValueError for one outside it."""
        if symbols.size and not (symbols.min() >= 0 and symbols.max() <= table.escape):
            raise ValueError(f"a symbol outside 0..{table.escape}")
        starts, frequencies = _model(self._models, table)
        lower, width, words = self._lower, self._range, self._words
        for symbol in symbols.tolist():
            scale = width >> PRECISION
            lower += scale * starts[symbol]
            width = scale * frequencies[symbol]
            if width < _WORD:
                words.append(lower >> 32)
                lower = (lower & (_WORD - 1)) << 32
                width <<= 32
        self._lower, self._range = lower, width

    def finish(self) -> bytes:
        """Return the message, a multiple of 4 bytes; nothing may be put after it."""
        if self._range == _WHOLE:
            return b""
        last = (self._lower + _WORD - 1) >> 32
        words = [*self._words, last]
        if (self._lower + self._range) >> 32 == last:
            words.append(0)
        carry = 0
        for i in reversed(range(len(words))):
            carry, words[i] = divmod(words[i] + carry, _WORD)
        return np.array(words, "<u4").tobytes()


class Decoder:
    """Turns a message back into symbols; damage shows in `take` or `finish` as CorruptFile."""

    def __init__(self, data: bytes) -> None:
        words = read_words(data).tolist()
        self._size = len(words)
        # A final zero word may be missing, and no decoder of a whole message looks beyond that one.
        self._words = [*words, 0]
        self._next = min(2, len(self._words))
        self._range = _WHOLE
        # How far the message lies above the interval's lower end: less than the range.
        self._offset = self._words[0] << 32 | self._words[self._next - 1]
        self._models: dict[Table, tuple[list[int], list[int]]] = {}

    def take(self, count: int, table: Table) -> NDArray[np.int32]:
        """Return the next `count` symbols, positions in the table; raises CorruptFile."""
        if count and not self._size:
            raise truncated()
        starts, frequencies = _model(self._models, table)
        offset, width, words, following = self._offset, self._range, self._words, self._next
        symbols = []
        for _ in range(count):
            scale = width >> PRECISION
            quantile = offset // scale
            if quantile >= TOTAL:  # the sliver of the range that division by 2^24 leaves to no symbol
                raise not_canonical()
            symbol = bisect_right(starts, quantile) - 1
            symbols.append(symbol)
            offset -= scale * starts[symbol]
            width = scale * frequencies[symbol]
            if width < _WORD:
                if following == len(words):
                    raise truncated()
                offset = offset << 32 | words[following]
                width <<= 32
                following += 1
        self._offset, self._range, self._next = offset, width, following
        return np.array(symbols, np.int32)

    def finish(self) -> None:
        """Check that the message is what the encoder writes for the symbols taken; raises CorruptFile."""
        if self._range == _WHOLE:
            if self._size:
                raise not_canonical()
            return
        # In units of the last word but one, the message must be lower rounded up, and its last word zero,
        # written only where the interval ends before the next unit.
        size = self._next - 1 + (self._range - self._offset < _WORD)
        if self._words[self._next - 1] != 0 or self._offset >= _WORD or self._size != size:
            raise not_canonical()


def _model(models: dict[Table, tuple[list[int], list[int]]], table: Table) -> tuple[list[int], list[int]]:
    """The sum before each entry, and the frequencies, as Python integers; made once per message."""
    if table not in models:
        frequencies = table.frequencies.tolist()
        models[table] = [0, *accumulate(frequencies)], frequencies
    return models[table]


def read_words(data: bytes) -> NDArray[np.uint32]:
    """Return a message's words; raises CorruptFile when the last is incomplete."""
    if len(data) % 4:
        raise CorruptFile(f"an entropy-coded message has {len(data)} bytes, not a multiple of 4; get the file again")
    return np.frombuffer(data, "<u4").astype(np.uint32)


def truncated() -> CorruptFile:
    """Return the error for a message that ends before its symbols do."""
    return CorruptFile("an entropy-coded message ends before its symbols do; get the file again")


def not_canonical() -> CorruptFile:
    """Return the error for a message that no encoder writes."""
    return CorruptFile("an entropy-coded message is damaged; get the file again")
