"""Projected steps on the normalised gradient whose length adapts to each picture, after APGD (Croce and Hein 2020).

Where the threat's bound is violated a step reduces the violation, elsewhere it raises the score: a switching
subgradient method (Polyak 1967), which needs no weight between the two.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcodec.lab.attacks.budget import fit_l2
from robustcodec.lab.attacks.problem import Best, Problem, Report, Watch, switch
from robustcodec.lab.attacks.projected import Norm, ascend, direction
from robustcodec.lab.attacks.victim import Coded, Figures
from robustcodec.lab.networks import Quantiser

_MOMENTUM = 0.25
_FIRST_PERIOD, _SHORTER, _LAST_PERIOD = 0.22, 0.03, 0.06
"""Shares of all steps between two looks at the step length: the first, what each loses, and the last."""


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """Ascend from given noise, as `quantise` shows the codec."""

    steps: int
    quantise: Quantiser
    stride: float = 0.5
    """Length of the first steps in radii of the budget."""
    back: float = 0.125
    """The same of those that reduce a violation; both are halved together."""

    def search(self, problem: Problem, noise: Tensor, report: Report) -> Best:
        """Give the best noise."""
        walk = _Walk(Watch(problem, self.quantise), noise, self.stride * problem.epsilon**0.5, self.back / self.stride)
        look_at, period = _first(self.steps), _first(self.steps)
        for step in range(1, self.steps + 1):
            figures, gradient = ascend(problem, walk.noise, self.quantise, walk.aim)
            walk.judge(figures)
            report(step, problem.score(figures).detach())
            if step == look_at:
                walk.adapt()
                period = max(period - max(1, round(_SHORTER * self.steps)), max(1, round(_LAST_PERIOD * self.steps)))
                look_at += period
            walk.advance(gradient)
        walk.judge(problem.sketch(walk.noise, self.quantise))
        walk.watch.settle()
        return walk.watch.best


def _first(steps: int) -> int:
    return max(1, round(_FIRST_PERIOD * steps))


@dataclass(eq=False)
class _Walk:
    """Where each picture's search is: noise (B, 3, H, W), step length (B,) and what led there."""

    watch: Watch
    noise: Tensor
    first_length: float
    back: float
    """Length of a step that reduces a violation, as a share of one that raises the score."""

    def __post_init__(self) -> None:
        self.length = torch.full((self.noise.shape[0],), self.first_length, device=self.noise.device)
        self.before = self.noise
        self.violates = torch.zeros_like(self.length, dtype=torch.bool)
        self.improved = torch.zeros_like(self.violates)

    def aim(self, figures: Figures) -> Tensor:
        """What the gradient is taken of."""
        excess = self.watch.seen.excess(figures)
        return switch(excess > 0, lambda: -excess, lambda: self.watch.seen.score(figures))

    @torch.no_grad()
    def judge(self, figures: Coded) -> None:
        """Note how good the present noise is."""
        self.violates = self.watch.seen.excess(figures) > 0
        self.improved |= self.watch.offer(self.noise, figures)

    def adapt(self) -> None:
        """Halve the step of each picture whose best has not become better, and let it go on from there."""
        stalled = ~self.improved
        self.length = torch.where(stalled, self.length / 2, self.length)
        back = stalled.reshape(-1, 1, 1, 1)
        self.noise = torch.where(back, self.watch.best.noise, self.noise)
        self.before = torch.where(back, self.watch.best.noise, self.before)
        self.improved.zero_()

    def advance(self, gradient: Tensor) -> None:
        """Step along the gradient, with momentum, inside the budget."""
        problem = self.watch.real
        length = torch.where(self.violates, self.back * self.length, self.length)
        step = length.reshape(-1, 1, 1, 1) * direction(gradient, Norm.L2)
        reached = fit_l2(self.noise + step, problem.x, problem.epsilon)
        moved = self.noise + (1 - _MOMENTUM) * (reached - self.noise) + _MOMENTUM * (self.noise - self.before)
        self.before, self.noise = self.noise, fit_l2(moved, problem.x, problem.epsilon)
