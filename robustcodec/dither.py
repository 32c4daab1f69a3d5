"""Subtractive dither: each latent is rounded on a grid of its own, which the picture decides and the file names.

Rounding without it has thresholds that everyone knows: noise that carries a latent just past one adds to the error
twice the latent's distance and costs only its square. With it a latent becomes the nearest of q + d, q whole, where d
is one of eight offsets within half a step. Each is as likely, whatever the latent, and the decoder knows it: so the
error of rounding is as large as before, and what noise does to latents has no more to do with it (Schuchman 1964; Ziv
1985 calls coding so universal). Offsets come out of a hash of the picture. Whoever changes one sample has other
offsets, so that no search sees the thresholds of the picture that it is about to make.

Small scales are left out: where nearly all latents are zeros, a grid without zero would cost bits for nothing.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcodec.container import SEED_BYTES
from robustcodec.errors import LimitExceeded, ModelDamaged

OFFSETS = 8
"""Offsets of a grid: (2 k - 7) / 16 of a step for k from 0 to 7, their middle."""

_MOST = 1 << 29

_BAND = 1 << 22
"""Samples hashed at a time, which need not lie side by side."""


def seed_of(pixels: NDArray[np.uint8]) -> bytes:
    """Give the seed of a picture (H, W, C): of a hash of its samples and size too much to look for another with it."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    rows = max(1, _BAND // max(1, pixels[:1].size))
    for top in range(0, pixels.shape[0], rows):
        digest.update(pixels[top : top + rows].tobytes())
    return digest.digest()[:SEED_BYTES]


def key_of(seed: bytes, strip: int) -> bytes:
    """Give what the offsets of one strip are made from; nothing if there is no seed."""
    return seed and seed + strip.to_bytes(4, "little")


def offsets(key: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Give the offset's number, 0 to 7, of each latent (M, h, w): the low bits of SHAKE-128's bytes.

    Raises LimitExceeded for more latents than some implementations of SHAKE-128 give bytes.
    """
    size = shape[0] * shape[1] * shape[2]
    if size >= _MOST:
        raise LimitExceeded(f"a strip of {size} dithered latents is too wide; {_MOST - 1} are possible")
    drawn = np.frombuffer(hashlib.shake_128(key).digest(size), np.uint8).reshape(shape)
    return drawn & np.uint8(OFFSETS - 1)


@dataclass(frozen=True)
class DitheredScales:
    """Which scales are dithered, by the number of their table among `scales` of them: from `first` up to `end`.

    The tables of offsets follow those of rounding without: table `scales` + 8 i + k is that of scale `first` + i and
    offset k. Raises ModelDamaged for scales that do not exist.
    """

    scales: int
    first: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.end <= self.scales:
            raise ModelDamaged(f"scales {self.first} to {self.end} of {self.scales} cannot be dithered")

    @property
    def tables(self) -> int:
        """How many tables all offsets have."""
        return OFFSETS * (self.end - self.first)

    def applied(
        self, levels: NDArray[np.integer[Any]], chosen: NDArray[np.uint8], step: int
    ) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
        """Give the tables of latents of such scales and with such offsets, and the offsets in 1/1024 at a step R."""
        mine = (levels >= self.first) & (levels < self.end)
        tables = levels.astype(np.uint16)
        tables -= np.uint16(self.first)
        tables *= np.uint16(OFFSETS)
        tables += chosen
        tables += np.uint16(self.scales)
        np.copyto(tables, levels, where=~mine, casting="unsafe")
        means = chosen.astype(np.int32)
        means *= np.int32(2)
        means -= np.int32(OFFSETS - 1)
        means *= np.int32(step)
        means >>= 4
        means *= mine
        return tables, means
