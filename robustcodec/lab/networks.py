"""What differentiable networks have in common, with CompressAI's parameter names so that checkpoints pass both ways.

Legend (the field's letters, used inside this file and the state dict only):
g_a analysis, g_s synthesis, h_a hyper analysis, h_s hyper synthesis, y latents, z side information.

        x --g_a--> y --|.|--h_a--> z --round--> z_hat --h_s--> scales of y
                   y --round(y/step)*step--> y_hat --g_s--> x_hat
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustcodec.dither import OFFSETS
from robustcodec.errors import TrainingError
from robustcodec.graphs import UNLIMITED
from robustcodec.lab.entropy_models import FactorizedPrior, Price, escaped, gaussian_bits, gaussian_price, lower_bound
from robustcodec.lab.gdn import normalise

LIMIT = ".limit"
"""How the names of limits end, which no network of CompressAI has."""

Quantiser = Callable[[Tensor], Tensor]
"""Maps latents in units of their step to quantised (or noisy) latents of the same shape."""


def round_straight_through(values: Tensor) -> Tensor:
    """Round to integers; the gradient passes as if nothing had happened."""
    return values + (values.round() - values).detach()


def uniform_noise(generator: torch.Generator) -> Quantiser:
    """Make the additive noise in [-1/2, 1/2) that stands for rounding while training (Ballé 2017)."""

    def add(values: Tensor) -> Tensor:
        noise = torch.rand(values.shape, generator=generator, device=generator.device)
        return values + noise.to(values.device) - 0.5

    return add


def soft_rounding(steepness: float) -> Quantiser:
    """Make a curve through whole and half numbers that is flat near the whole (Agustsson and Theis 2020)."""
    height = 2 * math.tanh(steepness / 2)

    def soften(values: Tensor) -> Tensor:
        middle = values.detach().floor() + 0.5
        return middle + torch.tanh(steepness * (values - middle)) / height

    return soften


softly_rounded: Quantiser = soft_rounding(4.0)
"""A curve between rounding and none: the codec behind the real one as attacks on the rate climb on it.

The rate without rounding counts each latent that is about to become a symbol, though most of them never do; with
rounding it is flat where a symbol is sure to be zero. Of steepnesses, `strong` finds most on hyper-base with 2 to 3, on
its first hardened versions with 5.
"""

DeadZones = Callable[[Tensor], Tensor]
"""Gives for scales, in units of the step, the magnitude below which an encoder makes a latent zero.

It is 0 where latents are dithered: what becomes of one is nothing that its value tells."""


def outside(values: Tensor, reach: Tensor, quantise: Quantiser) -> Tensor:
    """Quantise values (B, ...), zero within the dead zones of half width `reach`, one for all or of their shape.

    What stands for rounding without being flat sees zones stretched to what rounding makes zero anyway. Dithered values
    are rounded on grids of their own; on average that leaves them as they are, and so does the soft curve.
    """
    magnitude, dithered = values.abs(), reach == 0
    if quantise is round_straight_through:
        grid = dither_offsets(values)
        rounded = torch.where(dithered, (values - grid).round() + grid, values.round())
        return values + (torch.where(magnitude < reach, 0, rounded) - values).detach()
    reach = torch.where(dithered, 0.5, reach)
    beyond = torch.minimum(0.5 + (magnitude - reach) * (reach + 0.5), magnitude)
    stretched = torch.copysign(torch.where(magnitude < reach, magnitude / (2 * reach), beyond), values)
    quantised = quantise(stretched)
    return torch.where(dithered, values, quantised) if quantise is softly_rounded else quantised


@torch.no_grad()
def dither_offsets(values: Tensor) -> Tensor:
    """Draw an offset of the codec's dither for each of values (B, ...), in steps, by a hash of all of a picture's.

    As in the codec another picture has other offsets. The codec's own come of a hash of pixels; these change with the
    last bit of any value, so that one picture has the same only where arithmetic gives the same bits.
    """
    bits = values.detach().float().contiguous().view(torch.int32).reshape(values.shape[0], -1).long()
    places = torch.arange(bits.shape[1], device=values.device)
    # the end of MurmurHash3 and SplitMix64's step; products wrap
    mixed = places * -0x61C8864680B583EB + (bits * (2 * places + 1)).sum(1, keepdim=True)
    for factor in (-0xAE502812AA7333, -0x3B314601E57A13AD):
        mixed = (mixed ^ (mixed >> 33)) * factor
    number = (mixed >> 40) & (OFFSETS - 1)
    return ((2 * number - (OFFSETS - 1)) / (2 * OFFSETS)).to(values.dtype).reshape(values.shape)


@dataclass(frozen=True)
class Coded:
    """What a network makes of a batch: the picture it would decode and what it would cost.

    x_hat (B, 3, H, W) nominally in [0, 1] but not clipped; y_bits and z_bits (B,) in bits.
    """

    x_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor

    @property
    def bits(self) -> Tensor:
        """Bits of y and z together, (B,)."""
        return self.y_bits + self.z_bits


class Gdn(nn.Module):
    """Generalised divisive normalisation, or its inverse (Ballé 2016, equation 3 with exponents 2 and 1/2).

    `beta` and `gamma` hold the square roots of the real parameters plus 2**-36, as CompressAI stores them. The inverse
    multiplies by a root that grows with what it multiplies, so that what is larger than in any photograph grows as its
    square. `limit` (C,) is the most that it multiplies a channel by; CompressAI has no such thing.
    """

    limit: Tensor
    _PEDESTAL = 2.0**-36
    _BETA_MIN = 1e-6

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.empty(channels))
        self.gamma = nn.Parameter(torch.empty(channels, channels))
        self.set_parameters(torch.ones(channels), 0.1 * torch.eye(channels))
        if inverse:
            self.register_buffer("limit", torch.full((channels,), UNLIMITED))

    def parameters_in_use(self) -> tuple[Tensor, Tensor]:
        """Give the real beta (C,) and gamma (C, C), out of the stored square roots."""
        beta = lower_bound(self.beta, (self._BETA_MIN + self._PEDESTAL) ** 0.5) ** 2 - self._PEDESTAL
        gamma = lower_bound(self.gamma, self._PEDESTAL**0.5) ** 2 - self._PEDESTAL
        return beta, gamma

    @property
    def limited(self) -> bool:
        """Whether what it multiplies by has a limit."""
        return self.inverse and bool((self.limit < UNLIMITED).any())

    @torch.no_grad()
    def set_parameters(self, beta: Tensor, gamma: Tensor) -> None:
        """Store real, non-negative beta (C,) and gamma (C, C)."""
        self.beta.copy_((beta + self._PEDESTAL).sqrt())
        self.gamma.copy_((gamma + self._PEDESTAL).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W)."""
        beta, gamma = self.parameters_in_use()
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            if not self.inverse:
                return normalise(x.to(dtype), beta.to(dtype), gamma.to(dtype), -0.5)
            return normalise(x.to(dtype), beta.to(dtype), gamma.to(dtype), 0.5, self.limit.square().to(dtype))


