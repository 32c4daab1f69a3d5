"""Adversaries inside training: each takes a batch and gives its crops back, some of them attacked.

An attack here costs a few passes of the network, where one on a finished model takes hundreds: its noise need not be
the worst there is, but it is new at every step.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcodec.lab.dead_zones import zones_of
from robustcodec.lab.losses import Batch
from robustcodec.lab.networks import DeadZones, Network, Quantiser, softly_rounded
from robustcodec.lab.recipe import Attacker, Hardening

Adversary = Callable[[Network, Batch], Tensor]
"""Gives x_new (B, 3, H, W) in [0, 1] for a batch's crops, from the batch's generator alone, and leaves the rest be."""

Objective = Callable[[Network, Tensor, Tensor, Tensor, Tensor], Tensor]
"""What an attack raises: of noisy and clean crops (B, 3, H, W) at steps (B,), with draws (B, C, h, w) from [-1/2, 1/2)
to stand for rounding where it needs any, it gives (B,)."""


@dataclass(frozen=True, eq=False)
class Draws:
    """What is random in an attack on some crops: `start` (B, 3, H, W) standard normal, `rounding` (steps, B, C, h, w)
    uniform in [-1/2, 1/2), one for each latent."""

    start: Tensor
    rounding: Tensor

    def of(self, chosen: Tensor) -> "Draws":
        """Those of some of the crops, by a mask (B,)."""
        return Draws(self.start[chosen], self.rounding[:, chosen])


@dataclass(frozen=True, eq=False)
class Cuts:
    """The middles of some crops with far more noise per sample than a picture's budget: clean and noisy
    (K, 3, H/2, W/2), their steps and Lagrangians (K,), their budgets in epsilons (K,) and draws for their rounding."""

    clean: Tensor
    noisy: Tensor
    step: Tensor
    lagrangian: Tensor
    budget: Tensor
    rounding: Tensor


Attack = Callable[[Network, Tensor, Tensor, Objective, Tensor, Draws], Tensor]
"""An attack on some crops; see `normalised_steps`, whose steps are as many as there are draws."""

_START = 0.1
"""Length of the random noise that an attack begins with, in radii of its budget."""
_LOCAL_LEAST = 4.0
"""The least budget of a cut, in epsilons."""
_LOCAL_STRIDE = 2.0
"""Length of steps with such budgets, in radii: of 0.5 and 2 the latter raised distortion more in four and in eight."""
_STRIDE = 1.0
"""Length of its steps, likewise: of 0.35, 0.5 and 1 the last raised both objectives most in four steps."""


def adversary_of(hardening: Hardening) -> Adversary:
    """Give the adversary that a hardening run asks for."""
    zones = zones_of(hardening)
    rising = rate if zones is None else held_rate(zones)
    # what stands for rounding is for steps along gradients: a search of hundreds of steps rounds by itself
    rounding = hardening.attacker is Attacker.NORMALISED
    kinds = tuple(
        (objective, steps if rounding else 0, _attack(hardening.attacker, steps, zones))
        for objective, steps in ((distortion, hardening.psnr_steps), (rising, hardening.bpp_steps))
    )

    def adversary(network: Network, batch: Batch) -> Tensor:
        here = batch.x.shape[0]
        total = here * batch.part.count
        psnr, bpp = hardening.attacks(total)
        # the qualities of crops go by their position, so which are attacked must not
        order = _uniform(batch, total).argsort() - here * batch.part.index
        energy = (
            batch.strength * hardening.epsilon * (hardening.least + (1 - hardening.least) * _uniform(batch, psnr + bpp))
        )
        x_new = batch.x.clone()
        start = 0
        for count, (objective, rounds, attack) in zip((psnr, bpp), kinds, strict=True):
            span = slice(start, start + count)
            chosen, budgets = order[span], energy[span]
            draws = _draw(network, batch, count, rounds)
            chosen, budgets, draws = _mine(batch, chosen, budgets, draws)
            if len(chosen):
                x_new[chosen] = attack(network, batch.x[chosen], batch.step[chosen], objective, budgets, draws)
            start += count
        return x_new

    return adversary


def local_attack(network: Network, batch: Batch, hardening: Hardening) -> Cuts:
    """Attack the middles of some crops for distortion, as strongly as an attack does that gathers its budget there.

    An attack on a whole picture puts most of its noise where the codec amplifies it most, so that a block of 32x32 has
    noise of 30 to 40 times the mean. There a codec is not what it is for little noise: what it multiplies by grows.
    """
    here = batch.x.shape[0]
    total = here * batch.part.count
    count = hardening.cuts(total)
    chosen = _uniform(batch, total).argsort()[:count] - here * batch.part.index
    budget = _LOCAL_LEAST * (hardening.local_most / _LOCAL_LEAST) ** _uniform(batch, count)
    height, width = (side // 4 for side in batch.x.shape[2:])
    middles = batch.x[:, :, height:-height, width:-width]
    # one more: what stands for rounding when the network is trained on what the attack gave
    draws = _draw(network, dataclasses.replace(batch, x=middles), count, hardening.local_steps + 1)
    chosen, budget, draws = _mine(batch, chosen, budget, draws)
    clean = middles[chosen].contiguous(memory_format=torch.channels_last)
    step, energy = batch.step[chosen], batch.strength * hardening.epsilon * budget
    noisy = clean
    if len(chosen):
        attacking = Draws(draws.start, draws.rounding[:-1])
        noisy = normalised_steps(network, clean, step, distortion, energy, attacking, _LOCAL_STRIDE)
    return Cuts(clean, noisy, step, batch.lagrangian[chosen], budget, draws.rounding[-1])


def _attack(attacker: Attacker, steps: int, dead_zones: DeadZones | None) -> Attack:
    """Give an attack; one by normalised steps takes as many as there are draws."""
    if attacker is Attacker.NORMALISED:
        return normalised_steps
    # only here: it needs ONNX Runtime, which a machine that trains and no more may lack
    from robustcodec.lab.search_adversary import search_attack

    return search_attack(attacker, steps, dead_zones)


def distortion(network: Network, noisy: Tensor, clean: Tensor, step: Tensor, rounding: Tensor) -> Tensor:
    """MSE (B,) between the clean crops and what is decoded of the noisy ones, if nothing were rounded."""
    decoded = network.synthesise(network.analyse(noisy)).clamp(0, 1)
    return (decoded - clean).square().mean((1, 2, 3))


def rate(network: Network, noisy: Tensor, clean: Tensor, step: Tensor, rounding: Tensor) -> Tensor:
    """Bits per pixel (B,) of the noisy crops at the steps (B,) with draws for rounding, escape codes included.

    Without rounding the rate would be flat where a symbol is sure to be zero; draws show what lies beyond.
    """

    noisily = drawn(rounding)
    y = network.analyse(noisy)
    step = step.reshape(-1, 1, 1, 1)
    bits = network.bits_in_file(y, noisily(y / step), step, noisily)
    return bits / (noisy.shape[2] * noisy.shape[3])


def held_rate(zones: DeadZones) -> Objective:
    """Give the rate of an encoder with dead zones: a curve with their edges stands for rounding, not noise."""

    def rate(network: Network, noisy: Tensor, clean: Tensor, step: Tensor, rounding: Tensor) -> Tensor:
        y = network.analyse(noisy)
        step = step.reshape(-1, 1, 1, 1)
        symbols = network.quantised(y / step, step, softly_rounded, zones)
        return network.bits_in_file(y, symbols, step, softly_rounded) / (noisy.shape[2] * noisy.shape[3])

    return rate


def drawn(rounding: Tensor) -> Quantiser:
    """Add draws (B, C, h, w) that were made beforehand, or as many of them as there are latents."""

    def noisily(values: Tensor) -> Tensor:
        return values + rounding[:, : values.shape[1], : values.shape[2], : values.shape[3]]

    return noisily


def normalised_steps(
    network: Network,
    x: Tensor,
    step: Tensor,
    objective: Objective,
    energy: Tensor,
    draws: Draws,
    stride: float = _STRIDE,
) -> Tensor:
    """Raise `objective` by steps along its normalised gradient; give the noisy crops (B, 3, H, W) in [0, 1].

    x (B, 3, H, W) are the clean crops at the steps (B,). The mean square of each crop's noise ends at most at its
    `energy` (B,), in steps as long as `stride` times its root. The network's parameters and their gradients stay as
    they are.
    """
    radius = energy.sqrt().reshape(-1, 1, 1, 1)
    noise = _into_ball(_START * radius * _unit(draws.start), radius, x)
    with frozen(network):
        for rounding in draws.rounding:
            noise.requires_grad_()
            (gradient,) = torch.autograd.grad(objective(network, x + noise, x, step, rounding).sum(), noise)
            noise = _into_ball(noise.detach() + stride * radius * _unit(gradient), radius, x)
    return (x + noise).clamp(0, 1)  # what is added may round beyond the edge


def _draw(network: Network, batch: Batch, count: int, steps: int) -> Draws:
    """Draw what attacks on `count` crops need, wherever those are."""
    device, generator = batch.generator.device, batch.generator
    _, colours, height, width = batch.x.shape
    latents = (max(network.m, network.n), height // 16, width // 16)  # side information is less in each direction
    start = torch.randn((count, colours, height, width), generator=generator, device=device)
    rounding = torch.rand((steps, count, *latents), generator=generator, device=device) - 0.5
    return Draws(start.to(batch.x), rounding.to(batch.x))


def _mine(batch: Batch, chosen: Tensor, budgets: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Draws]:
    """Keep those of the chosen crops that are in this part of the batch, by their rows here."""
    if batch.part.count == 1:  # a GPU cannot record a choice by content
        return chosen, budgets, draws
    mine = (chosen >= 0) & (chosen < batch.x.shape[0])
    return chosen[mine], budgets[mine], draws.of(mine)


def _unit(noise: Tensor) -> Tensor:
    """Scale each crop's noise to a mean square of 1; zero stays zero."""
    return noise / _root_mean_square(noise).clamp(min=1e-30)


def _into_ball(noise: Tensor, radius: Tensor, x: Tensor) -> Tensor:
    """Shorten noise to the radius, then clip it so that x + noise lies in [0, 1], which shortens it further."""
    noise = noise * (radius / _root_mean_square(noise).clamp(min=1e-30)).clamp(max=1)
    return torch.clamp(noise, -x, 1 - x)


def _root_mean_square(noise: Tensor) -> Tensor:
    return noise.square().mean((1, 2, 3), keepdim=True).sqrt()


def _uniform(batch: Batch, count: int) -> Tensor:
    """Draw numbers (count,) from [0, 1) where the batch is."""
    return torch.rand(count, generator=batch.generator, device=batch.generator.device).to(batch.x.device)


@contextmanager
def frozen(network: Network) -> Iterator[None]:
    """Take parameters out of the graph, which halves the cost of a gradient."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
