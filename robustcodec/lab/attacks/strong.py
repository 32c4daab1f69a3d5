"""The strongest attack there is here: adaptive steps on the smooth codec, then crossings on the rounded one.

Gradients find the directions that the transforms amplify, and what dead zones do; crossings find what rounding does to
small moves. Which of the two wins depends on codec and picture, so crossings begin at a part of what the first
gradients found, or at nothing if that is little, and the best picture of all stages is kept.
"""

from dataclasses import dataclass, replace

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
from robustcodec.lab.networks import Quantiser, round_straight_through, softly_rounded

_GRADIENT_SHARE = {Target.PSNR: 0.75, Target.BPP: 0.85}
"""Of the steps, about; crossings take the rest."""
_START = 0.01
"""Length of the first noise on PSNR in radii of the budget; the rate, and restarts, begin on the budget's edge."""

_OTHERS = (Paper, Projected)
"""Methods whose results every second restart begins with, in turn; half of its steps go to finding them."""


@dataclass(frozen=True)
class _Climb:
    """A part of the steps along gradients, from the best that the parts before it found."""

    until: float
    """Share of all steps along gradients with which it ends."""
    quantise: Quantiser
    """What gradients see instead of rounding. Their rate is always softly rounded: without rounding it would count
    what never becomes a symbol, and hold another bound than the codec's."""
    stride: float
    """Length of the first steps in radii of the budget. Steps far out of it, projected back, turn the noise towards
    where the codec amplifies most, as power iteration does."""
    growth: float
    prompt: float
    """How it is pulled back into the bound, see `Adaptive`. A strong pull holds the first steps back on pictures of few
    bits, a weak one leaves steps that begin at the bound outside it."""


_CLIMBS = {
    Target.PSNR: (
        _Climb(until=0.5, quantise=unrounded, stride=3.0, growth=0.06, prompt=0.3),
        _Climb(until=1.0, quantise=softly_rounded, stride=1.0, growth=0.06, prompt=2.0),
    ),
    Target.BPP: (_Climb(until=1.0, quantise=softly_rounded, stride=0.5, growth=0.1, prompt=0.1),),
}
"""On PSNR what rounding and dead zones do only the second part sees, but from nothing it misses what the transforms
amplify most."""


@dataclass(frozen=True)
class _Base:
    """Where crossings begin."""

    share: float
    """Length, as a share, of what the first climb found. What a later climb found has crossings in it, and leaves
    fewer."""
    least: float
    """What that climb must have added to the score; else crossings begin at the clean picture. On PSNR, noise that
    passes through adds 1, and its length would be missing where only rounding does harm."""


_BASES = {Target.PSNR: _Base(share=0.5, least=2.0), Target.BPP: _Base(share=0.9, least=0.0)}


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
        rounds = _rounds(target, steps)
        climbing = steps - rounds * STEPS_PER_ROUND
        found = self._climb(problem, start, climbing, report)
        self._offer(problem, best, found[-1].noise)
        cross(problem, _base(problem, found[0]), best, rounds, _after(climbing, report))

    def _climb(self, problem: Problem, start: Tensor, steps: int, report: Report) -> list[Best]:
        """Give the best that gradients have led to by the end of each climb."""
        best, found, noise, done = Best.none(problem.x), list[Best](), start, 0
        for climb in _CLIMBS[problem.threat.target]:
            end = round(climb.until * steps)
            search = Adaptive(
                steps=end - done,
                quantise=climb.quantise,
                rate_quantise=softly_rounded,
                stride=climb.stride,
                growth=climb.growth,
                prompt=climb.prompt,
            )
            self._offer(problem, best, search.search(problem, noise, _after(done, report)).noise)
            noise, done = best.noise, end
            found.append(replace(best))
        return found


def _base(problem: Problem, found: Best) -> Tensor:
    """Give the noise (B, 3, H, W) that crossings begin with, by what the first climb found."""
    base = _BASES[problem.threat.target]
    worth = found.score - problem.score(problem.clean) >= base.least
    return base.share * torch.where(worth.reshape(-1, 1, 1, 1), found.noise, 0)


def _rounds(target: Target, steps: int) -> int:
    """Give the rounds of crossings: what is not for gradients, but one where that is at most half."""
    return max(int((1 - _GRADIENT_SHARE[target]) * steps) // STEPS_PER_ROUND, int(steps >= 2 * STEPS_PER_ROUND))


def _after(done: int, report: Report) -> Report:
    """Count steps on from those that are done."""
    return lambda step, score: report(done + step, score)
