"""Dead zones of the quantiser: which latents an encoder makes zero though they would round to a symbol.

Where a table expects hardly anything but zeros, a symbol costs ten bits and more, and the picture is hardly better for
it. Photographs have few such symbols; an attack on the rate brings many, by moving latents just past one half. What is
dithered has no zone: see `robustcodec.dither`.
"""

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcodec.dither import DitheredScales
from robustcodec.lab.entropy_models import SCALE_MIN, SCALES, lower_bound
from robustcodec.lab.networks import DeadZones
from robustcodec.lab.recipe import Hardening

_WIDTHS = ((0.2, 2.0), (0.25, 1.0), (0.3, 0.8), (0.4, 0.6), (0.5, 0.55))
"""Half widths for scales up to a bound, in steps: chosen on cid22-val, where none costs hyper-base 0.15 % of J."""


def dead_zones() -> NDArray[np.float32]:
    """Give the half widths for each of `SCALES`, in quantisation steps."""
    return np.array([next((width for bound, width in _WIDTHS if scale < bound), 0.5) for scale in SCALES], np.float32)


DITHERED = DitheredScales(len(SCALES), 9, 40)
"""From 0.31 to 14 steps. Chosen on cid22-val: dither from 0.29 on costs hyper-robust 0.1 % of J, from 0.18 on 0.8 %, of
all scales 12 %; hardly any latent has a larger scale, and tables grow with it."""

UNDITHERED = DitheredScales(len(SCALES), 0, 0)


def zones_of(hardening: Hardening | None) -> DeadZones | None:
    """Give the zones that a run trains with, if any: none of dither, which noise stands for anyway."""
    return by_scale(dead_zones()) if hardening is not None and hardening.dead_zones else None


def exported_zones_of(hardening: Hardening | None) -> DeadZones | None:
    """Give the zones and the dither that a run's exported model will have, if any."""
    if hardening is None:
        return None
    widths = dead_zones() if hardening.dead_zones else np.full(len(SCALES), 0.5, np.float32)
    return by_scale(widths, DITHERED if hardening.dither else UNDITHERED)


def by_scale(widths: NDArray[np.float32], dithered: DitheredScales = UNDITHERED) -> DeadZones | None:
    """Give zones of such half widths as a function of scales; None if they are what rounds to zero anyway."""
    widths = widths.copy()
    widths[dithered.first : dithered.end] = 0
    if (widths == 0.5).all():
        return None

    @cache  # nothing may be copied to a GPU while it records a graph
    def on(device: torch.device) -> Tensor:
        return torch.from_numpy(widths).to(device)

    return lambda scales: on(scales.device)[level(scales).round().long()]


def level(scales: Tensor) -> Tensor:
    """Place scales, in units of the step, among `SCALES`: 0 at the first, and logarithms between them.

    What is no number lies at the first, too: an index must be valid even where training diverges, which others notice.
    """
    per_level = math.log(SCALES[-1] / SCALES[0]) / (len(SCALES) - 1)
    place: Tensor = (lower_bound(scales, SCALE_MIN) / SCALES[0]).log() / per_level
    return place.nan_to_num(0.0).clamp(0, len(SCALES) - 1)
