"""The start of training for residual networks out of a trained hyper network: its transforms within their blocks.

Both convolutions of a block that changes the size are fitted, by least squares, to what a stage of the trained network
gives. Of its latents those are kept that carry the most bits. The entropy model, of which the trained network has
nothing, is trained on the latents of some crops: they are so few that its steps cost next to nothing.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustcodec.lab.cheng import Cheng, Residual, ResidualDown, ResidualUp
from robustcodec.lab.cheng_start import plain, silence, start_entropy_model
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.networks import bias, convolutions, round_straight_through, uniform_noise
from robustcodec.lab.phases import doubling_taps
from robustcodec.rate import HIGHEST, LOWEST, high_rate_step

CROPS = 512
"""Crops that a transplant is measured on."""
_FITTED = 192
"""Crops among them that convolutions are fitted on, at `_SAMPLES` places of each stage at most."""
_SAMPLES = 2**15
_DAMPING = 1e-8
"""What is added to the diagonal of normal equations, in units of its mean."""
_PAIRS = 1 / 4
"""Share of the channels between two convolutions that hold a feature while as many others hold its negative: what the
activation takes from one it leaves to the other. The rest is lifted above zero by biases, which costs precision."""
_LIFT = 1.25
"""These biases, in units of the most negative value that was seen."""
_STEPS, _BATCH, _RATE, _WARM_UP = 600, 16, 1e-3, 20


@torch.no_grad()
def transplant(network: Cheng, trained: Hyper, crops: Tensor, generator: torch.Generator) -> None:
    """Set `network` from `trained`, with as many channels inside, by crops (B, 3, H, W) in [0, 1]."""
    few = crops[:_FITTED]
    y = _in_parts(trained.analyse, few)
    kept = _busiest(trained, y, network.m)
    for module in network.modules():
        if isinstance(module, Residual):
            silence(module.conv2)
    _set_analysis(network, trained, few, kept)
    _set_synthesis(network, trained, y.round()[:, kept], kept)
    y = _in_parts(network.analyse, crops)
    start_entropy_model(network, y)
    _train_entropy_model(network, y, generator)


def _busiest(trained: Hyper, y: Tensor, count: int) -> Tensor:
    """Indices (count,), rising, of the latents that carry the most bits at the highest quality."""
    step = torch.full((y.shape[0], 1, 1, 1), high_rate_step(HIGHEST))
    bits, _, _ = trained.bits_of_each(y, round_straight_through(y / step), step, round_straight_through)
    return bits.sum((0, 2, 3)).topk(count).indices.sort().values


def _set_analysis(network: Cheng, trained: Hyper, crops: Tensor, kept: Tensor) -> None:
    """Make the trained stages of their kernels' middles and what is around them."""
    theirs, ours = crops, crops
    for number, stage in enumerate(convolutions(trained.g_a)[:-1]):
        down, residual = network.g_a[2 * number], network.g_a[2 * number + 1]
        assert isinstance(stage, nn.Conv2d) and isinstance(down, ResidualDown)
        normalise = trained.g_a[2 * number + 1]
        theirs = _in_parts(stage, theirs)
        _carry(down.conv1, stage.weight[:, :, 1:4, 1:4], ours)
        _fit(down.conv2, nn.Sequential(down.conv1, nn.LeakyReLU()), ours, theirs)
        down.gdn.load_state_dict(normalise.state_dict())
        nn.init.zeros_(down.skip.weight)
        nn.init.zeros_(bias(down.skip))
        theirs = _in_parts(normalise, theirs)
        ours = _in_parts(nn.Sequential(down, residual), ours)
    _fit(plain(network.g_a[-1]), nn.Identity(), ours, trained.g_a[-1](theirs)[:, kept])


def _set_synthesis(network: Cheng, trained: Hyper, y_hat: Tensor, kept: Tensor) -> None:
    """Make what the trained stages give, each of which a convolution to twice the size can give by itself."""
    theirs, ours = torch.zeros(y_hat.shape[0], trained.m, *y_hat.shape[2:]), y_hat
    theirs[:, kept] = y_hat
    first, *later = convolutions(trained.g_s)
    kernels = [doubling_taps(first.weight[kept]), *(doubling_taps(stage.weight) for stage in later)]
    for number, (stage, kernel) in enumerate(zip([first, *later[:-1]], kernels, strict=False)):
        residual, up = network.g_s[2 * number], network.g_s[2 * number + 1]
        assert isinstance(up, ResidualUp)
        ours, theirs = _in_parts(residual, ours), _in_parts(stage, theirs)
        normalise = trained.g_s[2 * number + 1]
        _carry(up.subpel_conv, kernel, ours)
        _fit(up.conv, nn.Sequential(up.subpel_conv, nn.LeakyReLU()), ours, theirs)
        up.igdn.load_state_dict(normalise.state_dict())
        nn.init.zeros_(plain(up.upsample).weight)
        nn.init.zeros_(bias(plain(up.upsample)))
        ours, theirs = _in_parts(up, ours), _in_parts(normalise, theirs)
    last = plain(network.g_s[-1])
    last.weight.copy_(kernels[-1])
    bias(last).copy_(bias(later[-1]).repeat_interleave(4))


