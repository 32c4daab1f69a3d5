"""Projected gradient steps: FGSM (Goodfellow 2015), I-FGSM (Kurakin 2017), PGD (Madry 2018; on the rate: Liu 2022).

Each picture's noise stays inside the budget all the time; the best step is kept, not the last. These attacks know of
no bound on the other figure: the referee shortens what they find until it holds.
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from robustcodec.lab.attacks.budget import energy, fit_l2, fit_linf
from robustcodec.lab.attacks.problem import Best, Problem, Report
from robustcodec.lab.attacks.victim import unrounded


class Norm(StrEnum):
    """Shape of the set that noise is projected into."""

    L2 = "l2"
    """A ball of energy epsilon; steps along the gradient divided by its norm."""
    LINF = "linf"
    """A cube of half side sqrt(epsilon), which lies in that ball; steps along the gradient's sign."""


@dataclass(frozen=True, kw_only=True)
class Projected:
    """Ascend the score by steps of `stride` times the budget's radius, from zero or from random noise."""

    steps: int
    norm: Norm = Norm.L2
    stride: float = 0.1
    random_start: bool = True

    def search(self, problem: Problem, report: Report) -> Tensor:
        """Give the best noise (B, 3, H, W) of all steps."""
        radius = problem.epsilon**0.5
        fit = fit_l2 if self.norm is Norm.L2 else fit_linf
        noise = torch.zeros_like(problem.x)
        if self.random_start:
            noise = fit(0.5 * radius * problem.random_direction(), problem.x, problem.epsilon)
        best = Best.none(problem.x)
        for step in range(1, self.steps + 1):
            score, gradient = _ascend(problem, noise)
            best.offer(noise, score, torch.zeros_like(score))
            report(step, score)
            noise = fit(noise + self.stride * radius * direction(gradient, self.norm), problem.x, problem.epsilon)
        with torch.no_grad():
            score = problem.score(problem.sketch(noise, unrounded))
        best.offer(noise, score, torch.zeros_like(score))
        return best.noise


def _ascend(problem: Problem, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Give the score (B,) of pictures with noise (B, 3, H, W), and its gradient."""
    noise = noise.detach().requires_grad_()
    score = problem.score(problem.sketch(noise, unrounded))
    (gradient,) = torch.autograd.grad(score.sum(), noise)
    return score.detach(), gradient


def direction(gradient: Tensor, norm: Norm) -> Tensor:
    """Give the steepest direction (B, 3, H, W) of unit energy."""
    if norm is Norm.LINF:
        return gradient.sign()
    return gradient / energy(gradient).sqrt().clamp(min=1e-30).reshape(-1, 1, 1, 1)
