"""What an architecture gives the codec: transforms, and a schedule that encoder and decoder both walk.

Nothing outside an architecture's own modules asks which one it is; tables alone name all. A further one is entered in
`open_architecture` here, in `demands`, in `robustcodec.graphs` (sizes and parts), and in `robustcodec.lab` in
`architectures`, `graphs` and `integers`.
"""

from collections.abc import Generator
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustcodec.bundle import Bundle
from robustcodec.dither import DitheredScales
from robustcodec.entropy import TableSet
from robustcodec.errors import ModelError

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

Positions = EllipsisType | tuple[slice | NDArray[np.intp], ...]
"""An index into an array (M, h, w)."""


@dataclass(frozen=True)
class Group:
    """Latents that are coded together because nothing they need depends on one another.

    `table` holds the index of each one's probability table, `mean` what is subtracted before quantising, in units
    of 1/1024; both have the shape that `positions` selects.
    """

    positions: Positions
    table: NDArray[np.integer[Any]]
    mean: Int32


@dataclass(frozen=True)
class Latents:
    """What a schedule has collected at its end.

    `y_hat` int32 (M, h, w) in units of 1/1024; `checked` are the arrays beside z's symbols that the checksum of a
    strip covers.
    """

    y_hat: Int32
    checked: tuple[NDArray[np.integer[Any]], ...]


Schedule = Generator[Group, Int32, Latents]
"""Yields groups, is sent each group's symbols, and returns the latents."""


class Conditions(Protocol):
    """What z says about y, whatever the step."""

    def schedule(self, step: int) -> Schedule:
        """Walk the latents at quantisation step R."""


class Architecture(Protocol):
    """The networks and the entropy parameters of an opened model."""

    channels: int
    """Channels of y, M."""
    analysis_halo: int
    """Pixels around a tile that its latents depend on, a multiple of the stride."""
    synthesis_halo: int
    """Latents around a tile that its pixels depend on."""
    z_tables: TableSet
    y_tables: TableSet
    dithered: DitheredScales
    """Which scales are dithered in the model's files, none if it does not dither; how many scales there are."""

    @property
    def dead_zones(self) -> Float32:
        """For each of y's tables the magnitude, in quantisation steps, below which an encoder makes a latent zero."""

    def check(self) -> None:
        """Check now what is otherwise checked when first used. Raises ModelDamaged or another ModelError."""

    def analyse(self, x: Float32) -> Float32:
        """Give y (M, H/16, W/16) of x (3, H, W) in [0, 1]."""

    def side_information(self, y: Float32) -> Int32:
        """Give z's symbols (N, h/4, w/4), rounded up, of y (M, h, w)."""

    def side_index(self, height: int, width: int) -> NDArray[np.integer[Any]]:
        """Give the table index of each of z's symbols for y of this height and width; its shape is z's."""

    def conditions(self, z: Int32, height: int, width: int, key: bytes = b"") -> Conditions:
        """Give what z's symbols say about y (M, height, width), and how a strip's key dithers it."""

    def synthesise(self, y_hat: Float32) -> Float32:
        """Give x_hat (3, 16h, 16w), neither clipped nor sure to be finite."""

    def descend(self, y_hat: Float32, target: Float32, weight: Float32) -> Float32:
        """Give the gradient of half the sum of weight * (x_hat - target)^2 with respect to y_hat: see `Networks`."""


def open_architecture(bundle: Bundle, threads: int) -> Architecture:
    """Check a bundle's arrays and make its architecture. Raises ModelDamaged or another ModelError."""
    from robustcodec.architectures.cheng import Cheng
    from robustcodec.architectures.hyper import Hyper

    kinds: dict[str, type[Hyper] | type[Cheng]] = {kind.name: kind for kind in (Hyper, Cheng)}
    name = bundle.manifest.architecture
    if name not in kinds:
        raise ModelError(
            f"{bundle.path} has the architecture {name!r}, which this release does not know; update to use it"
        )
    return kinds[name](bundle, threads)