def _carry(module: nn.Module, kernel: Tensor, values: Tensor) -> None:
    """Let a convolution, or one within `Double`, carry past an activation what `kernel` would make of values.

    It carries the strongest directions of that.
    """
    layer = plain(module)
    layer.weight.copy_(kernel)
    nn.init.zeros_(bias(layer))
    directions, offset = _directions(module(values))
    sums = layer.out_channels // directions.shape[0]  # for each output
    weight = layer.weight.reshape(-1, sums, *layer.weight.shape[1:])
    layer.weight.copy_(torch.einsum("kc,cs...->ks...", directions, weight).flatten(0, 1))
    bias(layer).copy_(offset.repeat_interleave(sums))


def _directions(values: Tensor) -> tuple[Tensor, Tensor]:
    """Give rows (C, C) and offsets (C,) that turn values (B, C, h, w) into what an activation leaves whole."""
    samples = values.transpose(0, 1).flatten(1)
    count = samples.shape[0]
    mean = samples.mean(1)
    _, vectors = torch.linalg.eigh(torch.cov(samples).double())
    rows = vectors.flip(1).T.float()
    pairs = int(count * _PAIRS)
    lifted = rows[pairs : count - pairs]
    lowest = (lifted @ samples).amin(1)
    directions = torch.cat([rows[:pairs], -rows[:pairs], lifted])
    return directions, torch.cat([-directions[: 2 * pairs] @ mean, -lowest - (_LIFT - 1) * (lowest - lifted @ mean)])


def _fit(layer: nn.Conv2d, before: Callable[[Tensor], Tensor], values: Tensor, wanted: Tensor) -> None:
    """Set a convolution so that it makes what is wanted (B, outputs, h, w) of `before(values)`, as nearly as it can."""
    size, places = layer.weight[0].numel() + 1, wanted.shape[2] * wanted.shape[3]
    normal = torch.zeros(size, size, dtype=torch.float64)
    products = torch.zeros(size, layer.out_channels, dtype=torch.float64)
    one = torch.ones(1, places, dtype=torch.float64)
    for value, goal in zip(values[: max(1, _SAMPLES // places)], wanted, strict=False):
        seen = F.unfold(before(value[None]), 3, padding=1, stride=layer.stride)[0].double()
        seen = torch.cat([seen, one])
        normal += seen @ seen.T
        products += seen @ goal.flatten(1).double().T
    normal.diagonal().add_(_DAMPING * normal.diagonal().mean())
    solution = torch.linalg.solve(normal, products).float()
    layer.weight.copy_(solution[:-1].T.reshape(layer.weight.shape))
    bias(layer).copy_(solution[-1])


def _in_parts(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Apply a function to a few crops at a time, which bounds the memory of what lies within."""
    return torch.cat([function(part) for part in torch.split(values, 8)])


@torch.enable_grad()
def _train_entropy_model(network: Cheng, y: Tensor, generator: torch.Generator) -> None:
    """Minimise the code length of latents y (B, M, h, w) at all steps."""
    parameters = [parameter for name, parameter in network.named_parameters() if not name.startswith(("g_a.", "g_s."))]
    optimiser = torch.optim.Adam(parameters, betas=(0.9, 0.99), fused=True)
    low, high = high_rate_step(HIGHEST), high_rate_step(LOWEST)
    for number in range(_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = _RATE * min((number + 1) / _WARM_UP, 2 - 2 * number / _STEPS, 1)
        chosen = torch.randint(y.shape[0], (_BATCH,), generator=generator)
        step = low * (high / low) ** torch.rand(_BATCH, generator=generator)
        y_bits, z_bits = network.code_length(y[chosen], step, uniform_noise(generator))
        optimiser.zero_grad()
        ((y_bits + z_bits) * step).mean().div(256 * y[0, 0].numel()).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimiser.step()
    optimiser.zero_grad()
