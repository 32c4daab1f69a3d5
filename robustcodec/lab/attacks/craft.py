"""The referee: runs an attack on pictures and gives back 8-bit pictures that keep its budget and its bound.

It trusts no method: noise is rounded to whole levels within the budget here, and for a bundle the shipped codec itself
codes every picture before it may leave.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustcodec.bundle import Bundle
from robustcodec.codec import Codec
from robustcodec.errors import UsageError
from robustcodec.images import Picture
from robustcodec.lab.attacks.budget import LEVELS, to_levels
from robustcodec.lab.attacks.methods import METHODS
from robustcodec.lab.attacks.pictures import batch_of
from robustcodec.lab.attacks.problem import Problem
from robustcodec.lab.attacks.shipped import victim_of
from robustcodec.lab.attacks.threat import Attack
from robustcodec.lab.attacks.victim import Rough, Victim, code, decibels, unrounded
from robustcodec.lab.memory import memory_named
from robustcodec.lab.precision import in_bfloat16
from robustcodec.lab.runs import default_device
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.pixels import Pixels
from robustcodec.rate import Quality

SHRINKINGS = (1.0, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.0)
"""Noise that breaks the bound is shortened to these shares, one after the other, until it holds."""
_LARGEST_EPSILON = 1.0
_LEAST_MSE = 1e-12

Judge = Callable[[Pixels], tuple[float, float]]
"""Codes a picture; gives bits per pixel and the PSNR in dB against the clean one."""


@dataclass(frozen=True)
class GradientStats:
    """Shares of the score's gradient at the clean picture, nothing rounded, that are zero and that are not finite."""

    zero: float
    not_finite: float


@dataclass(frozen=True, eq=False)
class Crafted:
    """An attacked picture: 8-bit pixels (H, W, 3) whose mean square distance from the clean one is within the budget.

    `trace` has the score after each step. `shrunk` is the share of its length that the found noise kept to hold the
    bound of the threat. `expected` is what the torch network makes of the picture, rounded as a shipped codec rounds:
    bits per pixel, and the PSNR in dB against the clean one.
    """

    pixels: Pixels
    gradient: GradientStats
    trace: tuple[tuple[int, float], ...]
    shrunk: float
    expected: tuple[float, float]


def craft(
    source: Bundle | Path,
    pictures: Sequence[Pixels],
    attack: Attack,
    quality: float = 4.0,
    report: Callable[[int, int, list[float]], None] | None = None,
    device: torch.device | None = None,
) -> list[Crafted]:
    """Attack pictures of one size (uint8 (H, W, 3)) on a model: a bundle, or any checkpoint.

    The same pictures in the same order with the same attack give the same results on one machine. `report` is called
    with the step, the number of steps and each picture's score: MSE(x, x_hat*) in units of epsilon, or bpp.
    Without a `device` it is the GPU if there is one. Raises UsageError, ModelError, TrainingError, and LimitExceeded
    where the memory does not suffice.
    """
    check(attack, pictures)
    with memory_named("attacking needs more memory than there is; cut or shrink the pictures"):
        return _craft(source, pictures, attack, quality, report, device or default_device())


def _craft(
    source: Bundle | Path,
    pictures: Sequence[Pixels],
    attack: Attack,
    quality: float,
    report: Callable[[int, int, list[float]], None] | None,
    device: torch.device,
) -> list[Crafted]:
    victim = victim_of(source, quality, device)
    networks = [_expecting(victim, picture, device) for picture in pictures]
    judges = _shipped(source, pictures, quality) if isinstance(source, Bundle) else networks
    x = batch_of(pictures, device)
    with torch.no_grad():
        clean = code(victim, x, x)
    guide = Rough(victim) if in_bfloat16(attack.precision, device) else victim
    generator = torch.Generator().manual_seed(attack.seed)
    problem = Problem(victim, guide, x, attack.threat, attack.epsilon, clean, generator)
    trace: list[tuple[int, list[float]]] = []

    def note(step: int, scores: Tensor) -> None:
        trace.append((step, scores.tolist()))
        if report is not None:
            report(step, attack.steps * attack.restarts, trace[-1][1])

    stats = _gradient_stats(problem)
    noise = METHODS[attack.method](attack).search(problem, note)
    crafted = []
    for index, judge in enumerate(judges):
        pixels, shrunk = _held(problem, noise, index, judge, pictures[index])
        steps = tuple((step, scores[index]) for step, scores in trace)
        crafted.append(Crafted(pixels, stats[index], steps, shrunk, networks[index](pixels)))
    return crafted


