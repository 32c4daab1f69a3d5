"""The strongest attack against codecs whose worst case is known."""

import numpy as np
import torch
from torch import Tensor

from robustcodec.images import read_picture
from robustcodec.lab.attacks.budget import energy, to_levels
from robustcodec.lab.attacks.problem import Problem
from robustcodec.lab.attacks.strong import Strong
from robustcodec.lab.attacks.threat import Target, Threat
from robustcodec.lab.attacks.victim import Victim, code, decibels
from robustcodec.lab.networks import Quantiser

EPSILON = 5e-4
STEP = 0.13


class Linear:
    """x_hat = W x, with latents so fine that rounding them is nothing."""

    FINE = 1e7

    def __init__(self, w: Tensor) -> None:
        self.w = w

    def analyse(self, x: Tensor) -> Tensor:
        return x * self.FINE

    def quantise(self, latents: Tensor, quantise: Quantiser) -> Tensor:
        return quantise(latents)

    def zero_bins(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(()), torch.full((), 0.5)

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        return (symbols.flatten(1) / self.FINE @ self.w.T).reshape(symbols.shape)

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        return symbols.square().sum((1, 2, 3)) * 0 + 1.0


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


def test_restarts_take_the_steps_that_are_counted_whatever_they_begin_with() -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    problem = problem_of(BlockDct(STEP), x, Threat(Target.PSNR))
    seen: list[int] = []
    steps = 60
    Strong(steps=steps, restarts=4).search(problem, lambda step, score: seen.append(step))
    assert seen == sorted(set(seen))
    assert seen[-1] <= 4 * steps
    # other noise, paper, other noise, pgd: gradient steps one by one, then rounds of crossings
    for restart, climbing in ((0, 36), (1, 30 + 18), (2, 36), (3, 30 + 18)):
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


def test_it_nearly_reaches_a_greedy_search_on_a_dct_codec() -> None:
    from importlib.resources import files

    picture = read_picture(files("robustcodec.data").joinpath("sample.png").read_bytes(), 2**24).pixels
    x = torch.from_numpy(picture[192:256, 448:512].copy()).permute(2, 0, 1)[None] / 255
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
