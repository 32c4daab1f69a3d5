"""One batch to attack, and the best that a search has found for each picture of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustcodec.lab.attacks.budget import energy
from robustcodec.lab.attacks.threat import BPP_BAND, PSNR_BAND, Target, Threat
from robustcodec.lab.attacks.victim import Coded, Figures, Known, Victim, code, code_latents, decibels
from robustcodec.lab.networks import Quantiser, round_straight_through

Report = Callable[[int, Tensor], None]
"""Called after each step with its number, from 1, and the scores (B,) there, or the last within the budget."""

_MARGIN = 0.9
"""Share of a bound that searches use: real files differ a little from estimates."""

_LEAST_ERROR = 1e-12

_WINDOW = 10
"""Steps on the smooth codec between two looks at the real one."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Pictures x (B, 3, H, W) in [0, 1] to attack, with the figures of their clean reconstructions.

    `guide` is what searches climb on: the victim, or one like it that costs less.
    """

    victim: Victim
    guide: Victim
    x: Tensor
    threat: Threat
    epsilon: float
    clean: Figures
    generator: torch.Generator

    def code(self, noise: Tensor, quantise: Quantiser) -> Coded:
        """Code the pictures with noise (B, 3, H, W)."""
        return code(self.victim, self.x + noise, self.x, quantise)

    def sketch(self, noise: Tensor, quantise: Quantiser, rate_quantise: Quantiser | None = None) -> Coded:
        """Code the pictures with noise (B, 3, H, W) by the guide; the rate through `rate_quantise` if there is one."""
        return code(self.guide, self.x + noise, self.x, quantise, rate_quantise)

    def score(self, figures: Figures) -> Tensor:
        """What the attacker maximises (B,): MSE(x, x_hat*) in units of epsilon, or bits per pixel."""
        return figures.mse / self.epsilon if self.threat.target is Target.PSNR else figures.bpp

    def deviation(self, figures: Figures) -> Tensor:
        """How far the figure that the threat bounds has grown (B,), bits or error, in units of the bound."""
        if self.threat.target is Target.PSNR:
            return (figures.bpp / self.clean.bpp - 1) / BPP_BAND
        # a codec may make no error at all of a flat picture
        before, after = (mse.clamp(min=_LEAST_ERROR) for mse in (self.clean.mse, figures.mse))
        return (decibels(before) - decibels(after)) / PSNR_BAND

    def excess(self, figures: Figures) -> Tensor:
        """How far figures lie beyond the threat's bound (B,), in units of the bound; 0 where it holds."""
        if not self.threat.bounded:
            return torch.zeros(self.x.shape[0], device=self.x.device)
        return (self.deviation(figures).abs() - _MARGIN).clamp(min=0)

    def random_direction(self) -> Tensor:
        """Gaussian noise (B, 3, H, W) of unit energy."""
        noise = torch.randn(self.x.shape, generator=self.generator).to(self.x.device)
        return noise / energy(noise).sqrt().reshape(-1, 1, 1, 1)


def switch(first: Tensor, one: Callable[[], Tensor], other: Callable[[], Tensor]) -> Tensor:
    """Give one value (B,) for the pictures that `first` (B,) says and another for the rest; compute what is asked."""
    if bool(first.all()):
        return one()
    return torch.where(first, one(), other()) if bool(first.any()) else other()


