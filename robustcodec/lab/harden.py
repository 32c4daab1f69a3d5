"""`robustcodec harden`: the stages of a plan, each a run of its own, and the bundle that they end in.

RUN/teacher    the run of stage I
RUN/student    the run of stage II
RUN/model      the bundle of the last stage that is done
"""

import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from robustcodec import bundle
from robustcodec.bundle import MANIFEST
from robustcodec.errors import ModelNotFound, TrainingError
from robustcodec.lab.checkpoints import load_weights, network_of
from robustcodec.lab.data import Pool, picture_files, read_pictures, reduced
from robustcodec.lab.export import Exported, export_run
from robustcodec.lab.hardening import loss_of, needs_teacher
from robustcodec.lab.hardening_recipes import Plan
from robustcodec.lab.progress import Reporter
from robustcodec.lab.recipe import Method, Recipe
from robustcodec.lab.runs import Run, default_device
from robustcodec.lab.train import Announce, Order, train
from robustcodec.lab.training import Stop, seconds_per_step

MODEL = "model"
"""Name of the bundle inside a run of `harden`."""

_VARIANTS = {Method.TEACHER: "teacher", Method.MA2023: "ma2023"}
_MEASURED_ATTACK_STEPS = (1, 3)
_MEASURED_CROPS = 2
_SAMPLED_PICTURES = 8


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to harden: the weights `init`, by `plan`, on the pictures of `data`, in the folder `run`.

    `hours` replaces the steps of the plan's stages by what fits into equal parts of them.
    """

    run: Path
    data: Path
    validation: Path | None
    init: Path
    plan: Plan
    hours: float | None = None


def harden(request: Request, announce: Announce, stop: Stop = lambda: False) -> Exported | None:
    """Train the stages that are not done yet and export the last; None if `stop` ended it before.

    The same request again goes on where it was interrupted. Raises TrainingError.
    """
    stages = request.plan.stages()
    for name, recipe in stages:
        folder = request.run / name
        order = Order(
            recipe=recipe,
            data=request.data,
            validation=request.validation,
            init=request.init,
            hours=None if request.hours is None else request.hours / len(stages),
            teacher=_teacher(request.run) if needs_teacher(recipe.hardening) else None,
        )
        announce(f"stage {'I' if name == 'teacher' else 'II'}: {folder}")
        with Reporter(folder, announce) as reporter:
            if not train(Run(folder), order, reporter.report, announce, stop):
                return None
    name, recipe = stages[-1]
    assert recipe.hardening is not None
    variant = _VARIANTS.get(recipe.hardening.method, "robust")
    return export_run(request.run / name, request.run / MODEL, _id(request.run), variant, None, announce)


def find_weights(name: str | None) -> Path:
    """Where the weights to harden are: an installed model's id or fingerprint, a path, or the ordinary hyper model."""
    if name is None:
        return bundle.find(architecture="hyper", variant="base").path
    if os.sep not in name:
        try:
            return bundle.find(name).path
        except ModelNotFound:
            if not Path(name).exists():
                raise
    return Path(name)


def qualities_of(source: Path) -> tuple[float, float]:
    """The qualities that weights were trained for: what their run or bundle says, else quality 4 alone.

    A checkpoint from elsewhere has one step, which counts as that of quality 4.
    """
    if (source / MANIFEST).is_file():
        recipe = bundle.open_bundle(source).manifest.provenance.get("recipe")
        if isinstance(recipe, dict) and {"quality_low", "quality_high"} <= set(recipe):
            return float(recipe["quality_low"]), float(recipe["quality_high"])
    if Run(source).exists:
        trained = Run(source).settings().recipe
        return trained.quality_low, trained.quality_high
    return 4.0, 4.0


def channels_of(weights: dict[str, Tensor], source: Path) -> tuple[int, int]:
    """N and M of weights. Raises TrainingError if they are no network's that can be hardened."""
    network = network_of(weights, str(source))
    return network.n, network.m


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
    weights = load_weights(request.init)
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    stages = request.plan.stages()
    hours = {}
    for name, recipe in stages:
        if request.hours is None:
            announce(f"measuring a step of the {name}")
            hours[name] = recipe.steps * _seconds(recipe, weights, request.init) / 3600
        else:
            hours[name] = request.hours / len(stages)
    # a state holds weights, their average and two moments; while one is replaced there are two
    disk = size * (1 + sum(9 if needs_teacher(recipe.hardening) else 8 for _, recipe in stages))
    return Estimate(hours=hours, disk=disk, memory=_peak() + _pictures_in_memory(picture_files(request.data), announce))


def _seconds(recipe: Recipe, weights: dict[str, Tensor], source: Path) -> float:
    """Seconds of a step of the recipe's largest batch."""
    device = default_device()
    network = network_of(weights, str(source)).to(device)
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


def _pictures_in_memory(files: Sequence[Path], announce: Announce) -> int:
    """Bytes that the pictures take while they are gathered, from a few of them."""
    some = files[:: max(1, len(files) // _SAMPLED_PICTURES)]
    held = sum(version.nbytes for picture in read_pictures(some, announce) for version in reduced(picture))
    return 2 * held * len(files) // len(some)


def _peak() -> int:
    """Bytes of memory that this process has had at most; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _teacher(run: Path) -> Path:
    teacher = Run(run / "teacher")
    state = teacher.load() if teacher.exists else None
    if state is None or state.step < teacher.settings().recipe.steps:
        raise TrainingError(f"stage II learns from {teacher.folder}, which is not done; run --stage 1 or both first")
    return teacher.folder


def _id(run: Path) -> str:
    """Make an id of a folder's name."""
    return re.sub(r"[^a-z0-9._-]+", "-", run.resolve().name.lower()).strip("._-")[:64] or "hardened"


def in_units(size: int) -> str:
    """Say bytes in gigabytes."""
    return f"{size / 1e9:.1f} GB"
