"""What results are held to, and what is done about those that fall short: see `robustcodec.guard`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from robustcodec.errors import UsageError

Member = TypeVar("Member", bound=StrEnum)


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

    The model's own contract, if it has one, is held to as well. Names of members serve for them. Raises UsageError.
    """

    on_violation: OnViolation = OnViolation.WARN
    min_psnr: float | None = None
    max_bpp: float | None = None
    rungs: tuple[Rung, ...] = tuple(Rung)

    def __post_init__(self) -> None:
        # what is done is chosen by comparing members, so that a mere name would match none
        object.__setattr__(self, "on_violation", _member(OnViolation, self.on_violation, "on_violation"))
        object.__setattr__(self, "rungs", tuple(_member(Rung, rung, "a rung") for rung in self.rungs))
        for name, value in (("min_psnr", self.min_psnr), ("max_bpp", self.max_bpp)):
            if value is not None and not 0 < value < 1000:
                raise UsageError(f"{name} is {value:g}; give a number above 0 and below 1000")
        asked = self.min_psnr is not None or self.max_bpp is not None
        if asked and self.on_violation is OnViolation.OFF:
            raise UsageError("the guard is off, so that no floor or cap could be kept; leave one of them out")


def _member(kind: type[Member], value: str, what: str) -> Member:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{what} cannot be {value!r}; take one of {', '.join(kind)}") from None


DEFAULT_GUARD = Guard()