@dataclass(eq=False)
class Best:
    """The noise (B, 3, H, W) that scored highest within the budget and the bound, for each picture apart.

    While none holds the bound, the one that exceeds it least is kept.
    """

    noise: Tensor
    score: Tensor
    excess: Tensor

    @classmethod
    def none(cls, x: Tensor) -> "Best":
        """Begin with the clean pictures, which any candidate beats."""
        infinite = torch.full((x.shape[0],), torch.inf, device=x.device)
        return cls(torch.zeros_like(x), -infinite, infinite)

    def offer(self, noise: Tensor, score: Tensor, excess: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Keep what is better; `allowed` (B,) tells which candidates may be kept. Gives which were."""
        better = (excess < self.excess) | ((excess == self.excess) & (score > self.score))
        if allowed is not None:
            better &= allowed
        self.noise = torch.where(better.reshape(-1, 1, 1, 1), noise.detach(), self.noise)
        self.score = torch.where(better, score.detach(), self.score)
        self.excess = torch.where(better, excess.detach(), self.excess)
        return better


@dataclass(eq=False)
class Watch:
    """Keeps the best of a search on a smooth codec as the real, rounded one has it.

    The best of every few steps is coded as it will be; by how much the smooth codec's figures were wrong there is
    taken into account in what follows, so that bounds hold.
    """

    real: Problem
    quantise: Quantiser
    rate_quantise: Quantiser | None = None
    seen: Problem = field(init=False)
    """The problem with the clean figures that the smooth codec's are to be compared with."""
    best: Best = field(init=False)
    window: Best = field(init=False)
    steps: int = field(init=False, default=0)
    _plain: Coded = field(init=False)
    _latents: Tensor = field(init=False)
    _bpp: Tensor = field(init=False)
    _mse: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.best = Best.none(self.real.x)
        with torch.no_grad():
            self._plain = self.real.sketch(torch.zeros_like(self.real.x), self.quantise, self.rate_quantise)
        self._open()
        self._compare(self.real.clean)

    def worth_a_look(self, score: Tensor) -> Tensor:
        """Tell by scores (B,) which noises are worth a look at their other figure, for searches that need not have it.

        On the rate, files larger than one that breaks the bound as a rule break it by more.
        """
        if self.real.threat.target is Target.PSNR:
            return torch.ones_like(score, dtype=torch.bool)
        excess = self.window.excess
        return excess.isinf() | (excess == 0) | (score < self.window.score)

    def offer(self, noise: Tensor, figures: Coded, allowed: Tensor | None = None) -> Tensor:
        """Note a step; `allowed` (B,) tells which noises may be kept. Gives which pictures' best became better."""
        if allowed is None or bool(allowed.any()):  # else nobody need know the figures
            score = self.seen.score(figures)
            # what scores no more than a noise that holds the bound is not kept, whatever its other figure
            hopeful = (self.window.excess > 0) | (score > self.window.score)
            if allowed is not None:
                hopeful &= allowed
            if bool(hopeful.any()):
                self._keep(noise, figures, score, hopeful)
        self.steps += 1
        return self.settle() if self.steps % _WINDOW == 0 else torch.zeros_like(self.best.score, dtype=torch.bool)

    def _keep(self, noise: Tensor, figures: Coded, score: Tensor, allowed: Tensor) -> None:
        better = self.window.offer(noise, score, self.seen.excess(figures), allowed)
        self._latents = torch.where(better.reshape(-1, 1, 1, 1), figures.latents.detach(), self._latents)
        if self.real.threat.bounded:
            self._bpp = torch.where(better, figures.bpp.detach(), self._bpp)
            self._mse = torch.where(better, figures.mse.detach(), self._mse)

    @torch.no_grad()
    def settle(self) -> Tensor:
        """Code the best of the last steps as it will be; gives which pictures' best became better."""
        figures = self._coded()
        # the clean picture, with which windows begin, keeps every bound and is no attack
        found = self.window.score > -torch.inf
        better = self.best.offer(self.window.noise, self.real.score(figures), self.real.excess(figures), found)
        if self.real.threat.bounded:
            self._compare(figures)
        self._open()
        return better

    def _coded(self) -> Figures:
        real = self.real
        if bool(self.window.excess.isinf().all()):
            return real.clean
        if real.guide is real.victim:  # which has analysed it already
            return code_latents(real.victim, self._latents, real.x)
        return real.code(self.window.noise, round_straight_through)

    def _open(self) -> None:
        """Begin a window with the clean pictures, and what the smooth codec makes of them."""
        self.window = Best.none(self.real.x)
        self._bpp, self._mse, self._latents = self._plain.bpp, self._plain.mse, self._plain.latents

    def _compare(self, real: Figures) -> None:
        """Hold the smooth codec's figures of the window's best against the real ones."""
        clean = self.real.clean
        bpp, mse = (clean.bpp * self._bpp / real.bpp, clean.mse * self._mse / real.mse.clamp(min=_LEAST_ERROR))
        self.seen = replace(self.real, clean=Known(bpp, mse))
