"""Projected steps on the normalised gradient whose length adapts to each picture (APGD, Croce and Hein 2020)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustcodec.lab.attacks.budget import fit_l2
from robustcodec.lab.attacks.problem import Best, Problem, Report
from robustcodec.lab.attacks.projected import Norm, ascend, direction
from robustcodec.lab.attacks.victim import Figures
from robustcodec.lab.networks import Quantiser

_MOMENTUM = 0.25
_IMPROVED_SHARE = 0.75
_FIRST_PERIOD, _SHORTER, _LAST_PERIOD = 0.22, 0.03, 0.06
"""Shares of all steps between two looks at the step length: the first, what each loses, and the last."""


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """Ascend from `noise`; the penalty on a violated bound grows while it is violated and shrinks while it holds."""

    steps: int
    quantise: Quantiser
    stride: float = 1.0
    """First step length in radii of the budget."""

    def search(self, problem: Problem, noise: Tensor, penalty: Tensor, report: Report) -> Best:
        """Give the best noise by the figures that `quantise` shows; `penalty` (B,) is updated in place."""
        walk = _Walk(problem, noise, penalty, self.stride * problem.epsilon**0.5)
        look_at, period = _first(self.steps), _first(self.steps)
        for step in range(1, self.steps + 1):
            figures, gradient = ascend(problem, walk.noise, self.quantise, walk.aim)
            walk.judge(figures)
            report(step, problem.score(figures))
            if step == look_at:
                walk.adapt(period)
                period = max(period - max(1, round(_SHORTER * self.steps)), max(1, round(_LAST_PERIOD * self.steps)))
                look_at += period
            walk.advance(gradient)
        walk.judge(problem.sketch(walk.noise, self.quantise))
        return walk.best


def _first(steps: int) -> int:
    return max(1, round(_FIRST_PERIOD * steps))


@dataclass(eq=False)
class _Walk:
    """Where each picture's search is: noise (B, 3, H, W), step length (B,) and what led there."""

    problem: Problem
    noise: Tensor
    penalty: Tensor
    first_length: float
    best: Best = field(init=False)

    def __post_init__(self) -> None:
        count = self.noise.shape[0]
        self.best = Best.none(self.problem.x)
        self.length = torch.full((count,), self.first_length, device=self.noise.device)
        self.before = self.noise
        self.merit = torch.full_like(self.length, -torch.inf)
        self.improved = torch.zeros_like(self.length)
        self.best_at_look = self.best.score.clone()
        self.shortened = torch.zeros_like(self.length, dtype=torch.bool)

    def aim(self, figures: Figures) -> Tensor:
        """What the gradient is taken of: the score less the penalty on what exceeds the bound."""
        return self.problem.score(figures) - self.penalty * self.problem.excess(figures)

    def judge(self, figures: Figures) -> None:
        """Note how good the present noise is."""
        score, excess = self.problem.score(figures), self.problem.excess(figures)
        merit = score - self.penalty * excess
        self.improved += merit > self.merit
        self.merit = merit
        self.best.offer(self.noise, score, excess)
        self.penalty.copy_(torch.where(excess > 0, self.penalty * 1.15, self.penalty * 0.97))

    def adapt(self, period: int) -> None:
        """Halve the step of each picture that got on too slowly, and let it go on from its best."""
        stalled = (self.best.score <= self.best_at_look) & ~self.shortened
        slow = (self.improved < _IMPROVED_SHARE * period) | stalled
        self.length = torch.where(slow, self.length / 2, self.length)
        back = slow.reshape(-1, 1, 1, 1)
        self.noise = torch.where(back, self.best.noise, self.noise)
        self.before = torch.where(back, self.best.noise, self.before)
        self.shortened = slow
        self.best_at_look = self.best.score.clone()
        self.improved.zero_()

    def advance(self, gradient: Tensor) -> None:
        """Step along the gradient, with momentum, inside the budget."""
        problem = self.problem
        step = self.length.reshape(-1, 1, 1, 1) * direction(gradient, Norm.L2)
        reached = fit_l2(self.noise + step, problem.x, problem.epsilon)
        moved = self.noise + (1 - _MOMENTUM) * (reached - self.noise) + _MOMENTUM * (self.noise - self.before)
        self.before, self.noise = self.noise, fit_l2(moved, problem.x, problem.epsilon)
