"""Cutting planes into tiles with a halo, so that networks see bounded areas and no seam can exist."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """One tile of a plane.

    `rows` and `columns` select what a network is given, halo included; `inner_rows` and `inner_columns` select the
    tile itself out of that. All counts are in elements of the plane.
    """

    rows: slice
    columns: slice
    inner_rows: slice
    inner_columns: slice


def tiles(height: int, width: int, size: int, halo: int) -> Iterator[Tile]:
    """Cover a plane with tiles of at most size x size, each with a halo where the plane goes on."""
    for rows, inner_rows in _spans(height, size, halo):
        for columns, inner_columns in _spans(width, size, halo):
            yield Tile(rows, columns, inner_rows, inner_columns)


def scaled(span: slice, multiply: int = 1, divide: int = 1) -> slice:
    """Give the same span in a plane whose resolution is another; the division must come out even."""
    return slice(span.start * multiply // divide, span.stop * multiply // divide)


def shifted(span: slice, inner: slice) -> slice:
    """Give where the inner part of a span lies in the plane."""
    return slice(span.start + inner.start, span.start + inner.stop)


def _spans(length: int, size: int, halo: int) -> Iterator[tuple[slice, slice]]:
    for start in range(0, length, size):
        stop = min(start + size, length)
        first, last = max(0, start - halo), min(length, stop + halo)
        yield slice(first, last), slice(start - first, stop - first)
