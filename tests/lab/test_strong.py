"""The strongest attack against codecs whose worst case is known."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from torch import Tensor

from robustcodec.images import read_picture
from robustcodec.lab.attacks.adaptive import Adaptive
from robustcodec.lab.attacks.budget import energy, fit_l2, to_levels
from robustcodec.lab.attacks.crossing import _choose, _Prices, _Start
from robustcodec.lab.attacks.problem import Problem
from robustcodec.lab.attacks.strong import Strong
from robustcodec.lab.attacks.threat import Target, Threat
from robustcodec.lab.attacks.victim import Victim, code, decibels, unrounded
from robustcodec.lab.networks import Quantiser, outside, softly_rounded

EPSILON = 5e-4
STEP = 0.13


class Linear:
    """x_hat = W x, with latents so fine that rounding them is nothing, and nothing is rounded."""

    FINE = 1e7

    def __init__(self, w: Tensor) -> None:
        self.w = w

    def analyse(self, x: Tensor) -> Tensor:
        return x * self.FINE

    def quantise(self, latents: Tensor, quantise: Quantiser) -> Tensor:
        return latents

    def zero_bins(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(()), torch.full((), 0.5)

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        return (symbols.flatten(1) / self.FINE @ self.w.T).reshape(symbols.shape)

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        return symbols.square().sum((1, 2, 3)) * 0 + 1.0


class Dear(Linear):
    """A linear codec whose rate grows along one direction: one bit per sample, and `slope` for each unit along it."""

    def __init__(self, w: Tensor, along: Tensor, slope: float) -> None:
        super().__init__(w)
        self.along = along
        self.slope = slope

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        moved = (symbols.flatten(1) / self.FINE - 0.5) @ self.along
        return symbols[0, 0].numel() * (1 + self.slope * moved)


class BlockDct:
    """The orthonormal 8x8 DCT of each channel, with one step for all coefficients."""

    def __init__(self, step: float) -> None:
        k = np.arange(8)
        basis = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / 16) * np.where(k[:, None] == 0, 0.5**0.5, 1) / 2
        self.basis = torch.from_numpy(basis)
        self.step = step

    def analyse(self, x: Tensor) -> Tensor:
        blocks = x.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, 3, h, w, 8, 8)
        coefficients = self.basis.to(x) @ blocks @ self.basis.to(x).T / self.step
        return coefficients.permute(0, 1, 4, 5, 2, 3).reshape(x.shape[0], 192, x.shape[2] // 8, x.shape[3] // 8)

    def quantise(self, latents: Tensor, quantise: Quantiser) -> Tensor:
        return quantise(latents)

    def zero_bins(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(()), torch.full((), 0.5)

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        coefficients = symbols.reshape(-1, 3, 8, 8, height // 8, width // 8).permute(0, 1, 4, 5, 2, 3) * self.step
        blocks = self.basis.to(symbols).T @ coefficients @ self.basis.to(symbols)
        return blocks.permute(0, 1, 2, 4, 3, 5).reshape(-1, 3, height, width)

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        return torch.log2(1 + symbols.square()).sum((1, 2, 3))


class Zoned(BlockDct):
    """Makes zero what is less than a whole step."""

    REACH = torch.tensor(1.0)

    def quantise(self, latents: Tensor, quantise: Quantiser) -> Tensor:
        return latents if quantise is unrounded else outside(latents, self.REACH, quantise)

    def zero_bins(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(()), self.REACH


class Dark(BlockDct):
    """Makes pictures darker, so that what is black stays black whatever noise it gets."""

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        return super().synthesise(symbols, height, width) - 0.1

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        return super().bits(latents, symbols, quantise) + 100


def problem_of(victim: Victim, x: Tensor, threat: Threat) -> Problem:
    with torch.no_grad():
        clean = code(victim, x, x)
    return Problem(victim, victim, x, threat, EPSILON, clean, torch.Generator().manual_seed(0))


def silent(step: int, scores: Tensor) -> None:
    pass


def test_it_finds_the_largest_singular_value_of_a_linear_codec() -> None:
    generator = torch.Generator().manual_seed(3)
    size = 3 * 8 * 8
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=generator))[0] for _ in range(2))
    w = left @ torch.diag(torch.linspace(0.2, 2.2, size)) @ right.T
    x = 0.5 + 0.05 * torch.randn(1, 3, 8, 8, generator=generator)
    # the nearest W that keeps x: a change of rank one
    flat = x.flatten()
    w = w + torch.outer(flat - w @ flat, flat) / flat.dot(flat)
    largest = float(torch.linalg.matrix_norm(w, 2)) ** 2
    problem = problem_of(Linear(w), x, Threat(Target.PSNR, bounded=False))
    noise = Strong(steps=400).search(problem, silent)
    assert float(energy(noise)) <= EPSILON * (1 + 1e-6)
    gain = float(((w @ (flat + noise.flatten())) - flat).square().mean()) / EPSILON
    assert 0.98 * largest <= gain <= largest * (1 + 1e-4)


@pytest.mark.parametrize("slope", [3.0, -3.0])
def test_it_finds_the_worst_noise_within_a_bound_that_forbids_the_worst_direction(slope: float) -> None:
    generator = torch.Generator().manual_seed(4)
    size = 3 * 8 * 8
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=generator))[0] for _ in range(2))
    w = left @ torch.diag(torch.linspace(0.2, 2.0, size)) @ right.T
    worst = torch.linalg.svd(w)[2][0]
    x = torch.full((1, 3, 8, 8), 0.5)
    flat = x.flatten()
    w = w + torch.outer(flat - w @ flat, flat) / flat.dot(flat)
    problem = problem_of(Dear(w, worst, slope), x, Threat(Target.PSNR))
    noise = Strong(steps=400).search(problem, silent).flatten()
    assert abs(slope * float(worst @ noise)) <= 0.05
    # noise along the worst direction may have so much of the budget, whose rest goes along the worst of the others
    others = torch.linalg.matrix_norm(w @ (torch.eye(size) - torch.outer(worst, worst)), 2) ** 2
    gain = float((w @ (flat + noise) - flat).square().mean()) / EPSILON
    assert gain >= 0.97 * float(others)


def test_crossings_keep_a_bound_at_both_ends() -> None:
    generator = torch.Generator().manual_seed(5)
    shape = (4, 3, 16, 16)  # (B, C, h, w)
    up, down = (
        _Prices(torch.rand(shape, generator=generator), torch.randn(shape, generator=generator)) for _ in range(2)
    )
    latents = torch.rand(shape, generator=generator) - 0.5
    start = _Start(latents, torch.zeros(shape), torch.zeros(()), torch.full((), 0.5), torch.ones(shape), latents)
    budget = torch.full((4,), 20.0)
    unforeseen = torch.tensor([0.0, 90.0, -90.0, 9.0])
    fall, rise = torch.full((4,), 6.0), torch.full((4,), 12.0)
    free = torch.full((4,), torch.inf)
    _, _, grown = _choose(up, down, start, budget, (free, free), unforeseen)
    assert float((grown + unforeseen).min()) < -6 and float((grown + unforeseen).max()) > 12
    chosen, towards, grown = _choose(up, down, start, budget, (fall, rise), unforeseen)
    ahead = torch.where(towards > 0, up.bounded, down.bounded) * chosen
    assert torch.allclose(ahead.sum((1, 2, 3)), grown, atol=1e-3)
    assert float(((start.cost(towards)) * chosen).sum((1, 2, 3)).max()) <= 20
    assert float((grown + unforeseen).min()) >= -6 and float((grown + unforeseen).max()) <= 12


@pytest.mark.parametrize("target", Target)
def test_a_picture_beside_it_changes_nothing_in_any_stage(target: Target) -> None:
    """Not even one that its codec keeps without any error, whose PSNR is infinite."""
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    black = torch.zeros_like(x)
    found = []
    scores: list[Tensor] = []
    for beside in (black, 1 - x):
        problem = problem_of(Dark(STEP), torch.cat([x, beside]), Threat(target))
        problem.generator.manual_seed(7)
        found.append(Strong(steps=60).search(problem, lambda step, score: scores.append(score)))
    assert torch.cat(scores).isfinite().all()
    assert torch.equal(found[0][0], found[1][0])
    assert float(energy(found[0])[0]) > 0.5 * EPSILON


def test_an_attack_on_the_rate_keeps_the_bound() -> None:
    x = (0.5 + 0.2 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))).round(decimals=2)
    victim = BlockDct(STEP)
    problem = problem_of(victim, x, Threat(Target.BPP))
    noise = Strong(steps=100).search(problem, silent)
    with torch.no_grad():
        figures = code(victim, to_levels(noise, x, EPSILON) / 255, x)
    assert abs(float(decibels(figures.mse) - decibels(problem.clean.mse))) <= 1
    assert float(figures.bpp) > 1.05 * float(problem.clean.bpp)


def test_restarts_take_the_steps_that_are_counted_whatever_they_begin_with() -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    problem = problem_of(BlockDct(STEP), x, Threat(Target.PSNR))
    seen: list[int] = []
    steps = 60
    Strong(steps=steps, restarts=4).search(problem, lambda step, score: seen.append(step))
    assert seen == sorted(set(seen))
    assert seen[-1] <= 4 * steps
    # other noise, paper, other noise, pgd: gradient steps one by one, then rounds of crossings
    for restart, climbing in ((0, 30), (1, 30 + 15), (2, 30), (3, 30 + 15)):
        first = restart * steps + 1
        assert seen[seen.index(first) :][:climbing] == list(range(first, first + climbing))


def greedy_gain(victim: BlockDct, x: Tensor) -> float:
    """A of a search that carries the coefficients nearest to a threshold just across it until the budget is spent.

    Crossing at distance c costs c^2 and adds 2 * step * c to the squared error. How far behind the threshold they
    have to be for rounding the picture to levels not to take them back is tried.
    """
    y = victim.analyse(x)
    distance = 0.5 - (y - y.round()).abs()
    gains = []
    for beyond in (0.0, 0.01, 0.02, 0.03, 0.05, 0.08):
        move = distance + beyond
        order = (2 * distance / move.square()).flatten().argsort(descending=True)
        spent = (move.flatten()[order] * STEP).square().cumsum(0)
        chosen = order[spent <= 0.99 * EPSILON * x.numel()]
        noise_of = torch.zeros(y.numel())
        noise_of[chosen] = (move * torch.where(y >= y.round(), 1.0, -1.0)).flatten()[chosen]
        attacked = victim.synthesise(y + noise_of.reshape(y.shape), 64, 64).clamp(0, 1)
        levels = (attacked * 255).round() / 255
        assert float(energy(levels - x)) <= EPSILON
        gains.append(float(code(victim, levels, x).mse - code(victim, x, x).mse) / EPSILON)
    return max(gains)


def part_of_the_sample() -> Tensor:
    picture = read_picture(files("robustcodec.data").joinpath("sample.png").read_bytes(), 2**24).pixels
    return torch.from_numpy(picture[192:256, 448:512].copy()).permute(2, 0, 1)[None] / 255


def test_gradients_see_what_dead_zones_make_zero() -> None:
    """The smooth codec behind this one keeps all noise as it is; what zones do to it is far more."""
    x = part_of_the_sample()
    problem = problem_of(Zoned(STEP), x, Threat(Target.PSNR, bounded=False))
    noise = fit_l2(0.01 * EPSILON**0.5 * problem.random_direction(), x, EPSILON)

    def gain(found: Tensor) -> float:
        with torch.no_grad():
            figures = code(problem.victim, to_levels(found, x, EPSILON) / 255, x)
        return float(figures.mse - problem.clean.mse) / EPSILON

    blind = Adaptive(steps=60, quantise=unrounded, rate_quantise=softly_rounded, stride=3.0, growth=0.06, prompt=0.3)
    assert gain(blind.search(problem, noise, silent).noise) < 0.5
    assert gain(Strong(steps=60)._climb(problem, noise, 60, silent)[-1].noise) > 2


def test_it_nearly_reaches_a_greedy_search_on_a_dct_codec() -> None:
    x = part_of_the_sample()
    victim = BlockDct(STEP)
    problem = problem_of(victim, x, Threat(Target.PSNR, bounded=False))
    assert 30 < float(decibels(problem.clean.mse)) < 34
    noise = Strong(steps=120).search(problem, silent)
    with torch.no_grad():
        figures = code(victim, to_levels(noise, x, EPSILON) / 255, x)
    found = float(figures.mse - problem.clean.mse) / EPSILON
    reference = greedy_gain(victim, x)
    assert reference > 3
    assert found >= 0.8 * reference, (found, reference)
