"""Finding the quantisation step that meets a target, with few evaluations.

Size and fidelity fall as the step grows, and their logarithms are nearly straight lines over the step's: so both
searches interpolate between the nearest steps known on either side, and keep a bracket in case the line bends.
"""

import math
from collections.abc import Callable

from robustcodec.errors import TargetError
from robustcodec.rate import STEP_MAX, STEP_MIN

_PULL = 0.1
"""How near a bracket's end a probe may come, as a share of the bracket: keeps both ends moving."""


def finest_step_within(size_at: Callable[[int], int], size: int, start: int, tolerance: float) -> int:
    """Find a step whose file has at most `size` bytes, and no fewer than `size * (1 - tolerance)` if any has.

    Raises TargetError if not even the coarsest step fits.
    """
    sizes: dict[int, int] = {}

    def measure(step: int) -> int:
        sizes[step] = size_at(step)
        return sizes[step]

    fine, coarse = STEP_MIN, STEP_MAX
    if measure(coarse) > size:
        raise TargetError(f"this picture takes at least {sizes[coarse]} bytes with this model, not {size}; allow more")
    probe = start
    while coarse - fine > 1:
        if measure(probe) > size:
            fine = probe
        else:
            coarse = probe
            if sizes[probe] >= size * (1 - tolerance):
                return probe
        probe = _between(fine, coarse, sizes, size * (1 - tolerance / 2))
    # neighbouring steps lie on either side of the target: only at the finest can one more byte still be spent
    if fine == STEP_MIN and fine not in sizes and measure(fine) <= size:
        return fine
    return coarse


def step_for_psnr(psnr_at: Callable[[int], float], decibels: float, start: int, tolerance: float, tries: int) -> int:
    """Find a step whose PSNR is `decibels` or up to `tolerance` more, in at most `tries` evaluations.

    Raises TargetError if the model cannot get there.
    """
    known: dict[int, float] = {}
    probe = start
    for _ in range(tries):
        known[probe] = psnr_at(probe)
        if 0 <= known[probe] - decibels <= tolerance:
            return probe
        fine = max((step for step, found in known.items() if found > decibels), default=None)
        coarse = min((step for step, found in known.items() if found < decibels), default=None)
        probe = _next_psnr_probe(known, fine, coarse, decibels + tolerance / 2)
        if probe in known:
            break
    best, found = min(known.items(), key=lambda entry: abs(entry[1] - decibels - tolerance / 2))
    if found < decibels and min(known) <= 2 * STEP_MIN:
        raise TargetError(
            f"this model gives this picture {max(known.values()):.2f} dB at most, not {decibels:g}; ask for less"
        )
    if found > decibels and max(known) >= STEP_MAX // 2:
        raise TargetError(
            f"this model gives this picture {min(known.values()):.2f} dB at least, not {decibels:g}; ask for more"
        )
    if abs(found - decibels) > tolerance:
        raise TargetError(
            f"no step was found that gives {decibels:g} dB; the nearest gives {found:.2f} dB; try a target near it"
        )
    return best


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


def _next_psnr_probe(known: dict[int, float], fine: int | None, coarse: int | None, wanted: float) -> int:
    if fine is not None and coarse is not None:
        share = (known[fine] - wanted) / (known[fine] - known[coarse])
        share = min(max(share, _PULL), 1 - _PULL)
        step = math.exp(math.log(fine) + share * math.log(coarse / fine))
    else:
        # about 3.5 dB per doubling of the step; further out the slope is measured
        steps = sorted(known)
        end = steps[0] if fine is None else steps[-1]
        slope = 5.0
        if len(steps) > 1:
            other = steps[1] if fine is None else steps[-2]
            measured = (known[end] - known[other]) / math.log(other / end)
            slope = min(max(measured, 1.0), 8.0)
        step = end * math.exp((known[end] - wanted) / slope)
    return min(max(round(step), STEP_MIN), STEP_MAX)
