"""Losses as values: a loss takes a network and a batch and gives what to minimise, with figures for the log."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcodec.lab.networks import Network, Quantiser, round_straight_through
from robustcodec.lab.recipe import Recipe, Rounding
from robustcodec.rate import high_rate_step, lagrangian


@dataclass(frozen=True)
class Part:
    """Which rows of each batch are here: part `index`, from 0, of `count` equal ones."""

    index: int = 0
    count: int = 1

    def of(self, whole: Tensor) -> Tensor:
        """Give the rows that are here."""
        return whole.chunk(self.count)[self.index]


WHOLE = Part()


@dataclass(frozen=True)
class Batch:
    """Crops x (B, 3, H, W) in [0, 1] with the quantisation step (B,) and Lagrangian (B,) of each."""

    x: Tensor
    step: Tensor
    lagrangian: Tensor
    generator: torch.Generator
    """Source of all further randomness of this training step, on the device that trains."""
    rounding: Rounding
    strength: float = 1.0
    """Share of an attack's budget that this training step uses."""
    part: Part = WHOLE
    """The batch is this part of one that several processes share."""

    def random(self, draw: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        """Draw random numbers for each crop, (B, ...), which do not depend on how a batch is shared out."""
        device = self.generator.device
        whole = draw((shape[0] * self.part.count, *shape[1:]), generator=self.generator, device=device)
        return self.part.of(whole).to(self.x.device)

    def quantisers(self) -> tuple[Quantiser, Quantiser]:
        """Give the quantisers for rate and for distortion."""
        if self.rounding is Rounding.ROUND:
            return round_straight_through, round_straight_through

        def noise(values: Tensor) -> Tensor:
            return values + self.random(torch.rand, values.shape) - 0.5

        return noise, (noise if self.rounding is Rounding.NOISE else round_straight_through)


@dataclass(frozen=True)
class Terms:
    """A loss and its parts: each a scalar tensor."""

    loss: Tensor
    figures: dict[str, Tensor]


Loss = Callable[[Network, Batch], Terms]


def rate_distortion(network: Network, batch: Batch) -> Terms:
    """Bits per pixel + lambda * 255^2 * MSE, each crop divided by what its quality usually costs.

    J of well-trained models rises roughly as lambda^(1/2), that is, as the step falls; dividing by it keeps high
    qualities from outweighing low ones.
    """
    coded = network(batch.x, batch.step, *batch.quantisers())
    pixels = batch.x.shape[2] * batch.x.shape[3]
    bpp = coded.bits / pixels
    mse = (coded.x_hat - batch.x).square().mean((1, 2, 3))
    cost = bpp + batch.lagrangian * 255**2 * mse
    loss = (cost * batch.step).mean()
    figures = {
        "bpp": bpp.mean(),
        "bpp_z": coded.z_bits.mean() / pixels,
        "mse": mse.mean(),
        "cost": cost.mean(),
    }
    return Terms(loss, figures)


def draw_qualities(recipe: Recipe, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw steps and Lagrangians (count,) for a batch, by the rule lambda = lambda_4 / step^2."""
    low, high = high_rate_step(recipe.quality_high), high_rate_step(recipe.quality_low)
    random = torch.rand(count, generator=generator, device=generator.device)
    step = low * (high / low) ** random
    if recipe.quality_low <= 4 <= recipe.quality_high:
        step[: round(recipe.anchor_share * count)] = 1.0
    return step, lagrangian(4) / step.square()
