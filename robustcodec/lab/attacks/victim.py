"""A codec as an attacker sees it: differentiable, with latents in units of their quantisation step."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from robustcodec.lab.networks import Network, Quantiser, round_straight_through

_LATENT_STRIDE = 16


class Victim(Protocol):
    """What any attack needs of a codec; batches of pictures of one size, each with latents of its own."""

    def analyse(self, x: Tensor) -> Tensor:
        """Give the latents (B, C, h, w) of x (B, 3, H, W) in [0, 1], in units of their step, not rounded."""

    def quantise(self, latents: Tensor, quantise: Quantiser) -> Tensor:
        """Give what latents become by a quantiser, their symbols: if it rounds, what the codec makes of them."""

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        """Give the picture (B, 3, height, width) of symbols (or of anything near them), not clipped."""

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        """Give the code length (B,) in bits of the symbols; what else the latents say is quantised for it."""


class HyperVictim:
    """A network at one quantisation step, its parameters frozen."""

    def __init__(self, network: Network, step: float) -> None:
        self.network = network.requires_grad_(False).to(memory_format=torch.channels_last)
        self.step = step

    def analyse(self, x: Tensor) -> Tensor:
        """Pad as the codec does, by replication to whole latents, and analyse."""
        bottom, right = -x.shape[2] % _LATENT_STRIDE, -x.shape[3] % _LATENT_STRIDE
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        return self.network.analyse(x.contiguous(memory_format=torch.channels_last)) / self.step

    def quantise(self, latents: Tensor, quantise: Quantiser) -> Tensor:
        """Quantise in units of the step."""
        return self.network.quantised(latents, self._steps(latents), quantise)

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        """Synthesise and crop."""
        return self.network.synthesise(symbols * self.step)[:, :, :height, :width]

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        """Bits of y and z, of each at most what an escape code takes."""
        return self.network.bits_in_file(latents * self.step, symbols, self._steps(latents), quantise)

    def _steps(self, latents: Tensor) -> Tensor:
        return torch.full((latents.shape[0], 1, 1, 1), self.step, device=latents.device)


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

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        """Give the picture, float32."""
        with torch.autocast(symbols.device.type, torch.bfloat16):
            return self.victim.synthesise(symbols, height, width)

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        """Give the code length as the other does."""
        return self.victim.bits(latents, symbols, quantise)


@dataclass(frozen=True, eq=False)
class Figures:
    """What became of a batch: x_hat (B, 3, H, W) in [0, 1], and of each picture bpp and MSE to the clean one."""

    x_hat: Tensor
    bpp: Tensor
    mse: Tensor

    @property
    def psnr(self) -> Tensor:
        """PSNR (B,) in dB against the clean pictures."""
        return -10 * self.mse.log10()


def unrounded(latents: Tensor) -> Tensor:
    """Leave latents as they are: the smooth codec behind the real one."""
    return latents


def code(victim: Victim, adversarial: Tensor, clean: Tensor, quantise: Quantiser = round_straight_through) -> Figures:
    """Code pictures (B, 3, H, W); with the default quantiser the figures are those of the real codec's estimate."""
    latents = victim.analyse(adversarial)
    height, width = clean.shape[2:]
    symbols = victim.quantise(latents, quantise)
    x_hat = victim.synthesise(symbols, height, width).clamp(0, 1)
    bpp = victim.bits(latents, symbols, quantise) / (height * width)
    return Figures(x_hat, bpp, (x_hat - clean).square().mean((1, 2, 3)))
