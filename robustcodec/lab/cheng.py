"""Cheng 2020's anchor as a differentiable network, with CompressAI's parameter names (Cheng2020Anchor).

        x --g_a--> y --h_a--> z --round--> z_hat --h_s--> side ------------\
                   y_hat of latents before, in raster order --context--------entropy parameters--> means and scales
                   y_hat = round((y - mean) / step) * step + mean --g_s--> x_hat
"""

from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustcodec.architectures.wavefront import TAPS, fronts
from robustcodec.errors import TrainingError
from robustcodec.lab.entropy_models import FactorizedPrior
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.networks import (
    DeadZones,
    Gdn,
    Network,
    Quantiser,
    bias,
    outside,
    round_straight_through,
    softly_rounded,
)


@lru_cache(maxsize=16)  # nothing may be copied to a GPU while it records a graph
def _fronts(height: int, width: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    """Give rows and columns of the latents of each front."""
    each = ((front.rows, front.columns) for front in fronts(height, width))
    return tuple((torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)) for rows, columns in each)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


class Double(nn.Sequential):
    """Convolution to twice the size: four sums for each output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(_convolution(inputs, 4 * outputs), nn.PixelShuffle(2))


class Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, channels)
        self.conv2 = _convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Give as many channels of the same size."""
        result: Tensor = x + F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x))))
        return result


class ResidualDown(nn.Module):
    """Two convolutions and a normalisation beside a plain one, to half the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, stride=2)
        self.conv2 = _convolution(outputs, outputs)
        self.gdn = Gdn(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Give half the size, rounded up."""
        # of every second sample, not with a stride of 2: torch 2.15's own backward pass of that writes beyond its
        # memory on CPUs if there are three channels
        skipped = F.conv2d(x[:, :, ::2, ::2], self.skip.weight, self.skip.bias)
        result: Tensor = self.gdn(self.conv2(F.leaky_relu(self.conv1(x)))) + skipped
        return result


class ResidualUp(nn.Module):
    """Two convolutions and an inverse normalisation beside a plain one, to twice the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.subpel_conv = Double(channels, channels)
        self.conv = _convolution(channels, channels)
        self.igdn = Gdn(channels, inverse=True)
        self.upsample = Double(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Give twice the size."""
        result: Tensor = self.igdn(self.conv(F.leaky_relu(self.subpel_conv(x)))) + self.upsample(x)
        return result