def check(attack: Attack, pictures: Sequence[Pixels]) -> None:
    """Raise UsageError for an attack that cannot be run, or on these pictures."""
    if attack.method not in METHODS:
        raise UsageError(f"there is no attack {attack.method!r}; there are {', '.join(METHODS)}")
    if not 0 < attack.epsilon <= _LARGEST_EPSILON:
        raise UsageError(f"the budget is a mean square above 0 and at most 1, such as 5e-4, not {attack.epsilon:g}")
    if attack.steps < 1 or attack.restarts < 1:
        raise UsageError("an attack takes at least one step and one start")
    if len({picture.shape for picture in pictures}) > 1:
        raise UsageError("pictures attacked together must be of one size")


def _shipped(bundle: Bundle, pictures: Sequence[Pixels], quality: float) -> list[Judge]:
    """Give judges that code by the shipped codec, one for the versions of each picture."""
    codec = Codec(bundle, torch.get_num_threads())

    def judge(clean: Pixels, pixels: Pixels) -> tuple[float, float]:
        encoded = codec.encode(Picture(pixels=pixels), Quality(quality), measure=True)
        assert encoded.reconstruction is not None
        height, width = clean.shape[:2]
        return bits_per_pixel(len(encoded.data), width, height), psnr(clean, encoded.reconstruction)

    return [partial(judge, clean) for clean in pictures]


def _expecting(victim: Victim, clean: Pixels, device: torch.device) -> Judge:
    """Give a judge that expects what the network, with everything rounded, makes of a picture's versions."""
    x = batch_of([clean], device)

    @torch.no_grad()
    def judge(pixels: Pixels) -> tuple[float, float]:
        figures = code(victim, batch_of([pixels], device), x)
        shown = (figures.x_hat * LEVELS).round() / LEVELS
        # a flat picture may come back as it was
        mse = (shown - x).square().mean().clamp(min=_LEAST_MSE)
        return float(figures.bpp), float(decibels(mse))

    return judge


def _held(problem: Problem, noise: Tensor, index: int, judge: Judge, clean: Pixels) -> tuple[Pixels, float]:
    """Give the attacked picture with as much of its noise as the threat's bound allows, and how much that is.

    None, if what is left of shortened noise does no harm.
    """
    x, own, threat = problem.x[index : index + 1], noise[index : index + 1], problem.threat
    if not threat.bounded:
        return _pixels(to_levels(own, x, problem.epsilon)), 1.0
    before = judge(clean)
    for share in SHRINKINGS:
        pixels = _pixels(to_levels(share * own, x, problem.epsilon))
        after = judge(pixels)
        if threat.holds(*before, *after):
            break
    return (clean, 0.0) if share < 1 and not threat.harms(*before, *after) else (pixels, share)


def _pixels(levels: Tensor) -> Pixels:
    pixels: Pixels = np.ascontiguousarray(levels[0].permute(1, 2, 0).cpu().numpy())
    return pixels


def _gradient_stats(problem: Problem) -> list[GradientStats]:
    x = problem.x.clone().requires_grad_()
    figures = code(problem.victim, x, problem.x, unrounded)
    (gradient,) = torch.autograd.grad(problem.score(figures).sum(), x)
    flat = gradient.flatten(1)
    zero, broken = (flat == 0).float().mean(1), (~flat.isfinite()).float().mean(1)
    return [GradientStats(float(z), float(b)) for z, b in zip(zero, broken, strict=True)]
