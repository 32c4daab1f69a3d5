"""The start of training for residual networks: the same orthonormal transform as `start`, within their blocks.

Residual blocks start as the identity. A block that halves the size starts as the principal components of 2x2 blocks,
which its plain path cannot make, since that sees one sample of four: they pass through both convolutions, lifted above
zero by biases so that the activation between lets them through as they are. A block that doubles the size starts as
the transpose in its plain path.
"""

import torch
from torch import Tensor, nn

from robustcodec.lab.cheng import Cheng, Double, Residual, ResidualDown, ResidualUp
from robustcodec.lab.entropy_models import SCALE_MIN
from robustcodec.lab.hyper_start import (
    HYPER_CROPS,
    HYPER_FLOOR,
    HYPER_GAIN,
    HYPER_RANDOM,
    LATENT_GAIN,
    UNUSED_WEIGHT,
    blocks,
    near_identity,
    principal_components,
)
from robustcodec.lab.networks import Gdn, bias

_SMALL = 0.01
"""What is left of random weights beside an identity: features differ in strength by a factor of a hundred."""
_LIFT = 1.25
"""Biases, in units of the most negative value that was seen."""


@torch.no_grad()
def residual_start(network: Cheng, crops: Tensor, generator: torch.Generator, gain: float = LATENT_GAIN) -> None:
    """Set the transforms of `network` from `crops` (B, 3, H, W) in [0, 1], H and W multiples of 16."""
    for module in network.modules():
        if isinstance(module, Gdn):
            near_identity(module)
        if isinstance(module, Residual):
            silence(module.conv2)
    means = crops.mean((0, 2, 3))
    features = crops - means[:, None, None]
    down = [layer for layer in network.g_a if not isinstance(layer, Residual)]
    up = [layer for layer in network.g_s if not isinstance(layer, Residual)]
    for analysis, synthesis in zip(down, reversed(up), strict=True):
        squares = blocks(features)
        inner = plain(analysis.conv1 if isinstance(analysis, ResidualDown) else analysis)
        basis = principal_components(squares, inner.out_channels)
        features = torch.einsum("kc,bchw->bkhw", basis, squares)
        _set_squares(inner, basis, generator)
        if isinstance(analysis, ResidualDown):
            lift = torch.zeros(inner.out_channels)
            lift[: basis.shape[0]] = -_LIFT * features.amin((0, 2, 3))
            bias(inner).copy_(lift)
            _set_identity(analysis.conv2)
            bias(analysis.conv2).copy_(-lift)
            nn.init.zeros_(analysis.skip.weight)
            nn.init.zeros_(bias(analysis.skip))
        outer = plain(synthesis.upsample if isinstance(synthesis, ResidualUp) else synthesis)
        _set_transpose(outer, basis)
        if isinstance(synthesis, ResidualUp):
            silence(synthesis.conv)
    lowest, last, highest = down[0], plain(network.g_a[6]), up[0]
    assert isinstance(lowest, ResidualDown) and isinstance(highest, ResidualUp)
    bias(lowest.conv1).sub_(torch.einsum("ocyx,c->o", lowest.conv1.weight, means))
    bias(plain(network.g_s[7])).copy_(means.repeat_interleave(4))
    last.weight.mul_(gain)
    for layer in (highest.upsample, highest.subpel_conv):
        plain(layer).weight.div_(gain)
    start_entropy_model(network, network.analyse(crops[:HYPER_CROPS]))


def start_entropy_model(network: Cheng, y: Tensor) -> None:
    """Begin with scales that follow the local energy of groups of latents, and with means near zero.

    z of a group is the mean of the positive part of its y, twice, each relative to its channel's mean magnitude.
    """
    n = network.n
    groups = max(1, n // 4)
    channel, line = torch.arange(n), torch.arange(groups)
    group = channel * groups // n
    members = torch.bincount(group, minlength=groups)[group]
    mean = y.abs().mean((0, 2, 3)).clamp(min=SCALE_MIN)
    analysis, synthesis, parameters = (
        [plain(layer) for layer in module[::2]] for module in (network.h_a, network.h_s, network.entropy_parameters)
    )
    context = network.context_prediction
    for layer in (*analysis, *synthesis, *parameters, context):
        layer.weight.mul_(HYPER_RANDOM)
        nn.init.zeros_(bias(layer))
    for layer in (analysis[0], context):
        layer.weight.div_(mean[:, None, None])
    analysis[0].weight[channel, channel, 1, 1] += 1 / mean
    analysis[1].weight[group, channel, 1, 1] += 2 / members
    analysis[2].weight[line, line, 1:3, 1:3] += 0.25
    analysis[3].weight[line, line, 1, 1] += 1.0
    analysis[4].weight[line, line, 1:3, 1:3] += 0.25 * HYPER_GAIN
    for layer in synthesis[:4]:
        sums = max(1, layer.out_channels // layer.in_channels)  # for each output
        for row in range(sums):
            layer.weight[sums * line + row, line, 1, 1] += 1.0
    # a Gaussian's scale is 1.25 times its mean magnitude
    synthesis[4].weight[channel, group, 1, 1] += 1.25 / HYPER_GAIN
    bias(synthesis[4])[:n] = HYPER_FLOOR
    for layer in parameters[:2]:
        layer.weight[channel, channel, 0, 0] += 1.0
    last = parameters[2]
    last.weight[channel, channel, 0, 0] += 1.0
    last.weight.mul_(mean.repeat(2)[:, None, None, None])


def plain(module: nn.Module) -> nn.Conv2d:
    """Give a convolution, or that within one to twice the size."""
    layer = module[0] if isinstance(module, Double) else module
    assert isinstance(layer, nn.Conv2d)
    return layer


def silence(layer: nn.Conv2d) -> None:
    """Leave little of a residual block's last convolution, so that the block is next to the identity."""
    layer.weight.mul_(_SMALL)
    nn.init.zeros_(bias(layer))


def _set_identity(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    channel = torch.arange(layer.out_channels)
    layer.weight[channel, channel, 1, 1] = 1.0


def _set_squares(layer: nn.Conv2d, basis: Tensor, generator: torch.Generator) -> None:
    """Put the basis into taps 1..2 of each kernel; channels beyond it start small and random."""
    kept, inputs = basis.shape[0], basis.shape[1] // 4
    nn.init.normal_(layer.weight, std=UNUSED_WEIGHT, generator=generator)
    nn.init.zeros_(bias(layer))
    layer.weight[:kept] = 0
    layer.weight[:kept, :inputs, 1:3, 1:3] = basis.reshape(kept, inputs, 2, 2)


def _set_transpose(layer: nn.Conv2d, basis: Tensor) -> None:
    """Make each 2x2 block of outputs of what is at its place."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(bias(layer))
    layer.weight[: basis.shape[1], : basis.shape[0], 1, 1] = basis.T
