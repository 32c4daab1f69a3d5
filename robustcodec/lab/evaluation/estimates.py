"""What a torch network expects of a picture, with everything rounded as the shipped codec rounds it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from robustcodec.bundle import Bundle
from robustcodec.lab.checkpoints import load_weights, network_of
from robustcodec.lab.evaluation.contenders import Source
from robustcodec.metrics import Pixels
from robustcodec.networks import STRIDE
from robustcodec.rate import STEP_UNIT


def estimate(
    source: Source, attacked: Sequence[Pixels], clean: Sequence[Pixels], quality: float
) -> list[tuple[float, float] | None]:
    """Bits per pixel and PSNR(x, x_hat*) in dB of each attacked picture; None for a model that is no bundle."""
    if not isinstance(source.weights, Bundle):
        return [None] * len(attacked)  # without a bundle there is no shipped codec to compare with
    network = network_of(load_weights(source.weights.path), source.name).eval()
    step = torch.tensor([source.weights.manifest.step(quality) / STEP_UNIT])
    return [_estimate(network, step, x_star, x) for x_star, x in zip(attacked, clean, strict=True)]


@torch.no_grad()
def _estimate(network: torch.nn.Module, step: torch.Tensor, attacked: Pixels, clean: Pixels) -> tuple[float, float]:
    height, width = attacked.shape[:2]
    x = _tensor(attacked)
    x = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
    coded = network(x, step, torch.round, torch.round)
    shown = (coded.x_hat[:, :, :height, :width].clamp(0, 1) * 255).round() / 255
    error = float((shown - _tensor(clean)).square().mean())
    return float(coded.bits) / (height * width), -10 * float(torch.tensor(max(error, 1e-12)).log10())


def _tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
