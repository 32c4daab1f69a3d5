"""Projected steps on the normalised gradient whose length adapts to each picture, after APGD (Croce and Hein 2020).

Each step goes where the score rises, plus as much as it takes along what the threat bounds: one multiplier for each end
of the bound, which grows beyond 0.8 of that end and falls within (dual ascent, Arrow, Hurwicz and Uzawa 1958). Both
gradients meet at the latents and go through the analysis together, so that a step costs one pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcodec.lab.attacks.budget import fit_l2
from robustcodec.lab.attacks.problem import Best, Problem, Report, Watch
from robustcodec.lab.attacks.projected import Norm, direction
from robustcodec.lab.attacks.victim import Coded
from robustcodec.lab.networks import Quantiser

_MOMENTUM = 0.25
_FIRST_PERIOD, _SHORTER, _LAST_PERIOD = 0.22, 0.03, 0.06
"""Shares of all steps between two looks at the step length: the first, what each loses, and the last."""
_EDGE = 0.8
"""Share of a bound beyond which multipliers grow."""
_FAR = 4.0
"""Bounds; what lies farther out counts as this far."""


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """Ascend from given noise, as `quantise` shows the codec, and `rate_quantise` its rate."""

    steps: int
    quantise: Quantiser
    rate_quantise: Quantiser
    stride: float
    """Length of the first steps in radii of the budget."""
    growth: float
    """What overstepping an end of the bound by one bound adds to its multiplier."""
    prompt: float
    """What it adds beside that to this step alone."""

    def search(self, problem: Problem, noise: Tensor, report: Report) -> Best:
        """Give the best noise."""
        watch = Watch(problem, self.quantise, self.rate_quantise)
        walk = _Walk(watch, noise, self.stride * problem.epsilon**0.5, self.growth, self.prompt)
        look_at, period = _first(self.steps), _first(self.steps)
        for step in range(1, self.steps + 1):
            noise = walk.noise.detach().requires_grad_()
            figures = problem.sketch(noise, self.quantise, self.rate_quantise)
            (gradient,) = torch.autograd.grad(figures.latents, noise, walk.aim(figures))
            walk.judge(figures)
            report(step, problem.score(figures).detach())
            if step == look_at:
                walk.adapt()
                period = max(period - max(1, round(_SHORTER * self.steps)), max(1, round(_LAST_PERIOD * self.steps)))
                look_at += period
            walk.advance(gradient)
        walk.judge(problem.sketch(walk.noise, self.quantise, self.rate_quantise))
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
    growth: float
    prompt: float

    def __post_init__(self) -> None:
        self.length = torch.full((self.noise.shape[0],), self.first_length, device=self.noise.device)
        self.before = self.noise
        self.improved = torch.zeros_like(self.length, dtype=torch.bool)
        self.below = torch.zeros_like(self.length)
        """Multipliers (B,) of the bound's two ends."""
        self.above = torch.zeros_like(self.length)

    def aim(self, figures: Coded) -> Tensor:
        """Give the direction in which the latents (B, C, h, w) ought to move."""
        seen = self.watch.seen
        bounded = seen.threat.bounded
        (upwards,) = torch.autograd.grad(seen.score(figures).sum(), figures.latents, retain_graph=bounded)
        if not bounded:
            return upwards
        deviation = seen.deviation(figures)
        pull = self._pull(deviation.detach().clamp(-_FAR, _FAR))
        if not bool(pull.any()):
            return direction(upwards, Norm.L2)
        (outwards,) = torch.autograd.grad(deviation.sum(), figures.latents)
        return direction(upwards, Norm.L2) + pull.reshape(-1, 1, 1, 1) * direction(outwards, Norm.L2)

    def _pull(self, deviation: Tensor) -> Tensor:
        """Give how much a step has to add (B,) to what is bounded, and note how far each end is."""
        under, over = -_EDGE - deviation, deviation - _EDGE
        self.below = (self.below + self.growth * under).clamp(min=0)
        self.above = (self.above + self.growth * over).clamp(min=0)
        return self.below - self.above + self.prompt * (under.clamp(min=0) - over.clamp(min=0))

    @torch.no_grad()
    def judge(self, figures: Coded) -> None:
        """Note how good the present noise is."""
        self.improved |= self.watch.offer(self.noise, figures)

    def adapt(self) -> None:
        """Halve the step of each picture whose best has not become better, and let it go on from there."""
        self.improved |= self.watch.settle()
        stalled = ~self.improved
        self.length = torch.where(stalled, self.length / 2, self.length)
        back = stalled.reshape(-1, 1, 1, 1)
        self.noise = torch.where(back, self.watch.best.noise, self.noise)
        self.before = torch.where(back, self.watch.best.noise, self.before)
        self.improved.zero_()

    def advance(self, gradient: Tensor) -> None:
        """Step along the gradient, with momentum, inside the budget."""
        problem = self.watch.real
        step = self.length.reshape(-1, 1, 1, 1) * direction(gradient, Norm.L2)
        reached = fit_l2(self.noise + step, problem.x, problem.epsilon)
        moved = self.noise + (1 - _MOMENTUM) * (reached - self.noise) + _MOMENTUM * (self.noise - self.before)
        self.before, self.noise = self.noise, fit_l2(moved, problem.x, problem.epsilon)
