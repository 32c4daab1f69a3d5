"""Descent on the noise with a loss that switches at the budget's edge: the paper's attacks, and Ma2023's.

Outside the budget the loss pulls the noise back (and, in the paper, the other figure to where it was); inside it
pushes the score. Each picture switches on its own.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import torch
from torch import Tensor

from robustcodec.lab.attacks.budget import energy
from robustcodec.lab.attacks.problem import Best, Problem, Report, Watch, switch
from robustcodec.lab.attacks.projected import Norm, direction
from robustcodec.lab.attacks.threat import Target
from robustcodec.lab.attacks.victim import Coded, Figures, unrounded
from robustcodec.lab.networks import Quantiser, round_straight_through, softly_rounded


class Optimiser(StrEnum):
    """How noise follows the gradient; the paper does not say."""

    NORMALISED = "normalised"
    """Along each picture's gradient, divided by its root mean square."""
    ADAM = "adam"
    """As in the code of Ma2023, which the paper builds on."""


class Length(StrEnum):
    """How the noise's norm enters the loss; the paper writes ||n||_2 and leaves it open."""

    RMS = "rms"
    MSE = "mse"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the paper leaves open and an equation's loss depends on."""

    rate: float
    """Length of a step in radii of the budget, sqrt(epsilon): of the whole noise, or with Adam of each sample."""
    weight: float
    """Weight of bpp_error or psnr_error outside the budget."""
    quantise: Quantiser = unrounded
    """What latents go through in the search instead of being rounded."""
    length: Length = Length.RMS


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Paper equations 6 and 7, with what they leave open as fields; `docs/attacks.md` settles it by measurement."""

    steps: int
    optimiser: Optimiser = Optimiser.NORMALISED
    psnr: Choices = Choices(rate=0.4, weight=0.07)
    bpp: Choices = Choices(rate=0.2, weight=10.0, quantise=softly_rounded)
    start: float = 0.0
    """Energy of the Gaussian noise to start from, as a share of the budget."""
    keep_best: bool = True
    """Give the best noise inside the budget; else the last, whatever it is."""

    def search(self, problem: Problem, report: Report) -> Tensor:
        """Give the noise (B, 3, H, W)."""
        choices = self.psnr if problem.threat.target is Target.PSNR else self.bpp
        watch = Watch(problem, choices.quantise)
        noise = (self.start * problem.epsilon) ** 0.5 * problem.random_direction()
        noise = noise.requires_grad_()
        optimiser = self._optimiser(noise, choices.rate * problem.epsilon**0.5)
        score = problem.score(problem.clean)
        for step in range(1, self.steps + 1):
            shown = _clip(noise, problem.x)
            figures = problem.sketch(shown, choices.quantise)
            inside = energy(noise) < problem.epsilon
            loss = switch(
                inside,
                partial(_push, problem, figures),
                partial(_pull, watch.seen, noise, figures, choices),
            )
            (gradient,) = torch.autograd.grad(loss.sum(), noise)
            noise.grad = direction(gradient, Norm.L2) if self.optimiser is Optimiser.NORMALISED else gradient
            with torch.no_grad():
                # the clean picture is no attack; what breaks its bound, the referee shortens
                allowed = inside & (energy(shown) > 0)
                if bool(inside.any()):  # of noise outside the budget no score is told: the last one stands
                    score = torch.where(inside, problem.score(figures), score)
                    allowed &= watch.worth_a_look(score)
                watch.offer(shown, figures, allowed)
            report(step, score)
            optimiser.step()
        watch.settle()
        return watch.best.noise if self.keep_best else _clip(noise, problem.x).detach()

    def _optimiser(self, noise: Tensor, rate: float) -> torch.optim.Optimizer:
        if self.optimiser is Optimiser.NORMALISED:
            return torch.optim.SGD([noise], lr=rate)
        return torch.optim.Adam([noise], lr=rate)


def _push(problem: Problem, figures: Figures) -> Tensor:
    return 1 - figures.mse if problem.threat.target is Target.PSNR else -figures.bpp


def _pull(problem: Problem, noise: Tensor, figures: Figures, choices: Choices) -> Tensor:
    length = energy(noise)
    if choices.length is Length.RMS:
        length = length.clamp(min=1e-20).sqrt()
    if problem.threat.target is Target.PSNR:
        error = (figures.bpp - problem.clean.bpp).abs()
    else:
        error = (figures.mse - problem.clean.mse).abs()
    return length + choices.weight * error


@dataclass(frozen=True, kw_only=True)
class Ma2023:
    """Chen and Ma 2023 as their code has it: MSE(x_hat, x_hat*) against the rounded clean reconstruction.

    Adam at 0.01, cut to a third after the first step and again after each third of the steps; each sample of the
    noise stays within 16/255. It has no attack on the rate: with target bpp the same loop pushes the rate.
    """

    steps: int

    def search(self, problem: Problem, report: Report) -> Tensor:
        """Give the best noise (B, 3, H, W) inside the budget."""
        noise = torch.zeros_like(problem.x).requires_grad_()
        with torch.no_grad():
            target = problem.code(noise, round_straight_through).x_hat
        score = problem.score(problem.clean)
        optimiser = torch.optim.Adam([noise], lr=0.01)
        every = max(1, self.steps // 3)
        best = Best.none(problem.x)
        for step in range(1, self.steps + 1):
            shown = _clip(noise.clamp(-16 / 255, 16 / 255), problem.x)
            figures = problem.sketch(shown, unrounded)
            inside = energy(noise) < problem.epsilon
            loss = switch(inside, partial(self._push, problem, figures, target), partial(energy, noise))
            (noise.grad,) = torch.autograd.grad(loss.sum(), noise)
            with torch.no_grad():
                if bool(inside.any()):
                    score = torch.where(inside, problem.score(figures), score)
                    best.offer(shown, score, torch.zeros_like(score), allowed=inside)  # it knows of no bound
            report(step, score)
            optimiser.step()
            if (step - 1) % every == 0 and step <= 2 * every + 1:
                for group in optimiser.param_groups:
                    group["lr"] *= 0.33
        return best.noise

    def _push(self, problem: Problem, figures: Coded, target: Tensor) -> Tensor:
        if problem.threat.target is Target.PSNR:
            return 1 - (figures.x_hat - target).square().mean((1, 2, 3))
        return -figures.bpp


def _clip(noise: Tensor, x: Tensor) -> Tensor:
    return (x + noise).clamp(0, 1) - x
