"""The strongest attack there is here: adaptive steps on the smooth codec, then crossings on the rounded one.

Gradients find the directions that the transforms amplify; crossings find what rounding does to small moves. Which of
the two wins depends on the codec, so crossings begin at a part of what gradients found, on PSNR at nothing, too, and
the best picture of all stages is kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcodec.lab.attacks.adaptive import Adaptive
from robustcodec.lab.attacks.budget import fit_l2
from robustcodec.lab.attacks.controls import Offset
from robustcodec.lab.attacks.crossing import STEPS_PER_ROUND, cross
from robustcodec.lab.attacks.problem import Best, Problem, Report
from robustcodec.lab.attacks.projected import Projected
from robustcodec.lab.attacks.switching import Paper
from robustcodec.lab.attacks.threat import Target
from robustcodec.lab.attacks.victim import unrounded
from robustcodec.lab.networks import round_straight_through, softly_rounded

_GRADIENT_SHARE = {Target.PSNR: 0.5, Target.BPP: 0.85}
"""Of the steps, about; crossings take the rest in equal parts."""
_BASES = {Target.PSNR: (0.0, 0.5), Target.BPP: (0.9,)}
"""Lengths of what gradients found, as shares, to begin crossings with: what served best on each target."""
_STRIDE = {Target.PSNR: 3.0, Target.BPP: 0.5}
"""Lengths of the first gradient steps in radii of the budget. On PSNR steps far out of the budget, projected back, turn
the noise towards where the codec amplifies most, as power iteration does."""
_QUANTISE = {Target.PSNR: unrounded, Target.BPP: softly_rounded}
"""What gradients see instead of rounding. Their rate is always softly rounded: without rounding it would count what
never becomes a symbol, and hold another bound than the codec's."""
_START = 0.01
"""Length of the first noise on PSNR in radii of the budget; the rate, and restarts, begin on the budget's edge."""

_OTHERS = (Paper, Projected)
"""Methods whose results every second restart begins with, in turn; half of its steps go to finding them."""


@dataclass(frozen=True, kw_only=True)
class Strong:
    """All stages, `restarts` times, each in `steps`: from other noise, and every second time from another method."""

    steps: int
    restarts: int = 1

    def search(self, problem: Problem, report: Report) -> Tensor:
        """Give the best noise (B, 3, H, W) of all stages."""
        best = Best.none(problem.x)
        # on flat pictures, where gradients say nothing, no search does better than changing the brightness
        self._offer(problem, best, Offset().search(problem, lambda step, score: None))
        for restart in range(self.restarts):
            here = _after(restart * self.steps, report)
            start, spent = self._start(problem, restart, here)
            self._once(problem, best, start, self.steps - spent, _after(spent, here))
        return best.noise

    def _offer(self, problem: Problem, best: Best, noise: Tensor) -> None:
        with torch.no_grad():
            figures = problem.code(noise, round_straight_through)
        best.offer(noise, problem.score(figures), problem.excess(figures))

    def _start(self, problem: Problem, restart: int, report: Report) -> tuple[Tensor, int]:
        """Give the noise to begin with, and how many steps it took to find."""
        spent = self.steps // 2
        if restart % 2 and spent:
            other = _OTHERS[restart // 2 % len(_OTHERS)]
            return other(steps=spent).search(problem, report), spent
        length = _START if problem.threat.target is Target.PSNR and restart == 0 else 1.0
        return fit_l2(length * problem.epsilon**0.5 * problem.random_direction(), problem.x, problem.epsilon), 0

    def _once(self, problem: Problem, best: Best, start: Tensor, steps: int, report: Report) -> None:
        target = problem.threat.target
        bases = _BASES[target]
        rounds = _rounds(target, steps)
        climbing = steps - rounds * len(bases) * STEPS_PER_ROUND
        climb = Adaptive(
            steps=climbing, quantise=_QUANTISE[target], rate_quantise=softly_rounded, stride=_STRIDE[target]
        )
        start = climb.search(problem, start, report).noise
        self._offer(problem, best, start)
        for index, base in enumerate(bases):
            cross(problem, base * start, best, rounds, _after(climbing + index * rounds * STEPS_PER_ROUND, report))


def _rounds(target: Target, steps: int) -> int:
    """Give the rounds of crossings from each base: what is not for gradients, but one where that is at most half."""
    one = len(_BASES[target]) * STEPS_PER_ROUND
    return max(int((1 - _GRADIENT_SHARE[target]) * steps) // one, int(steps >= 2 * one))


def _after(done: int, report: Report) -> Report:
    """Count steps on from those that are done."""
    return lambda step, score: report(done + step, score)