class MaskedConvolution(nn.Conv2d):
    """5x5 convolution that sees what stands before its centre in raster order; the rest of its weight has no effect."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, padding=2)
        mask = torch.zeros(5, 5)
        for row, column in TAPS:
            mask[row + 2, column + 2] = 1
        self.register_buffer("mask", mask, persistent=False)
        with torch.no_grad():
            self.weight.mul_(mask)

    def forward(self, x: Tensor) -> Tensor:
        """Give (B, outputs, h, w)."""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=2)

    def taps(self) -> Tensor:
        """Give the weight (outputs, 12 * inputs) by tap, as in `TAPS`."""
        return torch.cat([self.weight[:, :, row + 2, column + 2] for row, column in TAPS], dim=1)


class Cheng(Network):
    """Autoregressive hyperprior with residual blocks (Cheng 2020; CompressAI's Cheng2020Anchor); M is N."""

    arch = "cheng"
    SIGNS = ("g_a.0.conv1.weight", "g_a.6.weight")
    # many layers deep it begins next to the identity, and steps of 2e-4 cost a start 2.7 dB within 20 steps
    RATE_SHARE = 0.2
    DIVIDED = ("g_a.6", "entropy_parameters.4", "g_s.0.conv2")
    MULTIPLIED = ("h_a.0", "context_prediction", "g_s.0.conv1", "g_s.1.subpel_conv.0", "g_s.1.upsample.0")

    def __init__(self, n: int = 128, m: int = 128) -> None:
        if n != m:
            raise TrainingError(f"cheng has as many channels inside as its latents have, not {n} and {m}")
        super().__init__(n, m)
        wide, first, second = n * 3 // 2, n * 10 // 3, n * 8 // 3
        self.g_a = nn.Sequential(
            ResidualDown(3, n), Residual(n), ResidualDown(n, n), Residual(n), ResidualDown(n, n), Residual(n),
            _convolution(n, n, stride=2),
        )  # fmt: skip
        self.g_s = nn.Sequential(
            Residual(n), ResidualUp(n), Residual(n), ResidualUp(n), Residual(n), ResidualUp(n), Residual(n),
            Double(n, 3),
        )  # fmt: skip
        self.h_a = nn.Sequential(
            _convolution(n, n), nn.LeakyReLU(), _convolution(n, n), nn.LeakyReLU(), _convolution(n, n, stride=2),
            nn.LeakyReLU(), _convolution(n, n), nn.LeakyReLU(), _convolution(n, n, stride=2),
        )  # fmt: skip
        self.h_s = nn.Sequential(
            _convolution(n, n), nn.LeakyReLU(), Double(n, n), nn.LeakyReLU(), _convolution(n, wide), nn.LeakyReLU(),
            Double(wide, wide), nn.LeakyReLU(), _convolution(wide, 2 * n),
        )  # fmt: skip
        self.context_prediction = MaskedConvolution(n, 2 * n)
        self.entropy_parameters = nn.Sequential(
            nn.Conv2d(4 * n, first, 1), nn.LeakyReLU(), nn.Conv2d(first, second, 1), nn.LeakyReLU(),
            nn.Conv2d(second, 2 * n, 1),
        )  # fmt: skip
        self.entropy_bottleneck = FactorizedPrior(n)

    def side_information(self, y: Tensor) -> Tensor:
        """Give z of y."""
        z: Tensor = self.h_a(y)
        return z

    def quantised(
        self, latents: Tensor, step: Tensor, quantise: Quantiser, dead_zones: DeadZones | None = None
    ) -> Tensor:
        """Round what the means leave of each latent, one front after the other, or softly so.

        Noise is the same at any mean, as is nothing. Gradients pass rounding as if nothing had happened.
        """
        if quantise is not round_straight_through:
            if dead_zones is None and quantise is not softly_rounded:
                return quantise(latents)
            middle, reach = self.zero_bins(latents, step, dead_zones)
            return middle + outside(latents - middle, reach, quantise)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            y = latents * step
            symbols = self.rounded(self.quantised_side(y, quantise), y, step, dead_zones) / step
        return latents + (symbols - latents).detach()

    @torch.no_grad()
    def zero_bins(self, latents: Tensor, step: Tensor, dead_zones: DeadZones | None) -> tuple[Tensor, Tensor]:
        """Give the means in steps, and the half widths that scales say, with the context as the codec meets it."""
        with torch.autocast(latents.device.type, enabled=False):
            y = latents * step
            z_hat = self.quantised_side(y, round_straight_through)
            means, scales = self.gaussians(z_hat, self.rounded(z_hat, y, step, dead_zones))
        return means / step, latents.new_full((), 0.5) if dead_zones is None else dead_zones(scales / step)

    def gaussians(self, z_hat: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Give the means and scales that z_hat and the latents before each say."""
        side = self.h_s(z_hat)[:, :, : y_hat.shape[2], : y_hat.shape[3]]
        scales, means = self.entropy_parameters(torch.cat([side, self.context_prediction(y_hat)], dim=1)).chunk(2, 1)
        return means, scales

    def start(self, crops: Tensor, generator: torch.Generator) -> None:
        """Begin as the start of hyper within residual blocks."""
        from robustcodec.lab.cheng_start import residual_start

        residual_start(self, crops, generator)

    def check_start(self, trained: Network) -> None:
        """Ask for a hyper network of as many channels inside."""
        if not isinstance(trained, Hyper) or trained.n != self.n:
            raise TrainingError(
                f"a cheng network with {self.n} channels cannot begin with a {trained.arch} network with {trained.n}; "
                "give weights of cheng, or of hyper with as many channels inside, or other --channels"
            )

    def start_from(self, trained: Network, crops: Callable[[int], Tensor], generator: torch.Generator) -> None:
        """Begin with what a hyper network does."""
        from robustcodec.lab.cheng_transplant import CROPS, transplant

        self.check_start(trained)
        assert isinstance(trained, Hyper)
        transplant(self, trained.requires_grad_(False), crops(CROPS), generator)

    def in_compressai(self, models: ModuleType) -> Any:
        """Make a Cheng2020Anchor."""
        return models.Cheng2020Anchor(self.n)

    @torch.no_grad()
    def rounded(self, z_hat: Tensor, y: Tensor, step: Tensor, dead_zones: DeadZones | None = None) -> Tensor:
        """Give y_hat (B, M, h, w) as the codec makes it of y, each latent rounded around its mean, in real numbers."""
        batch, channels, height, width = y.shape
        side = self.h_s(z_hat)[:, :, :height, :width]
        taps, of_context = self.context_prediction.taps(), bias(self.context_prediction)
        step = step.reshape(-1, 1, 1)
        y_hat = y.new_zeros(batch, channels, height + 2, width + 4)
        for rows, columns in _fronts(height, width, y.device):
            seen = torch.cat([y_hat[:, :, rows + (2 + row), columns + (2 + column)] for row, column in TAPS], dim=1)
            context = taps @ seen + of_context[:, None]
            known = torch.cat([side[:, :, rows, columns], context], dim=1)
            scales, means = self.entropy_parameters(known[..., None])[..., 0].chunk(2, 1)
            left = (y[:, :, rows, columns] - means) / step
            reach = y.new_full((), 0.5) if dead_zones is None else dead_zones(scales / step)
            symbols = outside(left, reach, round_straight_through)
            y_hat[:, :, rows + 2, columns + 2] = symbols * step + means
        return y_hat[:, :, 2:, 2:-2]
