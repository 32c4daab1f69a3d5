"""What a hardening will take on this machine: hours, disk and memory, measured by a few steps."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from robustcodec.lab.architectures import make_network
from robustcodec.lab.checkpoints import load_weights, network_of
from robustcodec.lab.data import Pool, picture_sizes, pool_bytes
from robustcodec.lab.hardening import loss_of, needs_teacher
from robustcodec.lab.hardening_request import Request
from robustcodec.lab.recipe import Recipe
from robustcodec.lab.runs import default_device, threads_for, use_threads
from robustcodec.lab.train import Announce, split_files
from robustcodec.lab.training import seconds_per_step

_MEASURED_ATTACK_STEPS = (1, 3)
_MEASURED_CROPS = 2


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a plan will take, measured by a few steps on noise."""

    hours: dict[str, float]
    """For each stage."""
    disk: int
    """Bytes of the folder while it is largest."""
    memory: int
    """Bytes of main memory: this process's peak while it measured, and the pictures."""


def estimate(request: Request, announce: Announce) -> Estimate:
    """Measure what the plan would take on this machine; an attack of many steps is measured by few of them."""
    use_threads(threads_for(None))
    weights = load_weights(request.init)
    training, _ = split_files(request.data, request.validation)
    stages = request.plan.stages()
    hours = {}
    for name, recipe in stages:
        if request.hours is None:
            announce(f"measuring a step of the {name}")
            hours[name] = recipe.steps * _seconds(recipe, weights, request.init) / 3600
        else:
            hours[name] = request.hours / len(stages)
    # a state holds weights, their average and two moments; while one is replaced there are two
    disk = _bytes(weights)
    for _, recipe in stages:
        disk += _bytes(make_network(recipe.arch, recipe.channels).state_dict()) * (
            8 + len(recipe.candidates()) + needs_teacher(recipe.hardening)
        )
    crop = max(phase.crop for _, recipe in stages for phase in recipe.phases)
    pictures = 2 * pool_bytes(picture_sizes(training), crop)  # gathered, then copied together
    return Estimate(hours=hours, disk=disk, memory=_peak() + pictures)


def _bytes(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


def _seconds(recipe: Recipe, weights: dict[str, Tensor], source: Path) -> float:
    """Seconds of a step of the recipe's largest batch."""
    device = default_device()
    network = make_network(recipe.arch, recipe.channels).to(device)
    phase = max(recipe.phases, key=lambda phase: phase.batch * phase.crop**2)
    noise = np.random.default_rng(0).integers(0, 256, (phase.crop, phase.crop, 3), np.uint8)
    pool = Pool.of([noise], phase.crop, device)
    hardening = recipe.hardening
    assert hardening is not None
    psnr, bpp = hardening.attacks(phase.batch)
    # crops that are not attacked all cost the same
    crops = phase.batch if psnr + bpp else min(phase.batch, _MEASURED_CROPS)
    recipe = dataclasses.replace(recipe, phases=(dataclasses.replace(phase, share=1.0, batch=crops),))

    def measured(recipe: Recipe) -> float:
        teacher = network_of(weights, str(source)).to(device) if needs_teacher(recipe.hardening) else None
        loss = loss_of(recipe.hardening, teacher)
        return seconds_per_step(recipe, network, loss, pool, 0.0, record=False) * phase.batch / crops

    few, more = _MEASURED_ATTACK_STEPS
    if not psnr + bpp or max(hardening.psnr_steps, hardening.bpp_steps) <= more:
        return measured(recipe)
    mean = (psnr * hardening.psnr_steps + bpp * hardening.bpp_steps) / (psnr + bpp)
    first, second = (
        measured(
            dataclasses.replace(recipe, hardening=dataclasses.replace(hardening, psnr_steps=steps, bpp_steps=steps))
        )
        for steps in (few, more)
    )
    return first + max(0.0, second - first) / (more - few) * (mean - few)


def _peak() -> int:
    """Bytes of memory that this process has had at most; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
