"""A codec as an attacker sees it: differentiable, with latents in units of their quantisation step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from robustcodec.lab.entropy_models import Price, gaussian_price
from robustcodec.lab.networks import DeadZones, Network, Quantiser, round_straight_through

_LATENT_STRIDE = 16
_PART_PIXELS = 1 << 18
"""Pixels that a CPU codes at once, four crops of 256: more take longer, since what layers hand on outgrows caches."""


class Victim(Protocol):
    """What any attack needs of a codec; batches of pictures of one size, each with latents of its own."""

    def analyse(self, x: Tensor) -> Tensor:
        """Give the latents (B, C, h, w) of x (B, 3, H, W) in [0, 1], in units of their step, not rounded."""

    def quantise(self, latents: Tensor, quantise: Quantiser) -> Tensor:
        """Give what latents become by a quantiser, their symbols: if it rounds, what the codec makes of them."""

    def zero_bins(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Give the middles of what becomes zero, and its half widths: of the latents' shape, or one for all.

        The half width is 0 where latents are dithered.
        """

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        """Give the picture (B, 3, height, width) of symbols (or of anything near them), not clipped."""

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        """Give the code length (B,) in bits of the symbols; what else the latents say is quantised for it."""


def within_zones(
    network: Network, latents: Tensor, step: Tensor, quantise: Quantiser, dead_zones: DeadZones | None
) -> Tensor:
    """Quantise latents as an encoder with dead zones or dither; the smooth codec behind the real one has none."""
    return network.quantised(latents, step, quantise, None if quantise is unrounded else dead_zones)


class NetworkVictim:
    """A network at one quantisation step, its parameters frozen.

    `price` is what symbols take in its files, `dead_zones` are its encoder's; without any it just rounds.
    """

    def __init__(
        self, network: Network, step: float, price: Price = gaussian_price, dead_zones: DeadZones | None = None
    ) -> None:
        self.network = network.requires_grad_(False).to(memory_format=torch.channels_last)
        self.step = step
        self.price = price
        self.dead_zones = dead_zones

    def analyse(self, x: Tensor) -> Tensor:
        """Pad as the codec does, by replication to whole latents, and analyse."""
        bottom, right = -x.shape[2] % _LATENT_STRIDE, -x.shape[3] % _LATENT_STRIDE
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        return _in_parts(self.network.analyse, x, x[0, 0].numel()) / self.step

    def quantise(self, latents: Tensor, quantise: Quantiser) -> Tensor:
        """Quantise in units of the step."""
        return within_zones(self.network, latents, self._steps(latents), quantise, self.dead_zones)

    def zero_bins(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Give the zones, or what rounds to zero."""
        return self.network.zero_bins(latents, self._steps(latents), self.dead_zones)

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        """Synthesise and crop."""
        return _in_parts(self.network.synthesise, symbols * self.step, height * width)[:, :, :height, :width]

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        """Bits of y and z, of each at most what an escape code takes."""
        # prices of whole symbols say nothing of latents that stay below their threshold
        price = gaussian_price if quantise is unrounded else self.price
        return self.network.bits_in_file(latents * self.step, symbols, self._steps(latents), quantise, price)

    def _steps(self, latents: Tensor) -> Tensor:
        return torch.full((latents.shape[0], 1, 1, 1), self.step, device=latents.device)


def _in_parts(transform: Callable[[Tensor], Tensor], batch: Tensor, pixels: int) -> Tensor:
    """Transform pictures of so many pixels each, or their latents, as many at once as is best."""
    if batch.device.type != "cpu":
        return transform(batch)
    return torch.cat([transform(part) for part in torch.split(batch, max(1, _PART_PIXELS // pixels))])


@dataclass(frozen=True, eq=False)
class Rough:
    """Another victim in bfloat16: about half the time on CPUs that have it, and gradients as strong.

    Not for anything that is rounded: latents are off by some hundredths of a step.
    """

    victim: Victim

    def analyse(self, x: Tensor) -> Tensor:
        """Give latents of the other's shape and unit, float32."""
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.victim.analyse(x)

    def quantise(self, latents: Tensor, quantise: Quantiser) -> Tensor:
        """Quantise as the other does."""
        return self.victim.quantise(latents, quantise)

    def zero_bins(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Give what becomes zero as the other does."""
        return self.victim.zero_bins(latents)

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        """Give the picture, float32."""
        with torch.autocast(symbols.device.type, torch.bfloat16):
            return self.victim.synthesise(symbols, height, width)

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        """Give the code length as the other does."""
        return self.victim.bits(latents, symbols, quantise)


class Figures(Protocol):
    """What became of a batch: of each picture the bits per pixel and the MSE to the clean one, both (B,)."""

    @property
    def bpp(self) -> Tensor:
        """Bits per pixel (B,)."""

    @property
    def mse(self) -> Tensor:
        """MSE (B,) of pictures in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Known:
    """Figures that are there."""

    bpp: Tensor
    mse: Tensor


@dataclass(frozen=True, eq=False)
class Coded:
    """Figures of latents (B, C, h, w), each computed when it is first asked for, then with gradients or without.

    The rate and the picture cost as much as the analysis together, and many a step of a search needs but one of them.
    """

    victim: Victim
    latents: Tensor
    clean: Tensor
    quantise: Quantiser
    rate_quantise: Quantiser
    """What the rate sees of the latents; as a rule what the picture is made of."""

    @cached_property
    def symbols(self) -> Tensor:
        """The latents quantised."""
        return self.victim.quantise(self.latents, self.quantise)

    @cached_property
    def x_hat(self) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1]."""
        return self.victim.synthesise(self.symbols, *self.clean.shape[2:]).clamp(0, 1)

    @cached_property
    def bpp(self) -> Tensor:
        """Bits per pixel (B,)."""
        same = self.rate_quantise is self.quantise
        symbols = self.symbols if same else self.victim.quantise(self.latents, self.rate_quantise)
        return self.victim.bits(self.latents, symbols, self.rate_quantise) / self.clean[0, 0].numel()

    @cached_property
    def mse(self) -> Tensor:
        """MSE (B,) to the clean pictures."""
        return (self.x_hat - self.clean).square().mean((1, 2, 3))


def unrounded(latents: Tensor) -> Tensor:
    """Leave latents as they are: the smooth codec behind the real one."""
    return latents


def decibels(mse: Tensor) -> Tensor:
    """PSNR (B,) in dB of an MSE (B,)."""
    return -10 * mse.log10()


def code(
    victim: Victim,
    adversarial: Tensor,
    clean: Tensor,
    quantise: Quantiser = round_straight_through,
    rate_quantise: Quantiser | None = None,
) -> Coded:
    """Code pictures (B, 3, H, W); with the default quantiser the figures are those of the real codec's estimate.

    The rate goes through `rate_quantise` if there is one.
    """
    return Coded(victim, victim.analyse(adversarial), clean, quantise, rate_quantise or quantise)


def code_latents(victim: Victim, latents: Tensor, clean: Tensor) -> Coded:
    """Code latents (B, C, h, w), in units of their step, as the real codec does."""
    return Coded(victim, latents, clean, round_straight_through, round_straight_through)