Convolution = nn.Conv2d | nn.ConvTranspose2d


def convolutions(module: nn.Sequential) -> list[Convolution]:
    """Give the convolutions of a network in order."""
    return [layer for layer in module if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]


def bias(layer: Convolution) -> Tensor:
    """Give the bias of a convolution, which all of ours have."""
    assert layer.bias is not None
    return layer.bias


class Network(nn.Module):
    """What all architectures have in common: a hyperprior, and a quantisation step per picture.

    N channels inside, M channels of y. y is (B, M, H/16, W/16), z (B, N, H/64, W/64). What y is quantised to is
    called its symbols, in units of the step; they are whole numbers only where an architecture has no means.
    """

    arch: str
    SIGNS: tuple[str, str]
    """Parameters by which a state dict is known to be for this architecture; their first sides are N and M."""
    RATE_SHARE = 1.0
    """Learning rates, in terms of hyper's."""
    DIVIDED: tuple[str, ...]
    """Layers whose weights and biases a network without a quantisation step has divided by it; see `interop`."""
    MULTIPLIED: tuple[str, ...]
    """Layers whose weights it has multiplied by it."""
    stride = 64
    g_a: nn.Sequential
    g_s: nn.Sequential
    h_a: nn.Sequential
    h_s: nn.Sequential
    entropy_bottleneck: FactorizedPrior

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.n, self.m = n, m

    def analyse(self, x: Tensor) -> Tensor:
        """Give y of x (B, 3, H, W) in [0, 1]; float32 whatever the autocast, since y is to be rounded."""
        return in_own_type(self.g_a[-1], self.g_a[:-1](x))

    def synthesise(self, y_hat: Tensor) -> Tensor:
        """Give x_hat (B, 3, H, W) of y_hat."""
        x_hat: Tensor = self.g_s[1:](in_own_type(self.g_s[0], y_hat)).to(y_hat.dtype)
        return x_hat

    def side_information(self, y: Tensor) -> Tensor:
        """Give z (B, N, h/4, w/4) of y (B, M, h, w), not rounded."""
        raise NotImplementedError

    def quantised(
        self, latents: Tensor, step: Tensor, quantise: Quantiser, dead_zones: DeadZones | None = None
    ) -> Tensor:
        """Give the symbols of latents (B, M, h, w), y in units of the steps `step` (B, 1, 1, 1)."""
        raise NotImplementedError

    def zero_bins(self, latents: Tensor, step: Tensor, dead_zones: DeadZones | None) -> tuple[Tensor, Tensor]:
        """Give the middles of what an encoder makes zero of latents, as for `quantised`, and its half widths, in steps.

        Of the latents' shape, or one for all; without dead zones the half width is what rounds to zero.
        """
        raise NotImplementedError

    def gaussians(self, z_hat: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Give means and scales of y, (B, M, h, w) or one for all, by what z_hat and earlier elements of y_hat say."""
        raise NotImplementedError

    def start(self, crops: Tensor, generator: torch.Generator) -> None:
        """Set the weights to an orthonormal start measured on crops (B, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def check_start(self, trained: "Network") -> None:
        """Raise TrainingError unless the weights can be set from a trained network of another architecture."""
        raise TrainingError(
            f"a {self.arch} network cannot begin with a {trained.arch} network; give weights of {self.arch}, or "
            f"--arch {trained.arch}"
        )

    def start_from(self, trained: "Network", crops: Callable[[int], Tensor], generator: torch.Generator) -> None:
        """Set the weights from a trained network of another architecture, measured on as many crops as are asked for.

        Raises TrainingError where that cannot be.
        """
        self.check_start(trained)
        raise NotImplementedError

    def in_compressai(self, models: ModuleType) -> Any:
        """Make CompressAI's network of this architecture and size, of its module `compressai.models`."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, step: Tensor, rate: Quantiser, distortion: Quantiser, dead_zones: DeadZones | None = None
    ) -> Coded:
        """Code x (B, 3, H, W) at the quantisation steps `step` (B,).

        `rate` quantises what the code length is measured on, `distortion` what the picture is made from.
        """
        y = self.analyse(x)
        return self.code(y, step, rate, distortion, dead_zones)

    def code(
        self, y: Tensor, step: Tensor, rate: Quantiser, distortion: Quantiser, dead_zones: DeadZones | None = None
    ) -> Coded:
        """Code latents y (B, M, h, w): everything that follows the analysis."""
        step = step.reshape(-1, 1, 1, 1)
        symbols = self.quantised(y / step, step, rate, dead_zones)
        same = distortion is rate
        y_hat = (symbols if same else self.quantised(y / step, step, distortion, dead_zones)) * step
        y_bits, z_bits = self.bits(y, symbols, step, rate)
        return Coded(self.synthesise(y_hat), y_bits, z_bits)

    def code_length(self, y: Tensor, step: Tensor, quantise: Quantiser) -> tuple[Tensor, Tensor]:
        """Bits (B,) of latents y (B, M, h, w) at the steps (B,), and of their z, without making a picture."""
        step = step.reshape(-1, 1, 1, 1)
        return self.bits(y, self.quantised(y / step, step, quantise), step, quantise)

    def bits(self, y: Tensor, symbols: Tensor, step: Tensor, quantise: Quantiser) -> tuple[Tensor, Tensor]:
        """Bits (B,) of y's symbols and of z."""
        y_bits, z_bits, _ = self.bits_of_each(y, symbols, step, quantise)
        return y_bits.sum((1, 2, 3)), z_bits.sum((1, 2, 3))

    def bits_in_file(
        self, y: Tensor, symbols: Tensor, step: Tensor, quantise: Quantiser, price: Price = gaussian_price
    ) -> Tensor:
        """Bits (B,) of y's symbols and z together, of each at most what an escape code takes."""
        y_bits, z_bits, z_symbols = self.bits_of_each(y, symbols, step, quantise, price)
        return y_bits.sum((1, 2, 3)) + escaped(z_bits, z_symbols).sum((1, 2, 3))

    def bits_of_each(
        self, y: Tensor, symbols: Tensor, step: Tensor, quantise: Quantiser, price: Price = gaussian_bits
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bits of each of y's symbols (B, M, h, w) and of each element of z (B, N, h/4, w/4), and z's symbols."""
        with torch.autocast(y.device.type, enabled=False):
            z_hat = self.quantised_side(y, quantise)
            z_bits = self.entropy_bottleneck.bits(z_hat)
            means, scales = self.gaussians(z_hat, symbols * step)
            y_bits = price(symbols - means / step, scales / step)
        return y_bits, z_bits, z_hat - self.entropy_bottleneck.medians()

    def quantised_side(self, y: Tensor, quantise: Quantiser) -> Tensor:
        """Give z_hat (B, N, h/4, w/4) of y (B, M, h, w)."""
        medians = self.entropy_bottleneck.medians()
        return quantise(self.side_information(y) - medians) + medians


def in_own_type(layer: nn.Module, values: Tensor) -> Tensor:
    """Apply a layer outside autocast: latents in bfloat16 would be coarser than their quantiser."""
    with torch.autocast(values.device.type, enabled=False):
        result: Tensor = layer(values.to(next(layer.parameters()).dtype))
    return result
