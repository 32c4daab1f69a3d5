"""Threshold crossing: push latents just over the thresholds of rounding, which no gradient sees.

Rounding turns a small move of a latent past its threshold into a whole step of error. Each crossing has a gain (what
it adds to the score) and a cost (the energy of the noise that moves the latent so far). The best set within the
budget is a knapsack, filled in the order of gain per cost; the noise that moves exactly these latents is found by a
few steps through the analysis.

    gain of moving symbol i by d = +-1 = d * (slope of the score at symbol i) + (its curvature) / 2
    cost of moving latent i by c       = c^2 / (squared norm of row i of the analysis' Jacobian)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustcodec.lab.attacks.budget import LEVELS, energy, to_levels
from robustcodec.lab.attacks.problem import Best, Problem, Report
from robustcodec.lab.attacks.threat import BPP_BAND, PSNR_BAND, Target
from robustcodec.lab.attacks.victim import Figures, code_latents
from robustcodec.lab.networks import round_straight_through

STEPS_PER_ROUND = 7
"""What a round costs, in passes forward and backward through the whole codec."""

_PROBES = 4
"""Random signs behind each estimate; it is smoothed over neighbours, and more found nothing stronger."""
_PROBE_LENGTH = 1e-3
_BEYOND = 0.025
"""How far behind a threshold latents are put, in steps: rounding the picture to levels takes back less."""
_PULLS = 12
"""Steps through the analysis for each choice of latents."""
_NEARLY_ALL = 0.995
_FOLLOW = 0.25
_FIRST_SHARE, _ONLY_SHARE = 0.45, 0.75
"""Of the budget, to be spent by the sum of costs in the first of several rounds, and in an only one: what is overspent
is lost again when noise is shortened, what is left over is for later rounds."""
_BISECTIONS = 12
_LARGEST_MULTIPLIER = 30.0
_SAFE = 0.8
"""Share of a bound to aim at: what crossings do to it is foreseen roughly."""


@dataclass(frozen=True, eq=False)
class _Start:
    """Where crossings begin: latents (B, C, h, w) in steps, and for each what moving it costs and how it bends."""

    latents: Tensor
    symbols: Tensor
    middle: Tensor
    reach: Tensor
    row_energy: Tensor
    curvature: Tensor

    def distance(self, towards: Tensor) -> Tensor:
        """How far each latent is from where it has crossed the threshold above (+1) or below (-1) it."""
        coded = (self.symbols - self.middle) * towards
        # zeros end at their zone's edge, and so do the symbols next to them where they would become zeros
        edge = torch.where(coded.abs() < 0.5, self.reach, torch.where((coded + 1).abs() < 0.5, 1 - self.reach, 0.5))
        return edge + _BEYOND - towards * (self.latents - self.symbols)

    def cost(self, towards: Tensor) -> Tensor:
        """Energy of the noise that makes each latent cross, times the number of samples."""
        return self.distance(towards).square() / self.row_energy


@dataclass(frozen=True, eq=False)
class _Prices:
    """What crossing in one direction adds, for each latent: to what is attacked, and to what the threat bounds."""

    gain: Tensor
    bounded: Tensor


def cross(problem: Problem, base: Tensor, best: Best, rounds: int, report: Report) -> None:
    """Spend what `base` (B, 3, H, W) leaves of the budget on crossings, and offer what is found to `best`."""
    if not rounds:
        return
    start = _look(problem, base)
    samples = problem.x[0].numel()
    left = (problem.epsilon - energy(base)).clamp(min=0) * samples
    share = torch.full_like(left, _FIRST_SHARE if rounds > 1 else _ONLY_SHARE)
    with torch.no_grad():
        unforeseen = _bounded(problem, code_latents(problem.victim, start.latents, problem.x))
    noise = base
    paid: tuple[_Prices | None, _Prices | None] = (None, None)
    for index in range(rounds):
        with torch.no_grad():
            symbols = _rounded(problem, problem.victim.analyse(problem.x + noise))
        up, down = (_damped(new, old) for new, old in zip(_prices(problem, start, symbols), paid, strict=True))
        paid = (up, down)
        chosen, towards, foreseen = _choose(up, down, start, share * left, _allowances(problem), unforeseen)
        noise = _solve(problem, base, start, chosen, towards)
        # many crossings together do not cost the sum of each one's: learn the ratio
        spent = energy(noise) - energy(base)
        share = share * ((_NEARLY_ALL * problem.epsilon - energy(base)) / spent.clamp(min=1e-12)).clamp(0.5, 1.5)
        # whole levels at once: rounding them later would take some crossings back
        fitted = to_levels(noise, problem.x, problem.epsilon) / LEVELS - problem.x
        with torch.no_grad():
            figures = problem.code(fitted, round_straight_through)
        unforeseen = (unforeseen + _bounded(problem, figures) - foreseen) / 2
        best.offer(fitted, problem.score(figures), problem.excess(figures))
        report(STEPS_PER_ROUND * (index + 1), problem.score(figures))


def _look(problem: Problem, base: Tensor) -> _Start:
    with torch.no_grad():
        latents = problem.victim.analyse(problem.x + base)
        response = torch.zeros_like(latents)
        for _ in range(_PROBES):
            moved = problem.victim.analyse(problem.x + base + _PROBE_LENGTH * _signs(base, problem.generator))
            response += ((moved - latents) / _PROBE_LENGTH).square() / _PROBES
        symbols = _rounded(problem, latents)
        middle, reach = problem.victim.zero_bins(latents)
    shown = symbols.clone().requires_grad_()
    x_hat = problem.guide.synthesise(shown, *problem.x.shape[2:])
    curvature = torch.zeros_like(latents)
    for _ in range(_PROBES):
        (column,) = torch.autograd.grad(x_hat, shown, _signs(base, problem.generator), retain_graph=True)
        curvature += column.square() / _PROBES
    return _Start(latents, symbols, middle, reach, _smooth(response).clamp(min=1e-12), _smooth(curvature))


def _prices(problem: Problem, start: _Start, symbols: Tensor) -> tuple[_Prices, _Prices]:
    """Prices of crossing upwards and downwards from the start, given all other symbols as they are."""
    moved = symbols - start.symbols
    shown = symbols.clone().requires_grad_()
    x_hat = problem.guide.synthesise(shown, *problem.x.shape[2:])
    error = (x_hat.clamp(0, 1) - problem.x).detach()
    (slope,) = torch.autograd.grad(x_hat, shown, error)
    alone = slope - moved * start.curvature
    prices = []
    for towards in (1.0, -1.0):
        distortion = 2 * towards * alone + start.curvature
        # the slope half way is what a whole step costs, for a smooth code length
        half_way = (start.symbols + towards / 2).requires_grad_()
        bits = problem.victim.bits(start.latents, half_way, round_straight_through)
        (rate,) = torch.autograd.grad(bits.sum(), half_way)
        rate = towards * rate
        attacks_psnr = problem.threat.target is Target.PSNR
        prices.append(_Prices(distortion, rate) if attacks_psnr else _Prices(rate, distortion))
    return prices[0], prices[1]


def _damped(new: _Prices, old: _Prices | None) -> _Prices:
    """Let the prices of the bound follow slowly: they depend on all other crossings, which change every round."""
    if old is None:
        return new
    return _Prices(new.gain, torch.lerp(old.bounded, new.bounded, _FOLLOW))


def _allowances(problem: Problem) -> tuple[Tensor, Tensor]:
    """How far the bounded figure may fall and rise (B,), in the unit of its prices; infinite if nothing is bounded."""
    if not problem.threat.bounded:
        free = torch.full_like(problem.clean.bpp, torch.inf)
        return free, free
    if problem.threat.target is Target.PSNR:
        either = _SAFE * BPP_BAND * problem.clean.bpp * _pixels(problem)
        return either, either
    error, most = problem.clean.mse * problem.x[0].numel(), 10 ** (_SAFE * PSNR_BAND / 10)
    return (1 - 1 / most) * error, (most - 1) * error


def _bounded(problem: Problem, figures: Figures) -> Tensor:
    """How far the bounded figure has grown (B,), in the unit of its prices; 0 if nothing is bounded."""
    if not problem.threat.bounded:
        return torch.zeros(problem.x.shape[0], device=problem.x.device)
    if problem.threat.target is Target.PSNR:
        return (figures.bpp - problem.clean.bpp) * _pixels(problem)
    return (figures.mse - problem.clean.mse) * problem.x[0].numel()


def _pixels(problem: Problem) -> int:
    return problem.x.shape[2] * problem.x.shape[3]


def _choose(
    up: _Prices,
    down: _Prices,
    start: _Start,
    budget: Tensor,
    allowances: tuple[Tensor, Tensor],
    unforeseen: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill the knapsack: which latents cross (a mask), where to (+1 or -1), and how much the bounded figure grows.

    The bound enters as a multiplier on its prices, found by bisection: the smallest that keeps the bound, positive
    where the figure would rise too far, `unforeseen` (B,) added, and negative where it would fall too far.
    """
    plus = torch.ones_like(up.gain)
    costs = torch.stack([start.cost(plus), start.cost(-plus)]).flatten(2)
    gains = torch.stack([up.gain, down.gain]).flatten(2)
    growths = torch.stack([up.bounded, down.bounded]).flatten(2)
    # nobody knows where a dithered latent crosses
    known = (start.reach > 0).expand_as(up.gain).flatten(1)

    def fill(multiplier: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        merit = (gains - multiplier[:, None] * growths) / costs * known
        ratio, which = merit.max(dim=0)
        cost = costs.gather(0, which[None])[0]
        order = ratio.argsort(dim=1, descending=True)
        keep = (cost.gather(1, order).cumsum(1) <= budget[:, None]) & (ratio.gather(1, order) > 0)
        chosen = torch.zeros_like(keep).scatter(1, order, keep)
        return chosen, which, (growths.gather(0, which[None])[0] * chosen).sum(1)

    scale = gains.abs().mean((0, 2)) / growths.abs().mean((0, 2)).clamp(min=1e-30)
    low, high = torch.zeros_like(budget), _LARGEST_MULTIPLIER * scale
    growth = fill(low)[2] + unforeseen
    side = torch.where(growth < 0, -1.0, 1.0)
    allowed = torch.where(growth < 0, *allowances)
    high = torch.where(side * growth <= allowed, 0.0, high)
    for _ in range(_BISECTIONS if bool((high > 0).any()) else 0):
        middle = (low + high) / 2
        holds = side * (fill(side * middle)[2] + unforeseen) <= allowed
        low, high = torch.where(holds, low, middle), torch.where(holds, middle, high)
    chosen, which, growth = fill(side * high)
    shape = up.gain.shape
    return chosen.reshape(shape), 1.0 - 2.0 * which.reshape(shape), growth


def _solve(problem: Problem, base: Tensor, start: _Start, chosen: Tensor, towards: Tensor) -> Tensor:
    """Find the least noise that makes the chosen latents cross: Landweber's iteration from `base`."""
    aim = start.latents + towards * start.distance(towards)
    noise = base
    for _ in range(_PULLS):
        moving = noise.detach().requires_grad_()
        latents = problem.victim.analyse(problem.x + moving)
        missing = ((aim - latents.detach()) * towards).clamp(min=0) * towards * chosen / start.row_energy
        (pull,) = torch.autograd.grad(latents, moving, missing)
        noise = torch.clamp(noise + pull, -problem.x, 1 - problem.x)
    return noise


def _rounded(problem: Problem, latents: Tensor) -> Tensor:
    return problem.victim.quantise(latents, round_straight_through)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1


def _smooth(values: Tensor) -> Tensor:
    """Average an estimate over neighbours of one channel, where it varies little."""
    return F.avg_pool2d(values, 5, stride=1, padding=2, count_include_pad=False)
