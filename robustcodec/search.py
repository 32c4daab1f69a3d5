"""Finding the quantisation step that meets a target, with few evaluations.

Size and fidelity fall as the step grows. The logarithm of the size is nearly a straight line over the step's, the
squared error one over a power of the step: so the searches interpolate, and keep a bracket in case the line bends.
What is made of the picture at each step is handed through, so that the chosen step's need not be made again; no search
holds on to more than the one that it may choose.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from robustcodec.errors import TargetError
from robustcodec.rate import STEP_MAX, STEP_MIN, STEP_WORTHWHILE

Made = TypeVar("Made")
"""What a caller makes at a step."""

_INTERPOLATED = 8
"""Evaluations after which the search for a size no longer trusts interpolation alone."""

_PULL = 0.1
"""How near a bracket's end a probe may come, as a share of the bracket: keeps both ends moving."""

_BEND = 1.3
"""Squared error is nearly a straight line over this power of the step: the power is 2 at high rates, less at low."""

_STRIDE, _LEAP = 1.2, 15.0
"""Least and largest factor between probes to a side that is not known yet, in powers of the step."""

_NO_ERROR = 1e-12
"""Stands for the error of a perfect picture, whose logarithm is needed."""


def finest_step_within(
    code: Callable[[int], tuple[int, Made]], size: int, start: int, tolerance: float
) -> tuple[int, Made]:
    """Find a step whose file has at most `size` bytes, and no fewer than `size * (1 - tolerance)` if any has.

    It has fewer where a finer step than STEP_WORTHWHILE would be needed. `code` gives the size at a step and what was
    made there; the step is returned with the latter. Raises TargetError if not even the coarsest step fits.
    """
    sizes: dict[int, int] = {}
    fine, coarse = STEP_WORTHWHILE, STEP_MAX
    sizes[coarse], made = code(coarse)
    if sizes[coarse] > size:
        raise TargetError(f"this picture takes at least {sizes[coarse]} bytes with this model, not {size}; allow more")
    probe = max(start, fine)
    while coarse - fine > 1:
        sizes[probe], candidate = code(probe)
        if sizes[probe] > size:
            fine = probe
        else:
            coarse, made = probe, candidate
            if sizes[probe] >= size * (1 - tolerance):
                return coarse, made
        # a bent or stepped curve can hold interpolation up: then halve the bracket every other time
        if len(sizes) > _INTERPOLATED and len(sizes) % 2:
            probe = min(max(round(math.sqrt(fine * coarse)), fine + 1), coarse - 1)
        else:
            probe = _between(fine, coarse, sizes, size * (1 - tolerance / 2))
    # neighbouring steps lie on either side of the target: only at the finest can one more byte still be spent
    if fine == STEP_WORTHWHILE and fine not in sizes:
        sizes[fine], candidate = code(fine)
        if sizes[fine] <= size:
            return fine, candidate
    return coarse, made


def step_for_psnr(
    measure: Callable[[int], tuple[float, Made]], decibels: float, start: int, tolerance: float, tries: int
) -> tuple[int, Made]:
    """Find a step whose PSNR is `decibels` or up to `tolerance` more, at worst less.

    PSNR is jagged over the step, the more so the smaller the picture: where no such step is found, it is that of the
    least PSNR above. `measure` gives the PSNR at a step and what was made there; the step is returned with the latter.
    It is asked at most `tries` times, or more until the target lies between two answers. Raises TargetError if the
    model cannot get there.
    """

    def badness(found: float) -> tuple[bool, bool, bool, float]:
        beside = abs(found - decibels)
        return not 0 <= found - decibels <= tolerance, beside > tolerance, found < decibels, beside

    best = start
    found, made = measure(start)
    known = {start: found}
    while not 0 <= found - decibels <= tolerance:
        enclosed = min(known.values()) <= decibels <= max(known.values())
        probe = _next_psnr_probe(known, decibels + tolerance / 2)
        if probe in known or (len(known) >= tries and (enclosed or abs(found - decibels) <= tolerance)):
            break
        known[probe], candidate = measure(probe)
        if badness(known[probe]) < badness(found):
            best, found, made = probe, known[probe], candidate
    if found < decibels - tolerance:
        raise TargetError(f"this model gives this picture {found:.2f} dB at most, not {decibels:g}; ask for less")
    if found > decibels + tolerance and found == min(known.values()):
        raise TargetError(f"this model gives this picture {found:.2f} dB at least, not {decibels:g}; ask for more")
    return best, made


def _between(fine: int, coarse: int, sizes: dict[int, int], wanted: float) -> int:
    """Interpolate a step strictly between two, from the sizes measured there."""
    share = 0.5
    if fine in sizes and sizes[fine] > sizes[coarse]:
        share = math.log(sizes[fine] / wanted) / math.log(sizes[fine] / sizes[coarse])
    elif fine not in sizes:
        # halve the step for each doubling of the size, until the other side of the bracket is known
        guess = coarse * (sizes[coarse] / wanted) ** 1.5
        return min(max(int(guess), fine + 1), coarse - 1)
    share = min(max(share, _PULL), 1 - _PULL)
    step = round(math.exp(math.log(fine) + share * math.log(coarse / fine)))
    return min(max(step, fine + 1), coarse - 1)


@dataclass(frozen=True)
class _Point:
    """A step, to the power _BEND, and the squared error there."""

    bent: float
    error: float


def _next_psnr_probe(known: dict[int, float], decibels: float) -> int:
    """Guess the step that gives `decibels`; the finest or coarsest of all where the curve seems not to get there."""
    wanted = 10 ** (-decibels / 10)
    curve = [_Point(step**_BEND, max(10 ** (-found / 10), _NO_ERROR)) for step, found in sorted(known.items())]
    finer = [point for point in curve if point.error < wanted]
    coarser = [point for point in curve if point.error >= wanted]
    if finer and coarser:
        guess = _within(finer[-1], coarser[0], curve, wanted)
    elif finer:
        guess = min(max(_beyond(finer[-1], finer[-2:][0], wanted), finer[-1].bent * _STRIDE), finer[-1].bent * _LEAP)
    else:
        guess = min(_beyond(coarser[0], coarser[:2][-1], wanted), coarser[0].bent / _STRIDE)
    return min(max(round(math.pow(max(guess, 0.0), 1 / _BEND)), STEP_MIN), STEP_MAX)


def _within(fine: _Point, coarse: _Point, curve: list[_Point], wanted: float) -> float:
    """Interpolate between two points, with a third if there is one that keeps the result between them."""
    distinct = {point.error: point.bent for point in curve}
    nearest = sorted(distinct, key=lambda error: abs(math.log(error / wanted)))[:3]
    guess = sum(
        distinct[error] * math.prod((wanted - other) / (error - other) for other in nearest if other != error)
        for error in nearest
    )
    if fine.bent < guess < coarse.bent:
        return guess
    share = (wanted - fine.error) / (coarse.error - fine.error)
    return fine.bent + min(max(share, _PULL), 1 - _PULL) * (coarse.bent - fine.bent)


def _beyond(end: _Point, inner: _Point, wanted: float) -> float:
    """Extrapolate from the end of the known curve, by the line through it and the point before if there is one."""
    if end.error == inner.error:
        return end.bent * wanted / end.error
    return end.bent + (wanted - end.error) * (end.bent - inner.bent) / (end.error - inner.error)
