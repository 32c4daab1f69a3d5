"""Losses that harden a network: the paper's two stages, plain adversarial training, and our own.

For each crop, with step its quantisation step (1 at quality 4), J = bpp + lambda * 255^2 * MSE and
S = smooth_bpp * ||d bpp_main/dx|| + smooth_latents * ||dy/dx|| (`smoothness`), the losses are means over the batch of

    teacher      step * (J(x) + teacher_smooth * S(x))
    distilled    mean |t - M(x_new)| + step * (rate * |bpp_teacher(x) - bpp(x_new)| + smooth * S(x_new))
    ma2023       step * J(x_new), target x_new
    fast         step * (w * J(x_new) + smooth * S(x_new) + stability * lambda * 255^2 * |M(x_new) - M(x)|^2), target x

`fast` adds the same J of crops of half the side whose whole noise is where an attack on a picture would gather it, each
times local / budget in epsilons, by area.

Here x_new has some of the crops attacked, t is x_new or with `clean_target` x, and w is `attacked` for an attacked
crop and 1 for a clean one. `step` makes up for what qualities cost, as in training (`losses.rate_distortion`). A mean
absolute error needs no lambda beside it: where training puts the network, its slope against J is about
pi * lambda * 255^2 * mean |e|, which goes as 1 / step; at quality 4 and 33 dB it is 47 bits per pixel, so a `rate` of
1/47 = 0.02 trades rate for distortion as training did.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from robustcodec.errors import TrainingError
from robustcodec.lab.adversaries import Adversary, adversary_of, drawn, local_attack
from robustcodec.lab.dead_zones import zones_of
from robustcodec.lab.losses import Batch, Loss, Terms, rate_distortion
from robustcodec.lab.networks import Network
from robustcodec.lab.recipe import Hardening, Method
from robustcodec.lab.smoothness import smoothness

Rate = Callable[[Network, Batch], Tensor]
"""Bits per pixel (B,) that a batch's clean crops should cost."""


def loss_of(hardening: Hardening | None, teacher: Network | None) -> Loss:
    """Give the loss of a run: rate and distortion alone, or a hardening one. `teacher` is on the device that trains.

    Raises TrainingError if the loss needs a teacher and there is none.
    """
    if hardening is None:
        return rate_distortion
    if hardening.method is Method.TEACHER:
        return teacher_loss(hardening)
    adversary = adversary_of(hardening)
    if hardening.method is Method.MA2023:
        return ma2023_loss(adversary)
    if hardening.method is Method.FAST:
        return fast_loss(hardening, adversary)
    if not hardening.distil:
        return distilled_loss(hardening, adversary, None)
    if teacher is None:
        raise TrainingError("stage II needs the teacher that stage I trains; train it first, or set distil to false")
    return distilled_loss(hardening, adversary, rate_of(teacher))


def needs_teacher(hardening: Hardening | None) -> bool:
    """Whether a run learns from a teacher."""
    return hardening is not None and hardening.method is Method.DISTILLED and hardening.distil


def rate_of(teacher: Network) -> Rate:
    """Freeze a teacher and give what it pays, under the same kind of noise as the student."""
    teacher.requires_grad_(False)

    @torch.no_grad()
    def rate(network: Network, batch: Batch) -> Tensor:
        y_bits, z_bits = teacher.code_length(teacher.analyse(batch.x), batch.step, batch.quantisers()[0])
        return (y_bits + z_bits) / _pixels(batch)

    return rate


def teacher_loss(hardening: Hardening) -> Loss:
    """Stage I (equation 2): rate and distortion, and smooth_loss."""

    def loss(network: Network, batch: Batch) -> Terms:
        terms = rate_distortion(network, batch)
        smooth, figures = _smooth(network, batch, hardening)
        return Terms(terms.loss + hardening.teacher_smooth * (batch.step * smooth).mean(), {**terms.figures, **figures})

    return loss


def distilled_loss(hardening: Hardening, adversary: Adversary, teacher: Rate | None) -> Loss:
    """Stage II (equations 3 to 5). Without a teacher the rate itself stands for its distance from the teacher's."""

    def loss(network: Network, batch: Batch) -> Terms:
        new = dataclasses.replace(batch, x=adversary(network, batch))
        coded = network(new.x, new.step, *new.quantisers())
        target = batch.x if hardening.clean_target else new.x
        error = (target - coded.x_hat).abs().mean((1, 2, 3))
        bpp = coded.bits / _pixels(batch)
        distance = bpp if teacher is None else (teacher(network, batch) - bpp).abs()
        figures = {"error": error.mean(), "distance": distance.mean(), **_apart(batch, new, bpp, coded.x_hat)}
        total = error + hardening.rate * batch.step * distance
        if hardening.smooth:
            smooth, more = _smooth(network, new, hardening)
            total, figures = total + hardening.smooth * batch.step * smooth, {**figures, **more}
        return Terms(total.mean(), figures)

    return loss


