"""Which of a hardening run's averages becomes the model: clean J within a limit, then the least adversarial gain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from robustcodec.lab.attacks import Attack, Target, Threat, craft
from robustcodec.lab.attacks.pictures import batch_of
from robustcodec.lab.attacks.shipped import victim_of
from robustcodec.lab.attacks.victim import code
from robustcodec.lab.precision import Precision
from robustcodec.lab.runs import default_device
from robustcodec.pixels import Pixels

_STEPS = 30
"""A short `strong`: it ranks candidates and reports nothing."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Averaged weights after `step` steps: J on clean held-out crops, and A under a short `strong` if it was needed."""

    step: int
    score: float
    gain: float | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The step that was chosen, and what it was chosen from. `start` is the start's J, `limit` the largest allowed.

    `within` tells whether any candidate kept the limit; if none did, the one of lowest J was chosen.
    """

    step: int
    start: float
    limit: float
    within: bool
    candidates: tuple[Candidate, ...]


def choose(scores: Mapping[int, float], start: float, ratio: float, gain: Callable[[int], float]) -> Choice:
    """Choose among steps with their clean J; `gain` attacks a step's weights, and is asked only if that decides."""
    limit = ratio * start
    kept = [step for step, score in scores.items() if score <= limit]
    if len(kept) > 1:
        gains = {step: gain(step) for step in kept}
        chosen = min(kept, key=lambda step: (gains[step], scores[step]))
    else:
        gains = {}
        chosen = min(kept or scores, key=lambda step: scores[step])
    candidates = tuple(
        Candidate(step=step, score=score, gain=gains.get(step)) for step, score in sorted(scores.items())
    )
    return Choice(step=chosen, start=start, limit=limit, within=bool(kept), candidates=candidates)


def strong_gain(
    source: Path,
    groups: Sequence[Sequence[Pixels]],
    quality: float,
    epsilon: float,
    precision: Precision,
    report: Callable[[int, int, list[float]], None] | None = None,
) -> float:
    """Mean adversarial gain A of a short `strong` attack on PSNR, as a checkpoint's own rounded estimate has it.

    `groups` are of crops uint8 (H, W, 3) of one size, which are attacked together.
    """
    device = default_device()
    attack = Attack(threat=Threat(Target.PSNR), method="strong", epsilon=epsilon, steps=_STEPS, precision=precision)
    victim = victim_of(source, quality, device)
    added = []
    for crops in groups:
        crafted = craft(source, crops, attack, quality, report, device)
        clean, attacked = batch_of(crops, device), batch_of([each.pixels for each in crafted], device)
        with torch.no_grad():
            before, after = (code(victim, x, clean).mse for x in (clean, attacked))
        added.append(after - before)
    return float(torch.cat(added).mean()) / epsilon
