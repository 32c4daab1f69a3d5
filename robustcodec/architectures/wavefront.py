"""The order in which latents are coded that depend on those above and to the left: fronts that slant by three.

A latent's context is what a masked 5x5 convolution sees: two rows above it from two columns to its left to two to its
right, and two columns to its left in its own row. All of it lies on fronts with lower numbers, where the front of row
r and column c is c + 3 r; so latents on one front do not depend on one another and are coded together.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustcodec.exact import Float64

TAPS: tuple[tuple[int, int], ...] = (
    *((-2, column) for column in range(-2, 3)),
    *((-1, column) for column in range(-2, 3)),
    (0, -2),
    (0, -1),
)
"""Rows and columns of a latent's context, relative to it."""

_SLANT = 3
_REACH = 2
_KEPT = _SLANT * _REACH + _REACH + 1
"""Fronts that are held at once: the context reaches back by 2 rows and 2 columns, and the current one."""


@dataclass(frozen=True, eq=False)
class Front:
    """The latents of one front: their rows `first` to before `stop`, all with one column each."""

    number: int
    first: int
    stop: int

    @property
    def rows(self) -> NDArray[np.intp]:
        """Row of each latent."""
        return np.arange(self.first, self.stop)

    @property
    def columns(self) -> NDArray[np.intp]:
        """Column of each latent."""
        return self.number - _SLANT * np.arange(self.first, self.stop)


def fronts(height: int, width: int) -> Iterator[Front]:
    """Give the fronts of a plane in order, but for those without latents, which planes narrower than three have."""
    for number in range(width + _SLANT * (height - 1)):
        first = max(0, -(-(number - width + 1) // _SLANT))
        stop = min(height - 1, number // _SLANT) + 1
        if first < stop:
            yield Front(number, first, stop)


class Context:
    """Holds what the latents of the next front see of those that are known; zeros lie beyond the plane."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._held: dict[int, tuple[Front, Float64]] = {}
        """The last fronts by their numbers, with their latents: no more than their rows, however tall the plane."""

    def around(self, front: Front) -> Float64:
        """Give the context (n, 12 * channels) of a front's latents, tap by tap as in `TAPS`."""
        window = np.zeros((front.stop - front.first, len(TAPS), self._channels))
        for tap, (row, column) in enumerate(TAPS):
            seen, values = self._held.get(front.number + _SLANT * row + column, _NOTHING)
            first, stop = max(front.first + row, seen.first), min(front.stop + row, seen.stop)
            if first < stop:
                window[first - row - front.first : stop - row - front.first, tap] = values[
                    first - seen.first : stop - seen.first
                ]
        return window.reshape(len(window), -1)

    def add(self, front: Front, values: Float64) -> None:
        """Take a front's latents (n, channels), once what they depended on was asked for."""
        self._held[front.number] = front, values
        self._held.pop(front.number - _KEPT, None)


_NOTHING = Front(0, 0, 0), np.zeros((0, 0))