def ma2023_loss(adversary: Adversary) -> Loss:
    """Plain adversarial training as in Ma2023's code: what is attacked is its own target."""

    def loss(network: Network, batch: Batch) -> Terms:
        return rate_distortion(network, dataclasses.replace(batch, x=adversary(network, batch)))

    return loss


def fast_loss(hardening: Hardening, adversary: Adversary) -> Loss:
    """Ours: rate and distortion with clean targets, so noise is not worth its bits."""
    zones = zones_of(hardening)

    def loss(network: Network, batch: Batch) -> Terms:
        new = dataclasses.replace(batch, x=adversary(network, batch))
        coded = network(new.x, new.step, *new.quantisers(), zones)
        bpp = coded.bits / _pixels(batch)
        slope = batch.lagrangian * 255**2
        cost = bpp + slope * (coded.x_hat - batch.x).square().mean((1, 2, 3))
        weight = torch.where(_changed(batch, new), hardening.attacked, 1.0)
        figures = {"cost": cost.mean(), **_apart(batch, new, bpp, coded.x_hat)}
        total = weight * cost
        if hardening.stability:
            # neither is rounded: noise of two roundings would hide what they differ by
            decoded, clean = (network.synthesise(network.analyse(x)) for x in (new.x, batch.x))
            apart = (decoded - clean).square().mean((1, 2, 3))
            total, figures = total + hardening.stability * slope * apart, {**figures, "apart": apart.mean()}
        if hardening.smooth:
            smooth, more = _smooth(network, new, hardening)
            total, figures = total + hardening.smooth * smooth, {**figures, **more}
        result = (batch.step * total).mean()
        if hardening.local_share:
            local, more = _local(network, batch, hardening)
            result, figures = result + local, {**figures, **more}
        return Terms(result, figures)

    return loss


def _local(network: Network, batch: Batch, hardening: Hardening) -> tuple[Tensor, dict[str, Tensor]]:
    """What locally attacked cuts cost, as a share of a batch's loss, and MSE by noise for the log."""
    cuts = local_attack(network, batch, hardening)
    if not len(cuts.clean):  # the cuts are in other processes' parts
        return batch.x.new_zeros(()), {"local_gain": batch.x.new_zeros(())}
    coded = network(cuts.noisy, cuts.step, drawn(cuts.rounding), drawn(cuts.rounding))
    mse = (coded.x_hat - cuts.clean).square().mean((1, 2, 3))
    height, width = cuts.clean.shape[2:]
    cost = coded.bits / (height * width) + cuts.lagrangian * 255**2 * mse
    share = height * width / batch.x[:, 0].numel()
    energy = (cuts.noisy - cuts.clean).square().mean((1, 2, 3))
    return (cuts.step * hardening.local / cuts.budget * cost).sum() * share, {"local_gain": (mse / energy).mean()}


def _smooth(network: Network, batch: Batch, hardening: Hardening) -> tuple[Tensor, dict[str, Tensor]]:
    """smooth_loss of each crop, (B,), and its terms for the log."""
    found = smoothness(network, batch, bpp=hardening.smooth_bpp > 0, latents=hardening.smooth_latents > 0)
    total = hardening.smooth_bpp * found.bpp + hardening.smooth_latents * found.latents
    return total, {"smooth_bpp": found.bpp.mean(), "smooth_latents": found.latents.mean()}


def _apart(batch: Batch, new: Batch, bpp: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
    """What clean and attacked crops cost, each as a mean over its kind; a kind that is absent counts as 0."""
    mse = (x_hat - batch.x).square().mean((1, 2, 3))
    changed = _changed(batch, new)
    figures: dict[str, Tensor] = {}
    for name, kind in (("", ~changed), ("attacked_", changed)):
        count = kind.sum().clamp(min=1)
        figures |= {f"{name}bpp": (bpp * kind).sum() / count, f"{name}mse": (mse * kind).sum() / count}
    return figures


def _changed(batch: Batch, new: Batch) -> Tensor:
    """Which crops were attacked, (B,)."""
    return (batch.x != new.x).flatten(1).any(1)


def _pixels(batch: Batch) -> int:
    return batch.x.shape[2] * batch.x.shape[3]
