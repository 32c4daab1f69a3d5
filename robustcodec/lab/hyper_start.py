"""The start of training for hyper networks: an orthonormal transform measured on pictures, not random kernels.

Each 5x5 stride-2 convolution starts as an orthonormal transform of 2x2 blocks of its input, the principal
components of the features that arrive there, with the strongest kept where channels run out; synthesis starts as
its transpose; GDN starts near the identity. Four such stages make the Karhunen-Loève transform of 16x16 blocks
within what the first stages keep, so the network is a working transform codec before its first step.
"""

import torch
from torch import Tensor, nn

from robustcodec.lab.entropy_models import SCALE_MIN
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.networks import Convolution, Gdn, bias, convolutions

LATENT_GAIN = 8.0
"""Latents per unit of an orthonormal transform of pictures in [0, 1]; sets how fine the start quantises."""

_GDN_DIAGONAL = 1e-3
_GDN_OTHERS = 1e-5
UNUSED_WEIGHT = 0.02
"""Spread of the kernels that the transform leaves over."""
HYPER_CROPS = 64
"""Crops on which latents are measured before the entropy model is set."""
HYPER_GAIN = 4.0
"""Steps of side information per unit of relative energy."""
HYPER_FLOOR = 0.3
"""Scale of a latent without energy around it, in units of its channel's mean magnitude."""
HYPER_RANDOM = 0.1
"""What is left of the entropy model's random kernels."""


@torch.no_grad()
def orthonormal_start(network: Hyper, crops: Tensor, generator: torch.Generator, gain: float = LATENT_GAIN) -> None:
    """Set the transforms of `network` from `crops` (B, 3, H, W) in [0, 1], H and W multiples of 16."""
    for module in network.modules():
        if isinstance(module, Gdn):
            near_identity(module)
    means = crops.mean((0, 2, 3))
    features = crops - means[:, None, None]
    down, up = convolutions(network.g_a), convolutions(network.g_s)
    for analysis, synthesis in zip(down, reversed(up), strict=True):
        squares = blocks(features)
        basis = principal_components(squares, analysis.out_channels)
        _set_analysis(analysis, basis, generator)
        _set_synthesis(synthesis, basis)
        features = torch.einsum("kc,bchw->bkhw", basis, squares)
    first, last = down[0], down[-1]
    bias(first).copy_(-torch.einsum("ocyx,c->o", first.weight, means))
    bias(up[-1]).copy_(means)
    last.weight.mul_(gain)
    up[0].weight.div_(gain)
    _start_hyperprior(network, network.analyse(crops[:HYPER_CROPS]))


def _start_hyperprior(network: Hyper, y: Tensor) -> None:
    """Begin with scales that follow the local energy of groups of latents, which the side information carries.

    z of a group is the mean of its |y|, each relative to its channel's own mean, over 4x4 positions. What remains
    of z starts near zero; all kernels keep some randomness to learn from.
    """
    groups = max(1, network.n // 4)
    channel = torch.arange(network.m)
    group = channel * groups // network.m
    members = torch.bincount(group, minlength=groups)[group]
    mean = y.abs().mean((0, 2, 3)).clamp(min=SCALE_MIN)
    reduce, halve, halve_again = convolutions(network.h_a)
    double, double_again, scale = convolutions(network.h_s)
    line = torch.arange(groups)
    for layer in (reduce, halve, halve_again, double, double_again, scale):
        layer.weight.mul_(HYPER_RANDOM)
        nn.init.zeros_(bias(layer))
    reduce.weight[group, channel, 1, 1] += 1 / (mean * members)
    halve.weight[line, line, 2:4, 2:4] += 0.25
    halve_again.weight[line, line, 2:4, 2:4] += 0.25 * HYPER_GAIN
    double.weight[line, line, 2:4, 2:4] += 1.0
    double_again.weight[line, line, 2:4, 2:4] += 1.0
    # a Gaussian's scale is 1.25 times its mean magnitude
    scale.weight[channel, group, 1, 1] += 1.25 * mean / HYPER_GAIN
    bias(scale).copy_(HYPER_FLOOR * mean)


def near_identity(module: Gdn) -> None:
    """Let a normalisation pass values nearly as they are."""
    channels = module.beta.shape[0]
    gamma = torch.full((channels, channels), _GDN_OTHERS)
    gamma.fill_diagonal_(_GDN_DIAGONAL)
    module.set_parameters(torch.ones(channels), gamma)


def blocks(features: Tensor) -> Tensor:
    """Stack the 2x2 blocks of (B, C, H, W) as channels: (B, 4C, H/2, W/2), channel index c*4 + 2*row + column."""
    return torch.pixel_unshuffle(features, 2)


def principal_components(squares: Tensor, count: int) -> Tensor:
    """Orthonormal rows (min(count, C), C): the directions of largest variance of (B, C, H, W)."""
    samples = squares.transpose(0, 1).flatten(1).double()
    samples = samples - samples.mean(1, keepdim=True)
    _, vectors = torch.linalg.eigh(samples @ samples.T)
    basis: Tensor = vectors.flip(1)[:, :count].T.float()
    return basis


def _set_analysis(layer: Convolution, basis: Tensor, generator: torch.Generator) -> None:
    """Put the basis into taps 2..3 of each kernel; channels beyond it start small and random."""
    kept, inputs = basis.shape[0], basis.shape[1] // 4
    nn.init.normal_(layer.weight, std=UNUSED_WEIGHT, generator=generator)
    nn.init.zeros_(bias(layer))
    layer.weight[:kept] = 0
    layer.weight[:kept, :inputs, 2:4, 2:4] = basis.reshape(kept, inputs, 2, 2)


def _set_synthesis(layer: Convolution, basis: Tensor) -> None:
    kept, outputs = basis.shape[0], basis.shape[1] // 4
    layer.weight.zero_()
    nn.init.zeros_(bias(layer))
    layer.weight[:kept, :outputs, 2:4, 2:4] = basis.reshape(kept, outputs, 2, 2)
