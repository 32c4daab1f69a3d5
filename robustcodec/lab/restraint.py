"""What keeps a model's quantiser from helping noise: dead zones, dither, and tables that know attacked latents.

Tables that are counted on latents of attacked pictures, too, ask less for what attacks bring, and hardly more for
photographs. Decoders know nothing of zones, and of the rest but the tables that files are coded with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robustcodec.dither import DitheredScales
from robustcodec.lab.attacks.budget import to_levels
from robustcodec.lab.attacks.problem import Problem
from robustcodec.lab.attacks.strong import Strong
from robustcodec.lab.attacks.threat import DEFAULT_EPSILON, Target, Threat
from robustcodec.lab.attacks.victim import Victim, code
from robustcodec.lab.data import centre_crops
from robustcodec.lab.dead_zones import DITHERED, UNDITHERED
from robustcodec.lab.hardening_recipes import FAST
from robustcodec.lab.recipe import Hardening
from robustcodec.pixels import Pixels

_CROP = 128
_EVERY = 2
"""Of the calibration pictures every second one is attacked."""
_STEPS = 30
_BATCH = 12


@dataclass(frozen=True, kw_only=True)
class Restraint:
    """How an exported encoder is held back; by default not at all."""

    dead_zones: bool = False
    dither: bool = False
    attacked_share: float = 0.0
    """Share of attacked latents in what the tables of y are counted on."""

    @property
    def dithered(self) -> DitheredScales:
        """The scales that are dithered."""
        return DITHERED if self.dither else UNDITHERED


def restraint_of(hardening: Hardening | None) -> Restraint:
    """Give how a run's model is held back."""
    if hardening is None:
        return NONE
    return Restraint(dead_zones=hardening.dead_zones, dither=hardening.dither, attacked_share=hardening.attacked_share)


NONE = Restraint()
FULL = restraint_of(FAST)
"""What the recipe `fast` gives its models."""


def attacked(victim: Victim, pictures: Sequence[Pixels], generator: torch.Generator) -> list[Pixels]:
    """Attack the middles of some pictures, uint8 (H, W, 3), for the rate; give them as uint8 (128, 128, 3).

    Where all of those are smaller the middles are of 64x64; no picture has a side of fewer pixels than that.
    """
    some = pictures[::_EVERY]
    side = _CROP if any(min(picture.shape[:2]) >= _CROP for picture in some) else _CROP // 2
    found: list[Pixels] = []
    crops = centre_crops(some, side)
    for part in (crops[start : start + _BATCH] for start in range(0, len(crops), _BATCH)):
        with torch.no_grad():
            clean = code(victim, part, part)
        # float32 everywhere: tables should not depend on what a processor has
        problem = Problem(victim, victim, part, Threat(Target.BPP), DEFAULT_EPSILON, clean, generator)
        noise = Strong(steps=_STEPS).search(problem, lambda *_: None)
        levels = to_levels(noise, part, DEFAULT_EPSILON).permute(0, 2, 3, 1)
        found += [np.ascontiguousarray(each.numpy()) for each in levels]
    return found
