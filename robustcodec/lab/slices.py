"""A training run on a machine that is lent in slices: what travels there, one slice of training, what comes back.

plan.json                 the recipe and the number of slices it is spread over, from which its steps follow
crops.tar                 training crops
validation.tar            validation crops
progress.json             steps, seconds and slices done
weights.safetensors       weights, average.safetensors their average: float16
log.jsonl                 the log so far
teacher.safetensors       weights that the run learns from, if it does: float16

A slice leaves the plan, progress.json, both weights and the log. If the machine and its working folder were kept, the
next slice goes on from the exact state there; else with a fresh optimiser from what was brought along.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from robustcodec.errors import TrainingError
from robustcodec.lab.architectures import make_network
from robustcodec.lab.checkpoints import network_of
from robustcodec.lab.crops import unpack_crops
from robustcodec.lab.data import Pool, centre_crops
from robustcodec.lab.hardening import loss_of, needs_teacher
from robustcodec.lab.losses import Loss
from robustcodec.lab.networks import Network
from robustcodec.lab.recipe import Recipe
from robustcodec.lab.runs import LOG, Run, Settings, State, default_device
from robustcodec.lab.training import Progress, fit, seconds_per_step

_PLAN, _PROGRESS = "plan.json", "progress.json"
_CROPS, _VALIDATION = "crops.tar", "validation.tar"
_WEIGHTS, _AVERAGE, _TEACHER = "weights.safetensors", "average.safetensors", "teacher.safetensors"
_LEFT = (_PLAN, _PROGRESS, _WEIGHTS, _AVERAGE, LOG)
"""What a slice leaves."""
_PACKED = (*_LEFT, _CROPS, _VALIDATION)
"""What a slice needs."""

_SAVE_SECONDS = 60.0
_REPORT_SECONDS = 20.0
_MEASURE_SECONDS = 20.0
_TRUSTED = 0.95
"""Share of the time that the schedule counts on: validations, checkpoints and a slower moment take the rest."""

_HALF_FROM = 4096
"""Smaller tensors stay in float32: they weigh nothing, and tails of densities do not fit into float16."""

Announce = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained, and over how many slices."""

    recipe: Recipe
    slices: int
    parent: str
    """What the run began with."""
    steps: int | None = None
    """Steps of the run; else as many as fit into the slices."""

    def to_json(self) -> bytes:
        """Write as JSON."""
        document = {**dataclasses.asdict(self), "recipe": json.loads(self.recipe.to_json())}
        return (json.dumps(document, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Plan":
        """Read what to_json wrote."""
        try:
            document = json.loads(data)
            return cls(**{**document, "recipe": Recipe.from_json(json.dumps(document["recipe"]))})
        except (ValueError, TypeError, KeyError) as error:
            raise TrainingError(f"{_PLAN} cannot be read ({error}); pack the run again") from error


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a run has come."""

    step: int = 0
    seconds: float = 0.0
    slices: int = 0

    def to_json(self) -> bytes:
        """Write as JSON."""
        return (json.dumps(dataclasses.asdict(self)) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Standing":
        """Read what to_json wrote."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise TrainingError(f"{_PROGRESS} cannot be read ({error}); pack the run again") from error


def new_run(
    plan: Plan,
    weights: Mapping[str, Tensor],
    crops: bytes,
    validation: bytes,
    teacher: Mapping[str, Tensor] | None = None,
) -> dict[str, bytes]:
    """Gather the files of a run that begins: archives of crops, the weights it begins with, and its teacher's."""
    check_teacher(plan.recipe, teacher)
    half = _half(weights)
    return {
        **({} if teacher is None else {_TEACHER: _half(teacher)}),
        _PLAN: plan.to_json(),
        _CROPS: crops,
        _VALIDATION: validation,
        _PROGRESS: Standing().to_json(),
        _WEIGHTS: half,
        _AVERAGE: half,
        LOG: b"",
    }


def check_teacher(recipe: Recipe, teacher: Mapping[str, Tensor] | None) -> None:
    """Raise TrainingError if a recipe that learns from a teacher has none, or one that does not has one."""
    if needs_teacher(recipe.hardening) and teacher is None:
        raise TrainingError("the recipe learns from a teacher; name one with --teacher")
    if teacher is not None and not needs_teacher(recipe.hardening):
        raise TrainingError("the recipe learns from no teacher; leave --teacher out")


def next_slice(pack: Mapping[str, bytes], outcome: Mapping[str, bytes]) -> dict[str, bytes]:
    """Gather the files of the next slice, from those of an earlier one and what it left."""
    _check_outcome(outcome)
    if outcome[_PLAN] != pack.get(_PLAN):
        raise TrainingError("what came back belongs to another run than the pack; name the folders of one run")
    return {**pack, **{name: outcome[name] for name in _LEFT}}


def averaged_weights(outcome: Mapping[str, bytes]) -> bytes:
    """Give the averaged weights that a slice left, as a safetensors file."""
    _check_outcome(outcome)
    return outcome[_AVERAGE]


def _check_outcome(outcome: Mapping[str, bytes]) -> None:
    lacking = [name for name in _LEFT if name not in outcome]
    if lacking:
        raise TrainingError(f"what came back lacks {', '.join(lacking)}; name the folder that a slice left")


def train_slice(
    pack: Mapping[str, bytes],
    work: Path,
    *,
    until: float,
    slice_seconds: float,
    slices_left: int | None,
    record: bool,
    announce: Announce,
    begin: Callable[[], None] = lambda: None,
) -> None:
    """Train in the folder `work` to the time `until` (time.monotonic()) or to the end of the plan.

    Unless the plan says how many steps it has, the time of one is measured first, so that its schedule ends with its
    last slice. `slices_left`, this one included, is the plan's own count unless given. Later slices are taken to
    lose as much of their `slice_seconds` to preparations as this one. `begin` is called before the first step.
    """
    if slices_left is not None and slices_left < 1:
        raise TrainingError(
            f"with {slices_left} slices left there is nothing to train; this one counts, so say 1 or more"
        )
    _check_pack(pack, _PACKED)
    plan = Plan.from_json(pack[_PLAN])
    recipe = plan.recipe
    if needs_teacher(recipe.hardening):
        _check_pack(pack, (_TEACHER,))
    run, standing = _begin(pack, plan, work, announce)
    state = run.load()
    if state is None:
        raise TrainingError(f"{work} holds no state; delete it and start the slice again")
    left = plan.slices - standing.slices if slices_left is None else slices_left
    if left < 1:
        raise TrainingError(f"all {plan.slices} slices of the plan are done; say how many more to train")
    device = default_device()
    pool = Pool.of(unpack_crops(pack[_CROPS]), max(phase.crop for phase in recipe.phases), device)
    pictures = unpack_crops(pack[_VALIDATION])
    side = min(picture.shape[0] for picture in pictures) // Network.stride * Network.stride
    validation = centre_crops(pictures, side)
    announce(f"{len(pool.heights)} training crops and {len(validation)} for validation on {device}")
    network = make_network(recipe.arch, recipe.channels).to(device)
    network.load_state_dict(state.weights)
    loss = _loss(pack, recipe, device)
    if plan.steps is None:
        budget = min(_MEASURE_SECONDS, (until - time.monotonic()) / 10)
        seconds = seconds_per_step(recipe, network, loss, pool, budget, record=record)
        training = max(0.0, until - time.monotonic())
        steps = state.step + max(1, int(_TRUSTED * training * left / seconds))
        announce(f"{seconds * 1000:.2f} ms a step; {training:.0f} s of {slice_seconds:.0f} s are for training")
    else:
        steps = plan.steps
    announce(f"step {state.step} of {steps}, {left} slices left")
    recipe = dataclasses.replace(recipe, steps=steps)
    run.create(dataclasses.replace(run.settings(), recipe=recipe), state)
    report = _reporter(announce)
    begin()
    fit(
        run,
        recipe,
        state,
        network,
        loss,
        pool,
        validation,
        report,
        until=until,
        save_every=_SAVE_SECONDS,
        record=record,
    )


def _check_pack(pack: Mapping[str, bytes], names: Iterable[str]) -> None:
    lacking = [name for name in names if name not in pack]
    if lacking:
        raise TrainingError(f"the pack lacks {', '.join(lacking)}; name the folder that gpu_pack.py wrote")


def _loss(pack: Mapping[str, bytes], recipe: Recipe, device: torch.device) -> Loss:
    if not needs_teacher(recipe.hardening):
        return loss_of(recipe.hardening, None)
    teacher = network_of(_whole(pack[_TEACHER]), "the teacher of the pack")
    return loss_of(recipe.hardening, teacher.to(device).to(memory_format=torch.channels_last))


def finish_slice(pack: Mapping[str, bytes], work: Path) -> dict[str, bytes]:
    """Count the slice as done in the folder `work` and gather what it leaves; empty if it did not train at all.

    A folder that holds another plan's run is left as it is.
    """
    run = Run(work)
    state = run.load() if run.exists and _holds(work, pack[_PLAN]) else None
    if state is None:
        return {}
    path = work / _PROGRESS
    # a kept folder may be slices ahead of the pack
    before = Standing.from_json(path.read_bytes())
    if state.step <= before.step:
        return {}
    standing = Standing(step=state.step, seconds=state.seconds, slices=before.slices + 1)
    path.write_bytes(standing.to_json())
    return {
        _PLAN: pack[_PLAN],
        _PROGRESS: standing.to_json(),
        _WEIGHTS: _half(state.weights),
        _AVERAGE: _half(state.average),
        LOG: (work / LOG).read_bytes(),
    }


def _begin(pack: Mapping[str, bytes], plan: Plan, work: Path, announce: Announce) -> tuple[Run, Standing]:
    """Find the run in the kept working folder, or lay it out from the pack."""
    run = Run(work)
    brought = Standing.from_json(pack[_PROGRESS])
    if run.exists and _holds(work, pack[_PLAN]):
        kept = Standing.from_json((work / _PROGRESS).read_bytes())
        if kept.slices >= brought.slices:
            announce("going on from the state kept on this machine")
            return run, kept
    if work.exists():
        if not (work / _PLAN).is_file() and (not work.is_dir() or any(work.iterdir())):
            raise TrainingError(f"{work} holds something other than a slice's state; name another folder with --work")
        shutil.rmtree(work)
    weights, average = _whole(pack[_WEIGHTS]), _whole(pack[_AVERAGE])
    settings = Settings(recipe=plan.recipe, data=_CROPS, validation=_VALIDATION, parent=plan.parent, threads=1)
    work.mkdir(parents=True)
    (work / _PLAN).write_bytes(pack[_PLAN])
    (work / _PROGRESS).write_bytes(brought.to_json())
    (work / LOG).write_bytes(pack[LOG])
    run.create(settings, State(brought.step, brought.seconds, weights, average, {}))
    announce(f"going on from step {brought.step}, which was brought along, with a fresh optimiser")
    return run, brought


def _holds(work: Path, plan: bytes) -> bool:
    return (work / _PLAN).is_file() and (work / _PLAN).read_bytes() == plan


def _reporter(announce: Announce) -> Callable[[Progress], None]:
    """Report now and then: a GPU takes hundreds of steps a second."""
    last = -float("inf")

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if "validation_J" in progress.figures or now - last >= _REPORT_SECONDS:
            last = now
            figures = ", ".join(f"{name} {value:.4g}" for name, value in progress.figures.items())
            announce(f"step {progress.step} of {progress.steps}: {figures}")

    return report


def _half(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise with large tensors in float16."""
    kept: dict[str, Any] = {
        name: (tensor.half() if tensor.numel() >= _HALF_FROM else tensor.float()).contiguous()
        for name, tensor in tensors.items()
    }
    return save(kept)


def _whole(data: bytes) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in load(data).items()}
