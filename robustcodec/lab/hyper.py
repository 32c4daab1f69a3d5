"""The scale hyperprior as a differentiable network, with CompressAI's parameter names (ScaleHyperprior)."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustcodec.lab.entropy_models import FactorizedPrior
from robustcodec.lab.networks import DeadZones, Gdn, Network, Quantiser, outside, round_straight_through
from robustcodec.lab.phases import FromPicture, ToPicture


class Hyper(Network):
    """Scale hyperprior (Ballé 2018; CompressAI's ScaleHyperprior)."""

    arch = "hyper"
    SIGNS = ("g_a.0.weight", "g_a.6.weight")
    DIVIDED = ("g_a.6", "h_s.4")
    MULTIPLIED = ("h_a.0", "g_s.0")

    def __init__(self, n: int = 128, m: int = 192) -> None:
        super().__init__(n, m)
        self.g_a = nn.Sequential(FromPicture(n), Gdn(n), _down(n, n), Gdn(n), _down(n, n), Gdn(n), _down(n, m))
        self.g_s = nn.Sequential(
            _up(m, n), Gdn(n, True), _up(n, n), Gdn(n, True), _up(n, n), Gdn(n, True), ToPicture(n)
        )
        self.h_a = nn.Sequential(nn.Conv2d(m, n, 3, padding=1), nn.ReLU(), _down(n, n), nn.ReLU(), _down(n, n))
        self.h_s = nn.Sequential(_up(n, n), nn.ReLU(), _up(n, n), nn.ReLU(), nn.Conv2d(n, m, 3, padding=1), nn.ReLU())
        self.entropy_bottleneck = FactorizedPrior(n)

    def side_information(self, y: Tensor) -> Tensor:
        """Give z of the magnitudes of y."""
        z: Tensor = self.h_a(y.abs())
        return z

    def quantised(
        self, latents: Tensor, step: Tensor, quantise: Quantiser, dead_zones: DeadZones | None = None
    ) -> Tensor:
        """Quantise each latent by itself."""
        if dead_zones is None:
            return quantise(latents)
        _, reach = self.zero_bins(latents, step, dead_zones)
        return outside(latents, reach, quantise)

    @torch.no_grad()
    def zero_bins(self, latents: Tensor, step: Tensor, dead_zones: DeadZones | None) -> tuple[Tensor, Tensor]:
        """Give a middle of zero for all, and the half widths that scales say."""
        if dead_zones is None:
            return latents.new_zeros(()), latents.new_full((), 0.5)
        with torch.autocast(latents.device.type, enabled=False):
            y = latents * step
            means, scales = self.gaussians(self.quantised_side(y, round_straight_through), y)
        return means, dead_zones(scales / step)

    def gaussians(self, z_hat: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Give a mean of zero for all, and the scales that z_hat says."""
        scales: Tensor = self.h_s(z_hat)[:, :, : y_hat.shape[2], : y_hat.shape[3]]
        return torch.zeros((), device=y_hat.device), scales

    def start(self, crops: Tensor, generator: torch.Generator) -> None:
        """Begin as the principal components of 2x2 blocks, stage by stage."""
        from robustcodec.lab.hyper_start import orthonormal_start

        orthonormal_start(self, crops, generator)

    def in_compressai(self, models: ModuleType) -> Any:
        """Make a ScaleHyperprior."""
        return models.ScaleHyperprior(self.n, self.m)


def _down(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)
