"""A search without gradients: SimBA-DCT (Guo and others 2019, arXiv 1905.07121), on the rounded codec.

Whatever hides gradients does not hide results. If this finds more than a search that climbs on gradients does, theirs
are masked.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcodec.lab.attacks.budget import fit_l2
from robustcodec.lab.attacks.problem import Best, Problem, Report
from robustcodec.lab.networks import round_straight_through

_LOW = 8
"""Directions are the lowest 1/8 of the frequencies of each axis."""
_FILL = 4
"""Steps would fill the budget this many times if each were kept."""


@dataclass(frozen=True, kw_only=True)
class Simba:
    """Try each direction of a random order in one sense and in the other, and keep what raises the score."""

    steps: int
    """Pictures that the codec is shown."""

    @torch.no_grad()
    def search(self, problem: Problem, report: Report) -> Tensor:
        """Give the best noise (B, 3, H, W)."""
        best = Best.none(problem.x)
        best.offer(best.noise, problem.score(problem.clean), problem.excess(problem.clean))
        length = math.sqrt(_FILL * problem.epsilon * problem.x[0].numel() / self.steps)
        for step, direction in zip(range(1, self.steps + 1), _directions(problem), strict=False):
            noise = fit_l2(best.noise + length * direction, problem.x, problem.epsilon)
            figures = problem.code(noise, round_straight_through)
            best.offer(noise, problem.score(figures), problem.excess(figures))
            report(step, best.score)
        return best.noise


def _directions(problem: Problem) -> Iterator[Tensor]:
    """Give low frequencies (3, H, W) of unit length in random order, each followed by its opposite, without end."""
    channels, height, width = problem.x.shape[1:]
    rows, columns = math.ceil(height / _LOW), math.ceil(width / _LOW)
    while True:
        for index in torch.randperm(channels * rows * columns, generator=problem.generator).tolist():
            channel, place = divmod(index, rows * columns)
            row, column = divmod(place, columns)
            direction = torch.zeros_like(problem.x[0])
            direction[channel] = torch.outer(_cosine(height, row), _cosine(width, column))
            yield direction
            yield -direction


def _cosine(length: int, frequency: int) -> Tensor:
    """Give a basis vector (length,) of the orthonormal DCT-II."""
    wave = torch.cos(math.pi * (torch.arange(length) + 0.5) * frequency / length)
    return wave * math.sqrt((1 if frequency == 0 else 2) / length)
