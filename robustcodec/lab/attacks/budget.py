"""The budget of an attack: the mean square of its noise over all samples, in 8-bit pictures as they are read back.

Noise n (B, 3, H, W) belongs to pictures x in [0, 1]; epsilon bounds the mean of n^2 of each picture.
"""

import math

import torch
from torch import Tensor

LEVELS = 255
_BISECTIONS = 24
_DOUBLINGS = 24
_ORDER = 0


def energy(noise: Tensor) -> Tensor:
    """Mean square (B,) of each picture's noise."""
    return noise.square().mean((1, 2, 3))


def fit_l2(noise: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """Shrink noise into the ball of energy epsilon, then clip it so that x + noise lies in [0, 1].

    Clipping brings noise nearer to zero, so the result lies in both sets.
    """
    factor = (epsilon / energy(noise).clamp(min=1e-30)).sqrt().clamp(max=1.0)
    return torch.clamp(noise * factor.reshape(-1, 1, 1, 1), -x, 1 - x)


def fill_l2(noise: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """Bring noise to the length at which, clipped so that x + noise lies in [0, 1], it has energy epsilon.

    Clipping takes energy away, all of one sign's on white or black, so that the rest has to be longer. Where a picture
    does not leave room for so much, the noise takes all there is in its direction.
    """
    noise = noise * (epsilon / energy(noise)).sqrt().reshape(-1, 1, 1, 1)

    def grown(doublings: Tensor) -> Tensor:
        return torch.clamp(doublings.exp2().reshape(-1, 1, 1, 1) * noise, -x, 1 - x)

    low = torch.zeros(x.shape[0], device=x.device)
    high = torch.full_like(low, _DOUBLINGS)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        good = energy(grown(middle)) <= epsilon
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return grown(low)


def fit_linf(noise: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """Clip noise to +-sqrt(epsilon), which keeps its energy at most epsilon, and x + noise to [0, 1]."""
    radius = math.sqrt(epsilon)
    return torch.clamp(noise.clamp(-radius, radius), -x, 1 - x)


def to_levels(noise: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """Round x + noise to whole levels (uint8) whose distance from x keeps the budget, to the last level.

    Rounding adds energy: where it adds too much, a picture's noise is scaled down by as little as helps. Between that
    scale and the next that would be too much, samples are rounded up, in a fixed random order, as far as the budget
    goes: noise of one strength everywhere would lose a whole level otherwise. `x` holds whole levels divided by 255.
    """
    levels = (x * LEVELS).round()
    allowed = math.floor(epsilon * LEVELS**2 * x[0].numel())

    def moved(scale: Tensor) -> Tensor:
        target = (levels + scale.reshape(-1, 1, 1, 1) * noise * LEVELS).round().clamp(0, LEVELS)
        return (target - levels).double()

    high = torch.ones(x.shape[0], device=x.device)
    low = torch.where(moved(high).square().sum((1, 2, 3)) <= allowed, high, 0.0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        good = moved(middle).square().sum((1, 2, 3)) <= allowed
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    inner, outer = moved(low).flatten(1), moved(high).flatten(1)
    order = torch.randperm(inner.shape[1], generator=torch.Generator().manual_seed(_ORDER)).to(x.device)
    added = (outer.square() - inner.square())[:, order].cumsum(1)
    room = allowed - inner.square().sum(1, keepdim=True)
    taken = torch.zeros_like(added, dtype=torch.bool)
    taken[:, order] = added <= room
    steps = torch.where(taken, outer, inner).reshape(x.shape)
    return (levels + steps).to(torch.uint8)
