"""Controls: changes of the budget's energy that follow no gradient. An attack weaker than these is broken."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustcodec.lab.attacks.budget import LEVELS, fill_l2
from robustcodec.lab.attacks.problem import Problem, Report


@dataclass(frozen=True)
class Noise:
    """Gaussian or uniform noise."""

    steps: ClassVar[int] = 1
    uniform: bool = False

    def search(self, problem: Problem, report: Report) -> Tensor:
        """Draw the noise (B, 3, H, W)."""
        noise = problem.random_direction()
        if self.uniform:
            noise = torch.rand(problem.x.shape, generator=problem.generator).to(problem.x.device) - 0.5
        report(1, torch.zeros(problem.x.shape[0]))
        return fill_l2(noise, problem.x, problem.epsilon)


@dataclass(frozen=True)
class Offset:
    """One whole number of levels added to each channel: as much as the budget allows, away from the nearer end.

    No codec that keeps brightness can answer it, so its gain A is 1 but for clipping.
    """

    steps: ClassVar[int] = 1

    def search(self, problem: Problem, report: Report) -> Tensor:
        """Give the noise (B, 3, H, W), constant in each channel."""
        offsets = torch.tensor(channel_offsets(problem.epsilon), device=problem.x.device) / LEVELS
        middle = problem.x.mean((2, 3), keepdim=True)
        sign = torch.where(middle > 0.5, -1.0, 1.0)
        report(1, torch.zeros(problem.x.shape[0]))
        noise = (sign * offsets.reshape(1, -1, 1, 1)).expand_as(problem.x)
        return torch.clamp(noise, -problem.x, 1 - problem.x)


def channel_offsets(epsilon: float) -> tuple[int, int, int]:
    """Largest whole offsets, in levels, of three channels within the budget: 6, 6 and 5 at 5e-4."""
    allowed = int(3 * epsilon * LEVELS**2)
    base = int((allowed / 3) ** 0.5)
    offsets = [base] * 3
    for channel in range(3):
        if sum(value**2 for value in offsets) - base**2 + (base + 1) ** 2 <= allowed:
            offsets[channel] = base + 1
    return offsets[0], offsets[1], offsets[2]
