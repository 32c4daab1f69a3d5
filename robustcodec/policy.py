"""What results are held to, and what is done about those that fall short: see `robustcodec.guard`."""

from dataclasses import dataclass
from enum import StrEnum

from robustcodec.errors import UsageError


class OnViolation(StrEnum):
    """What to do about a result that breaks its contract."""

    OFF = "off"
    """Nothing: do not even measure."""
    WARN = "warn"
    """Say so."""
    FALLBACK = "fallback"
    """Go down the ladder until one result keeps it."""
    FAIL = "fail"
    """Write nothing."""


class Rung(StrEnum):
    """The ladder: ways to do better, the cheapest first."""

    TRANSFORM = "transform"
    """Code the picture under the other seven flips and rotations."""
    STEP = "step"
    """Take finer steps where fidelity is lacking, else coarser ones."""
    REFINE = "refine"
    """Descend to better latents, at the first step, and at finer ones where fidelity lacks."""
    CLASSICAL = "classical"
    """AV1 or WebP instead of the network, at the lowest quality that will do."""
    LOSSLESS = "lossless"
    """Every pixel, which keeps any floor."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What to hold results to: floors in dB and caps in bits per pixel of the whole file, None for none.

    The model's own contract, if it has one, is held to as well. Raises UsageError.
    """

    on_violation: OnViolation = OnViolation.WARN
    min_psnr: float | None = None
    max_bpp: float | None = None
    rungs: tuple[Rung, ...] = tuple(Rung)

    def __post_init__(self) -> None:
        for name, value in (("min_psnr", self.min_psnr), ("max_bpp", self.max_bpp)):
            if value is not None and not 0 < value < 1000:
                raise UsageError(f"{name} is {value:g}; give a number above 0 and below 1000")
        asked = self.min_psnr is not None or self.max_bpp is not None
        if asked and self.on_violation is OnViolation.OFF:
            raise UsageError("the guard is off, so that no floor or cap could be kept; leave one of them out")


DEFAULT_GUARD = Guard()
