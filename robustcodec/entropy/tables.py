"""Probability tables as integer frequencies: checked when loaded, exact when used.

A table of n entries gives its i-th entry the probability f_i / 2^24. Entry i < n-1 stands for the value
minimum + i; the last entry is the escape symbol, which announces a value outside minimum..minimum+n-2.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcodec.errors import ModelDamaged

PRECISION = 24
"""Bits of a probability; the range coder is built on this number."""

TOTAL = 1 << PRECISION
"""Sum of the frequencies of a table."""

LARGEST_VALUE = 32767
"""Largest magnitude of a coded value; the networks' exactness proof rests on 16 bits."""

MAX_TABLES = 1 << 16
"""Tables in a set: their index must fit 16 bits."""


@dataclass(frozen=True, eq=False)
class Table:
    """Frequencies of consecutive values and of the escape symbol; compared and hashed by identity.

    `frequencies`: integers (n,), n >= 2, each at least 1, with the sum 2^24; kept as read-only int64.
    All values lie within ±32767. Raises ModelDamaged for anything else.
    """

    minimum: int
    frequencies: NDArray[np.int64]

    def __post_init__(self) -> None:
        given = np.asarray(self.frequencies)
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise _damaged(f"frequencies of type {given.dtype} with {given.ndim} dimensions")
        if given.size < 2:
            raise _damaged(f"a table of {given.size} entries")
        if self.minimum < -LARGEST_VALUE or self.minimum + given.size - 2 > LARGEST_VALUE:
            raise _damaged(f"a table of {given.size} entries from {self.minimum}, beyond ±{LARGEST_VALUE}")
        # Each at most 2^24 before summing: at most 2^16 of them cannot overflow int64.
        if given.min() < 1 or given.max() > TOTAL:
            raise _damaged("a frequency outside 1..2^24")
        frequencies = given.astype(np.int64)
        if int(frequencies.sum()) != TOTAL:
            raise _damaged(f"frequencies that sum to {int(frequencies.sum())} instead of 2^24")
        frequencies.flags.writeable = False
        object.__setattr__(self, "frequencies", frequencies)

    @property
    def escape(self) -> int:
        """Position of the escape symbol; also the number of values that need no escape."""
        return self.frequencies.size - 1


@dataclass(frozen=True, eq=False)
class TableSet:
    """The tables that a group's indexes choose from, 1 to 65536 of them."""

    tables: tuple[Table, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.tables) <= MAX_TABLES:
            raise _damaged(f"a set of {len(self.tables)} tables")

    def __len__(self) -> int:
        return len(self.tables)

    def __getitem__(self, index: int) -> Table:
        return self.tables[index]

    def __iter__(self) -> Iterator[Table]:
        return iter(self.tables)

    @cached_property
    def minimums(self) -> NDArray[np.int32]:
        """Smallest value of each table."""
        return np.array([table.minimum for table in self.tables], np.int32)

    @cached_property
    def escapes(self) -> NDArray[np.int32]:
        """Position of the escape symbol in each table."""
        return np.array([table.escape for table in self.tables], np.int32)

    @cached_property
    def entropies(self) -> NDArray[np.float64]:
        """Bits that a value of each table takes on average, without what follows an escape."""
        each = (table.frequencies for table in self.tables)
        return np.array([float(values @ (PRECISION - np.log2(values))) / TOTAL for values in each])

    @classmethod
    def from_arrays(cls, frequencies: NDArray[Any], lengths: NDArray[Any], minimums: NDArray[Any]) -> "TableSet":
        """Cut concatenated tables apart; the arrays come from a bundle and nothing about them is trusted.

        `frequencies` int32 (sum of lengths,), `lengths` and `minimums` int32 (number of tables,).
        Raises ModelDamaged.
        """
        for name, array in (("frequencies", frequencies), ("lengths", lengths), ("minimums", minimums)):
            if array.dtype != np.int32 or array.ndim != 1:
                raise _damaged(f"{name} of type {array.dtype} with {array.ndim} dimensions")
        if lengths.size != minimums.size:
            raise _damaged(f"{lengths.size} lengths for {minimums.size} minimums")
        if not 1 <= lengths.size <= MAX_TABLES:
            raise _damaged(f"a set of {lengths.size} tables")
        if lengths.min() < 2 or sum(lengths.tolist()) != frequencies.size:
            raise _damaged(f"lengths that do not divide {frequencies.size} frequencies into tables")
        parts = np.split(frequencies, np.cumsum(lengths, dtype=np.int64)[:-1])
        return cls(tuple(map(Table, minimums.tolist(), parts)))

    def to_arrays(self) -> dict[str, NDArray[np.int32]]:
        """Arrays for a bundle, named as the arguments of `from_arrays`."""
        return {
            "frequencies": np.concatenate([table.frequencies for table in self.tables]).astype(np.int32),
            "lengths": self.escapes + np.int32(1),
            "minimums": self.minimums,
        }


def quantise(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return frequencies (n,) with the sum 2^24, each at least 1, for probabilities (n,) of any sum.

    The last is the escape symbol's. Every entry gets 1; the rest is shared in proportion, and what rounding
    leaves over goes to the largest remainders (the earlier entry at a tie). Raises ValueError unless
    2 <= n <= 65536 and the probabilities are finite, not negative and not all zero.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 1 or not 2 <= p.size <= 2 * LARGEST_VALUE + 2:
        raise ValueError(f"probabilities of shape {p.shape}; 2 to 65536 entries make a table")
    if not (np.isfinite(p).all() and p.min() >= 0 and p.max() > 0):
        raise ValueError("probabilities must be finite and not negative, and one above zero")
    p = p / p.max()
    share = p / math.fsum(p.tolist()) * (TOTAL - p.size)
    frequencies: NDArray[np.int64] = np.floor(share).astype(np.int64) + 1
    missing = TOTAL - int(frequencies.sum())
    largest = np.argsort(frequencies - 1 - share, kind="stable")[:missing]
    frequencies[largest] += 1
    return frequencies


def gaussian_tables(scales: Sequence[float], tail: float = 2.0**-20) -> TableSet:
    """One table per standard deviation: a zero-mean Gaussian, integrated over each value ± 1/2.

    Each covers -k..k with the smallest k >= 1 that leaves at most `tail` of the mass to the escape symbol.
    Raises ValueError for a scale that is not positive or needs values beyond ±32767.
    """
    return TableSet(tuple(_gaussian_table(scale, tail) for scale in scales))


def _gaussian_table(scale: float, tail: float) -> Table:
    if not (scale > 0 and 0 < tail < 1):
        raise ValueError(f"scale {scale} with tail {tail}; a scale is positive and a tail within 0..1")
    # outside[k]: the mass beyond ±(k - 1/2); complementary, because 1 - erf would lose the tail's digits.
    outside = [1.0]
    while outside[-1] > tail or len(outside) < 3:
        if len(outside) > LARGEST_VALUE + 1:
            raise ValueError(f"scale {scale} needs values beyond ±{LARGEST_VALUE}; use smaller ones")
        outside.append(math.erfc((len(outside) - 0.5) / (scale * math.sqrt(2))))
    mass = -np.diff(np.array(outside))
    positive = mass[1:] / 2
    probabilities = np.concatenate([positive[::-1], mass[:1], positive, outside[-1:]])
    return Table(-positive.size, quantise(probabilities))


def _damaged(found: str) -> ModelDamaged:
    return ModelDamaged(f"its probability tables hold {found}")
