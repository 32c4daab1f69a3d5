"""What a torch network expects of a picture, with everything rounded as the shipped codec rounds it."""

import math
from collections.abc import Sequence

import torch

from robustcodec.bundle import Bundle
from robustcodec.lab.attacks.budget import LEVELS
from robustcodec.lab.attacks.pictures import batch_of
from robustcodec.lab.attacks.shipped import victim_of
from robustcodec.lab.attacks.victim import Victim, code
from robustcodec.lab.evaluation.contenders import Source
from robustcodec.metrics import Pixels


def estimate(
    source: Source, attacked: Sequence[Pixels], clean: Sequence[Pixels], quality: float
) -> list[tuple[float, float] | None]:
    """Bits per pixel and PSNR(x, x_hat*) in dB of each attacked picture; None for a model that is no bundle."""
    if not isinstance(source.weights, Bundle):
        return [None] * len(attacked)  # without a bundle there is no shipped codec to compare with
    victim = victim_of(source.weights, quality, torch.device("cpu"))
    return [_estimate(victim, x_star, x) for x_star, x in zip(attacked, clean, strict=True)]


@torch.no_grad()
def _estimate(victim: Victim, attacked: Pixels, clean: Pixels) -> tuple[float, float]:
    x = batch_of([clean])
    figures = code(victim, batch_of([attacked]), x)
    shown = (figures.x_hat * LEVELS).round() / LEVELS
    error = float((shown - x).square().mean())
    return float(figures.bpp), -10 * math.log10(max(error, 1e-12))
