"""Quality, its Lagrangian and its quantisation step, and the targets that a caller may ask for."""

import math
from dataclasses import dataclass

from robustcodec.errors import UsageError

LAMBDAS = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483)
"""Lagrangians of qualities 1 to 6 (CompressAI's): loss = bits per pixel + lambda * 255^2 * MSE, MSE on [0, 1]."""

LOWEST, HIGHEST = 1.0, float(len(LAMBDAS))
"""The range of qualities."""

STEP_UNIT = 1024
"""A file stores the quantisation step as an integer R; the step is R / 1024."""

STEP_MIN, STEP_MAX = 8, 65535
"""The range of R."""

STEP_WORTHWHILE = 32
"""The finest R that is worth its bytes: R = 8 takes 1.4 to 4.9 times as many on photographs, for 0.01 to 0.1 dB."""


def check_quality(quality: float) -> float:
    """Give a quality back if it lies in 1..6. Raises UsageError."""
    if not LOWEST <= quality <= HIGHEST:
        raise UsageError(f"quality goes from {LOWEST:g} (small) to {HIGHEST:g} (faithful) here, not to {quality:g}")
    return quality


def lagrangian(quality: float) -> float:
    """Lambda of a quality in 1..6; between whole qualities it is interpolated on a logarithmic scale."""
    below = min(int(check_quality(quality)), len(LAMBDAS) - 1)
    low, high = LAMBDAS[below - 1], LAMBDAS[below]
    return low * math.pow(high / low, quality - below)


def high_rate_step(quality: float, anchor: float = 4.0) -> float:
    """Step that suits a quality when the network was trained at `anchor` with step 1.

    At high rate distortion is step^2 / 12 per coefficient, so the best step goes with lambda^(-1/2).
    """
    return math.sqrt(lagrangian(anchor) / lagrangian(quality))


def score(bits_per_pixel: float, psnr: float, quality: float = 4.0) -> float:
    """J = bpp + lambda * 255^2 * 10^(-P/10), the Lagrangian cost by which models are compared; less is better."""
    return bits_per_pixel + lagrangian(quality) * 255**2 * 10 ** (-psnr / 10)


def _check_target(value: float, limit: float, unit: str) -> None:
    if not 0 < value < limit:
        raise UsageError(f"a target of {value:g} {unit} is out of range; give a number above 0 and below {limit:g}")


@dataclass(frozen=True)
class Quality:
    """Code at a quality from 1 (small) to 6 (faithful). Raises UsageError."""

    value: float

    def __post_init__(self) -> None:
        check_quality(self.value)


@dataclass(frozen=True)
class BitsPerPixel:
    """Code in at most `value` bits per pixel of the picture, the whole file counted. Raises UsageError.

    They are fewer where more would hardly be better: see STEP_WORTHWHILE.
    """

    value: float

    def __post_init__(self) -> None:
        _check_target(self.value, 1000, "bits per pixel")


@dataclass(frozen=True)
class FileSize:
    """Code in at most `size` bytes, the whole file counted. Raises UsageError.

    They are fewer where more would hardly be better: see STEP_WORTHWHILE.
    """

    size: int

    def __post_init__(self) -> None:
        _check_target(self.size, 2**48, "bytes")


@dataclass(frozen=True)
class Psnr:
    """Code at a PSNR of `decibels`, measured on 8-bit RGB, or at the next above that there is. Raises UsageError."""

    decibels: float

    def __post_init__(self) -> None:
        _check_target(self.decibels, 1000, "dB")


@dataclass(frozen=True)
class Step:
    """Code at the quantisation step R = `value`, in units of 1/1024. Raises UsageError."""

    value: int

    def __post_init__(self) -> None:
        if not STEP_MIN <= self.value <= STEP_MAX:
            raise UsageError(f"a step goes from {STEP_MIN} to {STEP_MAX}, not to {self.value}")


Target = Quality | BitsPerPixel | FileSize | Psnr | Step

DEFAULT_TARGET = Quality(4.0)
