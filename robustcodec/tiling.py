"""Cutting planes into tiles with a halo, so that networks see bounded areas and no seam can exist."""

from collections.abc import Iterator
from dataclasses import dataclass

from robustcodec.errors import UsageError


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


@dataclass(frozen=True)
class Region:
    """A rectangle of a picture in pixels from its top left, from 0; at least one pixel, none beyond the left or top."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0 or self.width < 1 or self.height < 1:
            raise UsageError(f"the region {self} has no pixels or begins outside; give X,Y,WIDTH,HEIGHT in pixels")

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.y, self.y + self.height)

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.x, self.x + self.width)

    def check_within(self, width: int, height: int) -> None:
        """Raise UsageError unless it lies within a picture of this size."""
        if self.x + self.width > width or self.y + self.height > height:
            raise UsageError(f"the region {self} does not lie within the picture of {width}x{height}; give another")


def tiles(height: int, width: int, size: int, halo: int) -> Iterator[Tile]:
    """Cover a plane with tiles of at most size x size, each with a halo where the plane goes on."""
    for rows, inner_rows in spans(height, size, halo):
        for columns, inner_columns in spans(width, size, halo):
            yield Tile(rows, columns, inner_rows, inner_columns)


def spans(length: int, size: int, halo: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Cover one side, or its part from `start` to before `stop`, with spans of at most `size`.

    Yields each with a halo where the side goes on, and where it lies itself in that.
    """
    stop = length if stop is None else stop
    for begin in range(start, stop, size):
        end = min(begin + size, stop)
        first, last = max(0, begin - halo), min(length, end + halo)
        yield slice(first, last), slice(begin - first, end - first)


def scaled(span: slice, multiply: int = 1, divide: int = 1) -> slice:
    """Give the same span in a plane whose resolution is another; the division must come out even."""
    return slice(span.start * multiply // divide, span.stop * multiply // divide)


def shifted(span: slice, inner: slice) -> slice:
    """Give where the inner part of a span lies in the plane."""
    return slice(span.start + inner.start, span.start + inner.stop)
