"""Meeting a target: the step that it names or that a search finds, with better latents at it if there is time."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robustcodec.bundle import Manifest
from robustcodec.errors import TargetError
from robustcodec.images import Picture
from robustcodec.metrics import psnr
from robustcodec.pixels import Pixels
from robustcodec.rate import STEP_MAX, STEP_WORTHWHILE, BitsPerPixel, FileSize, Psnr, Quality, Step, Target
from robustcodec.search import finest_step_within, step_for_psnr

SIZE_TOLERANCE = 0.005
"""A file that is at most this far below its target is near enough."""

PSNR_TOLERANCE = 0.1
"""Decibels that a result may lie beside its target, if there is such a step: else it is above."""

_SYNTHESES = 6
_REFINEMENTS = 3
"""Times that latents are refined for a target in bytes."""


@dataclass(frozen=True, eq=False)
class Written:
    """A file, and the latents that it decodes to if it is one strip: large pictures have too many to keep.

    `largest` is the largest magnitude of all latents, `expected` the bits that their tables expect of them.
    """

    data: bytes
    latents: tuple[NDArray[np.int32], ...]
    largest: float
    expected: float


@dataclass(frozen=True, eq=False)
class Met:
    """The step that meets a target, the file at it and, if it was to be measured, what it decodes to."""

    step: int
    written: Written
    shown: Pixels | None


class Coder(Protocol):
    """A picture that is ready to be coded at any step."""

    @property
    def picture(self) -> Picture:
        """The picture."""

    def code(self, step: int, effort: int = 0) -> Written:
        """Code it at a step, with some effort spent on better latents."""

    def show(self, written: Written) -> Pixels:
        """Show what a file decodes to."""


def meet(coder: Coder, target: Target, manifest: Manifest, *, measure: bool, effort: int) -> Met:
    """Meet a target with better latents, which are found for one step: so it is looked for without them first.

    Raises TargetError for a target that cannot be met.
    """
    if isinstance(target, Quality | Step):
        step = target.value if isinstance(target, Step) else manifest.step(target.value)
        written = coder.code(step, effort)
        return Met(step, written, coder.show(written) if measure else None)
    start = manifest.step(4.0)
    if not effort:
        return _searched(coder, target, start, measure)
    try:
        plain = _searched(coder, target, start, measure=False)
    except TargetError:
        plain = None  # better latents may reach what plain ones do not
    if isinstance(target, Psnr):
        step, written = _refined_to_psnr(coder, target, plain, start if plain is None else plain.step, effort)
    else:
        step, written = _refined_to_size(coder, most_bytes(target, coder.picture), plain, effort)
    return Met(step, written, coder.show(written) if measure else None)


def _searched(coder: Coder, target: Psnr | BitsPerPixel | FileSize, start: int, measure: bool) -> Met:
    """Find the step that meets a target."""
    if isinstance(target, Psnr):

        def decode(step: int) -> tuple[float, tuple[Written, Pixels]]:
            written = coder.code(step)
            shown = coder.show(written)
            return psnr(coder.picture.pixels, shown), (written, shown)

        step, (written, shown) = step_for_psnr(decode, target.decibels, start, PSNR_TOLERANCE, _SYNTHESES)
        return Met(step, written, shown if measure else None)

    def code(step: int) -> tuple[int, Written]:
        written = coder.code(step)
        return len(written.data), written

    step, written = finest_step_within(code, most_bytes(target, coder.picture), start, SIZE_TOLERANCE)
    return Met(step, written, coder.show(written) if measure else None)


def _refined_to_psnr(coder: Coder, target: Psnr, plain: Met | None, start: int, effort: int) -> tuple[int, Written]:
    """Look for the step anew with better latents; what misses the target must at least save bytes."""

    def decode(step: int) -> tuple[float, tuple[float, Written]]:
        written = coder.code(step, effort)
        found = psnr(coder.picture.pixels, coder.show(written))
        return found, (found, written)

    try:
        step, (found, written) = step_for_psnr(decode, target.decibels, start, PSNR_TOLERANCE, _SYNTHESES)
    except TargetError:
        if plain is None:
            raise
        return plain.step, plain.written
    near = abs(found - target.decibels) <= PSNR_TOLERANCE
    if plain is None or near or len(written.data) < len(plain.written.data):
        return step, written
    return plain.step, plain.written


def _refined_to_size(coder: Coder, size: int, plain: Met | None, effort: int) -> tuple[int, Written]:
    """Go to finer steps for what better latents save; a result that is too large is no result."""
    if plain is None:

        def code(step: int) -> tuple[int, Written]:
            written = coder.code(step, effort)
            return len(written.data), written

        return finest_step_within(code, size, STEP_MAX - 1, SIZE_TOLERANCE)
    step = plain.step
    best = step, plain.written
    for _ in range(_REFINEMENTS):
        written = coder.code(step, effort)
        if len(written.data) <= size:
            best = step, written
            if step == STEP_WORTHWHILE or len(written.data) >= size * (1 - SIZE_TOLERANCE):
                break
        # halve the step for each doubling of the size, as is about right
        factor = len(written.data) / (size * (1 - SIZE_TOLERANCE / 2))
        step = min(max(round(step * factor), STEP_WORTHWHILE), STEP_MAX)
    return best


def most_bytes(target: BitsPerPixel | FileSize, picture: Picture) -> int:
    """Give the most that a file may have."""
    if isinstance(target, FileSize):
        return target.size
    return math.floor(target.value * picture.width * picture.height / 8)
